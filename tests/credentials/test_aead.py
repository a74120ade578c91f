"""The cipher alone: vectors of a second source, and what it refuses by length."""

import json
from pathlib import Path
from typing import Any

import pytest

from extauthz.credentials import aead
from extauthz.credentials.errors import NotAuthentic

FILE = Path(__file__).parents[1] / "vectors" / "aes_256_gcm.json"
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())["tests"]


def _bytes(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


@pytest.mark.prove(25)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['tcId']}-{vector['result']}")
def test_every_vector_is_judged_as_its_source_says(vector: dict[str, Any]) -> None:
    key, nonce, associated, plain, ciphertext, tag = _bytes(vector, "key", "iv", "aad", "msg", "ct", "tag")
    if vector["result"] == "valid":
        assert ciphertext + tag == aead.seal(key, nonce, plain, associated)
        assert plain == aead.unseal(key, nonce, ciphertext + tag, associated)
    else:
        with pytest.raises(NotAuthentic):
            aead.unseal(key, nonce, ciphertext + tag, associated)


def test_the_vector_file_holds_both_verdicts() -> None:
    verdicts = [vector["result"] for vector in VECTORS]
    assert {verdict: verdicts.count(verdict) for verdict in set(verdicts)} == {"valid": 27, "invalid": 27}


@pytest.mark.parametrize("length", [0, 1, 11, 13, 16])
def test_a_nonce_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(NotAuthentic):
        aead.unseal(bytes(32), bytes(length), bytes(40), b"")
    with pytest.raises(ValueError, match="12 bytes"):
        aead.seal(bytes(32), bytes(length), b"", b"")


@pytest.mark.parametrize("length", [0, 1, 15])
def test_less_than_a_tag_is_refused(length: int) -> None:
    with pytest.raises(NotAuthentic):
        aead.unseal(bytes(32), bytes(12), bytes(length), b"")


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_an_error_and_no_weaker_cipher(length: int) -> None:
    for use in (aead.seal, aead.unseal):
        with pytest.raises(ValueError, match="32 bytes"):
            use(bytes(length), bytes(12), bytes(40), b"")


def test_derived_bytes_are_those_of_rfc_5869() -> None:
    """Appendix A.3: HKDF-SHA-256 without salt and info."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert expected == aead.derive(b"\x0b" * 22, b"", 42).hex()


def test_keys_and_nonces_are_fresh() -> None:
    assert len({aead.random_key() for _ in range(1_000)}) == 1_000
    assert len({aead.random_nonce() for _ in range(1_000)}) == 1_000
