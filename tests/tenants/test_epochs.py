"""An epoch is version and content, and nothing else."""

import hashlib

import pytest

from extauthz.tenants.epochs import VERSION_MAX, epoch_of, version_of


def test_epoch_is_version_and_the_first_64_bits_of_sha256() -> None:
    assert epoch_of(7, b"document") == b"7." + hashlib.sha256(b"document").hexdigest()[:16].encode()


def test_epoch_changes_with_the_version_and_with_every_byte() -> None:
    documents = [b"document", b"documenu", b"documen", b"document\x00", b""]
    epochs = {epoch_of(version, data) for version in (1, 2, VERSION_MAX) for data in documents}
    assert len(epochs) == 15


@pytest.mark.parametrize("version", [1, 9, 10, VERSION_MAX])
def test_version_of_an_epoch_is_the_one_it_was_made_of(version: int) -> None:
    assert version_of(epoch_of(version, b"x")) == version


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"1",
        b"1.",
        b"0.0123456789abcdef",
        b"01.0123456789abcdef",
        b"1.0123456789ABCDEF",
        b"1.0123456789abcdef\n",
        b"-1.0123456789abcdef",
    ],
)
def test_what_is_no_epoch_is_older_than_every_document(junk: bytes) -> None:
    assert version_of(junk) == 0
