"""The examples of docs/formats are what the code does."""

import hashlib
import re
from pathlib import Path

from extauthz.tenants.api_key import digest_of, key_id_of
from extauthz.tenants.documents import KeyDocument, TenantDocument, decode_key, decode_tenant

FORMATS = Path(__file__).parents[2] / "docs" / "formats"


def test_the_example_key_is_a_key() -> None:
    page = (FORMATS / "api-key.md").read_text()
    pattern = re.search(r"^\\bxa_.*$", page, re.MULTILINE)
    assert pattern
    key = re.findall(pattern[0], page)[0]
    assert key_id_of(key) == "abcdefghij234567"
    assert digest_of(key).hex() == "11ec285c354f7ef7aaeae6d05f02cb72af38470fb4cbc8e095b1864e2560c10c"
    assert digest_of(key).hex() in page


def test_the_example_documents_are_documents() -> None:
    page = (FORMATS / "documents.md").read_text()
    tenant, key = (bytes.fromhex(block) for block in re.findall(r"```\n([0-9a-f\n]+)```", page))
    assert decode_tenant(tenant) == TenantDocument(
        tenant_id="acme",
        version=3,
        epoch=b"3.1f8df2eba1841e24",
        is_active=True,
        plan="pro",
        limits=(("requests", 100, 60_000),),
        secrets=(("openai", "default", 2),),
        created_at_ms=1_700_000_000_000,
    )
    assert decode_key(key) == KeyDocument(
        key_id="abcdefghij234567",
        tenant_id="acme",
        version=1,
        epoch=b"1.a0828c0639742883",
        is_active=True,
        digest=hashlib.sha256(b"xa_live_abcdefghij234567_0123456789ABCDEFGHIJKLMNOPQRSTUV2sHVdp").digest(),
        scopes=("agents:voice",),
        models=("gpt-4o*",),
        networks=("10.0.0.0/8",),
        created_at_ms=1_700_000_000_000,
    )
    assert "`3.1f8df2eba1841e24`" in page
    assert "`1.a0828c0639742883`" in page
