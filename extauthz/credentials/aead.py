"""AES-256-GCM and HKDF-SHA-256, and the only import of `cryptography`. It knows nothing of tenants, keys' ids or layouts.

AES-GCM does not commit to its key: one ciphertext can be made that opens under two. `envelope.py` adds the commitment.
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from extauthz.credentials.errors import NotAuthentic

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
#: NIST SP 800-38D section 8.3 allows one key 2**32 seals with random 96-bit nonces (a nonce repeats with a chance of 2**-33). We
#: stop at nine tenths of that, so that seals under way at the bound, or a counter that lost its last writes, stay below it.
SEALS_MAX = 3_865_470_566


def random_key() -> bytes:
    """A fresh key from the kernel."""
    return os.urandom(KEY_BYTES)


def random_nonce() -> bytes:
    """A fresh nonce from the kernel. One key may see at most `SEALS_MAX` of them."""
    return os.urandom(NONCE_BYTES)


def seal(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """The ciphertext with its tag behind it, `TAG_BYTES` longer than `plain`.

    Args:
        key: 32 bytes; 16 and 24 are a ValueError, not a weaker cipher.
        nonce: 12 bytes, never used before under this key.
        associated: what must be the same when it is opened; not contained in the result.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    return _cipher(key).encrypt(nonce, plain, associated)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """What `seal` was given. Raises NotAuthentic for anything else, whatever its length."""
    if len(nonce) != NONCE_BYTES or len(sealed) < TAG_BYTES:
        raise NotAuthentic("a nonce or a ciphertext has the wrong length")
    try:
        return _cipher(key).decrypt(nonce, sealed, associated)
    except InvalidTag as error:
        raise NotAuthentic("the tag does not fit") from error


def derive(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 without salt (RFC 5869): independent bytes for each `info`. `length` is 1 to 8,160."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(key)


def is_equal(left: bytes, right: bytes) -> bool:
    """Compared in constant time for one length."""
    return hmac.compare_digest(left, right)


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return AESGCM(key)
