"""The form of an API key: `xa_<env>_<id>_<secret><checksum>`. docs/formats/api-key.md has the table.

The prefix and the checksum let secret scanners, and us, tell a key from junk without asking anybody. The id is public: it names
the key in commands and logs. Of the key itself only the SHA-256 digest is stored, and the whole digest is compared.
"""

import base64
import hashlib
import re
import secrets
import zlib

from extauthz.errors import Malformed
from extauthz.secret import Secret

#: 10 random bytes in base32.
ID_LENGTH = 16
#: log2(62**32) = 190.5 random bits.
SECRET_LENGTH = 32
#: 62**6 > 2**32: every CRC-32 fits.
CHECKSUM_LENGTH = 6
#: xa_ + env + _ + id + _ + secret + checksum
KEY_LENGTH_MAX = 3 + 8 + 1 + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#: Two digits at a time: a checksum costs 0.28 us this way, 0.62 us digit by digit.
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_PAIR = 62**2

_env_matches = re.compile(r"[a-z]{1,8}").fullmatch
_id_matches = re.compile(r"[a-z2-7]{16}").fullmatch
_key_matches = re.compile(r"xa_[a-z]{1,8}_([a-z2-7]{16})_[0-9A-Za-z]{38}").fullmatch


def _checksum(body: bytes) -> str:
    """CRC-32 of everything before it, six digits of base 62, most significant first."""
    crc = zlib.crc32(body)
    return _PAIRS[crc // (_PAIR * _PAIR)] + _PAIRS[crc // _PAIR % _PAIR] + _PAIRS[crc % _PAIR]


def mint(env: str) -> tuple[Secret, str, bytes]:
    """A new key, its id and its digest. Nothing is stored.

    Args:
        env: what the key is for, such as `live` or `test`, one to eight letters a-z. Raises Malformed.
    """
    if not _env_matches(env):
        raise Malformed("an environment in a key is one to eight letters a-z, such as live or test")
    key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    body = f"xa_{env}_{key_id}_{''.join(secrets.choice(_DIGITS) for _ in range(SECRET_LENGTH))}".encode()
    key = body + _checksum(body).encode()
    return Secret(key), key_id, digest_of(key)


def key_id_of(key: str) -> str:
    """The id inside a key, with no I/O. Raises Malformed, which says nothing of the key, for everything that `mint` cannot make.

    HOT: 0.7 us. The pattern bounds the input at 67 characters before anything is copied.
    """
    match = _key_matches(key)
    if match is None or _checksum(key[:-6].encode()) != key[-6:]:
        raise Malformed("not an API key")
    return match[1]


def digest_of(key: str | bytes) -> bytes:
    """SHA-256 of the whole key, 32 bytes: all of it that is stored anywhere."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def is_key_id(text: str) -> bool:
    """Whether the text has the form of a key's id."""
    return _id_matches(text) is not None
