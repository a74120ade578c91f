"""The epoch of a published document: what every admission compares, so that a change takes effect on the next request.

It is made of the document's version and bytes and of nothing else, so two documents with one epoch are one document, also after a
failover has lost a write and the version was given out again.
"""

import hashlib
import re

#: Hex digits of SHA-256 in an epoch: 64 bits, beside a version that must be equal too.
DIGEST_DIGITS = 16
#: Versions stay below what Lua's doubles hold exactly.
VERSION_MAX = 2**53 - 1

_EPOCH = re.compile(rb"([1-9][0-9]{0,15})\.[0-9a-f]{16}")


def epoch_of(version: int, data: bytes) -> bytes:
    """The epoch of a document, `<version>.<16 hex digits>`.

    Args:
        version: 1 to VERSION_MAX, the one inside the document.
        data: the document as it is stored.
    """
    return b"%d.%s" % (version, hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS].encode())


def version_of(epoch: bytes) -> int:
    """The version in an epoch; 0 when the bytes are no epoch, which is older than every document."""
    match = _EPOCH.fullmatch(epoch)
    return int(match[1]) if match else 0
