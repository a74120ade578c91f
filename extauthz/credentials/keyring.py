"""Key-encryption keys (KEKs) by id, and the master key files they are read from.

A KEK is chosen by the id that an envelope names, never by trying one after the other. The first of a keyring seals, all of them
open: so a rotation is a new file put in front. What a file says wrong is told all at once, and never with a byte of its content.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from extauthz.credentials import aead
from extauthz.credentials.errors import UnknownKek
from extauthz.errors import BadConfig, Problem
from extauthz.secret import Secret

#: Hex digits of a KEK id. It is public: it stands in every envelope.
_ID_DIGITS = 16
#: An envelope has one byte for the length of the id.
_ID_BYTES_MAX = 255
#: A random key of 32 bytes has fewer different bytes than this with a chance below 2**-100.
_DIFFERENT_BYTES_MIN = 8
_ALLOWED = "64 hex digits (openssl rand -hex 32) or 32 raw bytes"
_log = logging.getLogger("extauthz.credentials")
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Kek(Protocol):
    """Wraps data keys. Local here; a vault's key can be another one, hence `async`."""

    @property
    def id(self) -> str:
        """1 to 255 ASCII letters and digits; two different keys never share one."""

    @property
    def seals_max(self) -> int:
        """How often it may wrap in its life."""

    async def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        """At most 65,535 bytes, from which `unwrap` makes the data key again. Raises Unavailable."""

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """The data key. Raises NotAuthentic when the bytes or `associated` differ from those of `wrap`; Unavailable."""


class LocalKek:
    """A KEK whose 32 bytes are in this process' memory. `wrapped` is nonce, ciphertext and tag: 60 bytes.

    Args:
        key: 32 bytes.
        kek_id: given when it is not to be derived from the key.
    """

    __slots__ = ("_id", "_key")

    seals_max = aead.SEALS_MAX

    def __init__(self, key: Secret, kek_id: str = "") -> None:
        if len(key) != aead.KEY_BYTES:
            raise ValueError(f"a KEK has {aead.KEY_BYTES} bytes")
        self._key = key
        self._id = kek_id or _id_of(key)

    @property
    def id(self) -> str:
        """See Kek."""
        return self._id

    async def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        """See Kek. Each call is one of the `seals_max`."""
        nonce = aead.random_nonce()
        return nonce + aead.seal(self._key.reveal(), nonce, data_key, associated)

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """See Kek."""
        nonce, sealed = wrapped[: aead.NONCE_BYTES], wrapped[aead.NONCE_BYTES :]
        return aead.unseal(self._key.reveal(), nonce, sealed, associated)

    def __repr__(self) -> str:
        return f"LocalKek({self._id})"


class Keyring:
    """The KEKs of a process: the first seals, all open. Raises ValueError for none, one id twice, or an id no envelope can name."""

    __slots__ = ("_by_id", "primary")

    def __init__(self, keks: Sequence[Kek]) -> None:
        self._by_id = {kek.id: kek for kek in keks}
        if not keks or len(self._by_id) != len(keks):
            raise ValueError("a keyring has at least one KEK, and each once")
        if not all(kek_id.isalnum() and kek_id.isascii() and len(kek_id) <= _ID_BYTES_MAX for kek_id in self._by_id):
            raise ValueError(f"the id of a KEK is 1 to {_ID_BYTES_MAX} ASCII letters and digits")
        self.primary = keks[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the sealing one first."""
        return tuple(self._by_id)

    def by_id(self, kek_id: str) -> Kek:
        """The KEK of this id. Raises UnknownKek; there is no second try with another."""
        kek = self._by_id.get(kek_id)
        if kek is None:
            raise UnknownKek(f"sealed by KEK {kek_id}, and only {', '.join(self._by_id)} were given")
        return kek


def load(files: Sequence[Path]) -> Keyring:
    """The keyring of these master key files, the sealing one first. Raises BadConfig with the problem of every file."""
    problems: list[Problem] = []
    keks: dict[str, LocalKek] = {}
    for file in files:
        try:
            kek = LocalKek(_read(file))
        except BadConfig as error:
            problems += error.problems
            continue
        if kek.id in keks:
            problems.append(Problem(str(file), 0, "holds the same master key as a file before it", "each key once"))
        keks[kek.id] = kek
    if not files:
        problems.append(Problem("EXTAUTHZ_MASTER_KEY_FILE", 0, "names no file", _ALLOWED))
    if problems:
        raise BadConfig(problems)
    return Keyring(tuple(keks.values()))


def _id_of(key: Secret) -> str:
    """The first 64 bits of a hash of its own: tells nothing of a random key, and is the same wherever the file is."""
    return hashlib.sha256(b"extauthz kek id v1\0" + key.reveal()).hexdigest()[:_ID_DIGITS]


def _read(file: Path) -> Secret:
    try:
        # The descriptor is asked, not the path: what was checked is what is read. A pipe must not block the start.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _problem(file, f"cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _problem(file, "is not a file")
        if status.st_mode & stat.S_IRWXO:
            mode = stat.S_IMODE(status.st_mode)
            _log.warning("the master key file %s can be read or written by every user (mode %04o): chmod 600 %s", file, mode, file)
        content = os.read(descriptor, 4_096)
    except OSError as error:
        raise _problem(file, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _parse(file, content)


def _parse(file: Path, content: bytes) -> Secret:
    """Raw only at exactly 32 bytes; a text may end with one line end."""
    text = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(text) == 2 * aead.KEY_BYTES and _HEX.issuperset(text):
        key = bytes.fromhex(text.decode())
    elif len(content) == aead.KEY_BYTES and not _HEX.issuperset(content):
        key = content
    elif text and _HEX.issuperset(text):
        raise _problem(file, f"holds {len(text)} hex digits")
    else:
        raise _problem(file, f"holds {len(content)} bytes that are no master key")
    if len(set(key)) < _DIFFERENT_BYTES_MIN:
        raise _problem(file, "holds a key that is not random")
    return Secret(key)


def _problem(file: Path, what: str, allowed: str = _ALLOWED) -> BadConfig:
    return BadConfig([Problem(str(file), 0, f"the master key file {what}", allowed)])
