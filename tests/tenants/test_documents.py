"""What is read is what was written, and everything else is refused."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz import _pb
from extauthz.errors import Malformed
from extauthz.tenants.documents import (
    DOCUMENT_BYTES_MAX,
    KeyDocument,
    TenantDocument,
    decode_key,
    decode_tenant,
    encode_key,
    encode_tenant,
)
from extauthz.tenants.epochs import epoch_of

TENANT = TenantDocument(
    tenant_id="acme",
    version=3,
    is_active=True,
    plan="pro",
    subdomain="acme",
    limits=(("requests", 100, 60_000), ("burst", 10, 1_000)),
    secrets=(("openai", "default", 2), ("anthropic", "default", 1)),
    created_at_ms=1_700_000_000_000,
)
KEY = KeyDocument(
    key_id="abcdefghij234567",
    tenant_id="acme",
    version=1,
    is_active=True,
    digest=hashlib.sha256(b"key").digest(),
    scopes=("agents:orchestration", "voice:cloning"),
    providers=("openai",),
    models=("gpt-4o*",),
    networks=("10.0.0.0/8", "2001:db8::/32"),
    expires_at_ms=1_800_000_000_000,
    created_at_ms=1_700_000_000_000,
    name="the büro's key",
)

ids = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
milliseconds = st.integers(0, 2**53 - 1)
tenants = st.builds(
    TenantDocument,
    tenant_id=ids,
    version=st.integers(1, 2**53 - 1),
    is_active=st.booleans(),
    plan=st.just("") | names,
    subdomain=st.just("") | ids,
    limits=st.lists(
        st.tuples(names, st.integers(1, 2**31), st.integers(1_000, 366 * 86_400_000)), max_size=5, unique_by=lambda x: x[0]
    ).map(tuple),
    secrets=st.lists(st.tuples(names, names, st.integers(1, 2**32 - 1)), max_size=5, unique_by=lambda x: x[0]).map(tuple),
    created_at_ms=milliseconds,
)
keys = st.builds(
    KeyDocument,
    key_id=st.from_regex(r"[a-z2-7]{16}", fullmatch=True),
    tenant_id=ids,
    version=st.integers(1, 2**53 - 1),
    is_active=st.booleans(),
    digest=st.binary(min_size=32, max_size=32),
    scopes=st.lists(names, min_size=1, max_size=4, unique=True).map(tuple),
    providers=st.lists(names, max_size=4, unique=True).map(tuple),
    models=st.lists(st.from_regex(r"[A-Za-z0-9*][A-Za-z0-9*._:/@+-]{0,127}", fullmatch=True), max_size=4, unique=True).map(tuple),
    networks=st.lists(st.sampled_from(["0.0.0.0/0", "192.0.2.1/32", "::/0", "fd00::/8"]), unique=True).map(tuple),
    expires_at_ms=milliseconds,
    created_at_ms=milliseconds,
)


@given(tenants)
def test_a_tenant_is_read_as_it_was_written(document: TenantDocument) -> None:
    data = encode_tenant(document)
    assert decode_tenant(data) == msgspec.structs.replace(document, epoch=epoch_of(document.version, data))


@given(keys)
def test_a_key_is_read_as_it_was_written(document: KeyDocument) -> None:
    data = encode_key(document)
    assert decode_key(data) == msgspec.structs.replace(document, epoch=epoch_of(document.version, data))


def test_the_bytes_are_those_of_the_documented_format() -> None:
    message = _pb.TenantDocument.FromString(encode_tenant(TENANT))
    assert (message.tenant_id, message.version, message.status, message.plan) == ("acme", 3, 1, "pro")
    assert encode_tenant(TenantDocument(tenant_id="a", version=1, is_active=False)).hex() == "0a016110011802"


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": ""},
        {"tenant_id": "Acme"},
        {"tenant_id": "-acme"},
        {"tenant_id": "acme-"},
        {"tenant_id": "a" * 64},
        {"tenant_id": "acme\n"},
        {"tenant_id": "a/b"},
        {"version": 0},
        {"version": 2**53},
        {"plan": "Pro plan"},
        {"subdomain": "a.b"},
        {"limits": (("", 1, 1_000),)},
        {"limits": (("a:b", 1, 1_000),)},
        {"limits": (("a", 0, 1_000),)},
        {"limits": (("a", 2**31 + 1, 1_000),)},
        {"limits": (("a", 1, 999),)},
        {"limits": (("a", 1, 366 * 86_400_000 + 1),)},
        {"limits": (("a", 1, 1_000), ("a", 2, 1_000))},
        {"limits": tuple((f"a{number}", 1, 1_000) for number in range(101))},
        {"secrets": (("openai", "default", 0),)},
        {"secrets": (("openai", "", 1),)},
        {"secrets": (("Open AI", "default", 1),)},
        {"secrets": (("openai", "default", 1), ("openai", "other", 1))},
        {"created_at_ms": 2**53},
    ],
    ids=str,
)
def test_a_tenant_outside_the_rules_is_neither_written_nor_read(change: dict[str, Any]) -> None:
    bad = msgspec.structs.replace(TENANT, **change)
    with pytest.raises(Malformed):
        encode_tenant(bad)
    message = _pb.TenantDocument(
        tenant_id=bad.tenant_id,
        version=bad.version,
        status=1,
        plan=bad.plan,
        subdomain=bad.subdomain,
        created_at_ms=bad.created_at_ms,
    )
    for name, count, window_ms in bad.limits:
        message.limits.add(name=name, count=count, window_ms=window_ms)
    for provider, name, version in bad.secrets:
        message.secrets.add(provider=provider, name=name, version=version)
    with pytest.raises(Malformed):
        decode_tenant(message.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": "abcdefghij23456"},
        {"key_id": "ABCDEFGHIJ234567"},
        {"tenant_id": ""},
        {"version": 0},
        {"digest": b""},
        {"digest": bytes(31)},
        {"digest": bytes(33)},
        {"scopes": ()},
        {"scopes": ("",)},
        {"scopes": ("agents orchestration",)},
        {"scopes": ("a", "a")},
        {"providers": ("",)},
        {"providers": ("OpenAI",)},
        {"models": ("",)},
        {"models": ("gpt 4",)},
        {"models": ("m" * 129,)},
        {"networks": ("10.0.0.1",)},
        {"networks": ("10.0.0.1/8",)},
        {"networks": ("10.0.0.0/33",)},
        {"networks": ("",)},
        {"networks": ("10.0.0.0/255.0.0.0",)},
        {"expires_at_ms": 2**53},
        {"name": "two\nlines"},
        {"name": "n" * 129},
    ],
    ids=str,
)
def test_a_key_outside_the_rules_is_neither_written_nor_read(change: dict[str, Any]) -> None:
    bad = msgspec.structs.replace(KEY, **change)
    with pytest.raises(Malformed):
        encode_key(bad)
    fields = {name: getattr(bad, name) for name in KEY.__struct_fields__ if name not in ("is_active", "epoch")}
    with pytest.raises(Malformed):
        decode_key(_pb.KeyDocument(status=1, **fields).SerializeToString())


@pytest.mark.parametrize("status", [0, 3, 255])
def test_a_status_that_is_not_known_is_not_active(status: int) -> None:
    tenant, key = _pb.TenantDocument.FromString(encode_tenant(TENANT)), _pb.KeyDocument.FromString(encode_key(KEY))
    tenant.status = key.status = status
    with pytest.raises(Malformed, match="status"):
        decode_tenant(tenant.SerializeToString())
    with pytest.raises(Malformed, match="status"):
        decode_key(key.SerializeToString())


def _taken(decode: Any, data: bytes) -> Any:
    try:
        return decode(data)
    except Malformed:
        return None


@pytest.mark.parametrize(
    ("decode", "data"), [(decode_tenant, encode_tenant(TENANT)), (decode_key, encode_key(KEY))], ids=["tenant", "key"]
)
def test_no_prefix_and_nothing_appended_is_taken_for_the_document(decode: Any, data: bytes) -> None:
    for end in range(len(data)):
        shorter = _taken(decode, data[:end])
        assert shorter is None or shorter.epoch != decode(data).epoch
    for extra in (b"\x00", data, data[:4], b"\x10\x05", b"\x18\x01", b"\xf8\x07\x01", b"\xc2\x3e\x00"):
        assert _taken(decode, data + extra) is None, extra
    assert _taken(decode, b"") is None


def test_a_field_of_a_newer_publisher_is_refused_not_ignored() -> None:
    """Field 500 could restrict the key: half of a document is none."""
    for decode, data in ((decode_tenant, encode_tenant(TENANT)), (decode_key, encode_key(KEY))):
        with pytest.raises(Malformed, match="unknown fields"):
            decode(data + b"\xa0\x1f\x01")


@pytest.mark.parametrize(
    ("decode", "data"), [(decode_tenant, encode_tenant(TENANT)), (decode_key, encode_key(KEY))], ids=["tenant", "key"]
)
def test_a_flipped_bit_is_refused_or_another_epoch(decode: Any, data: bytes) -> None:
    epoch = decode(data).epoch
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        document = _taken(decode, bytes(changed))
        assert document is None or document.epoch != epoch


@given(st.binary(max_size=200))
def test_junk_never_raises_anything_else(junk: bytes) -> None:
    for decode in (decode_tenant, decode_key):
        _taken(decode, junk)


def test_a_document_beyond_the_bound_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Malformed, match="size"):
        decode_key(b"\x0a" * (DOCUMENT_BYTES_MAX + 1))


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        KEY.is_active = False  # type: ignore[misc]
