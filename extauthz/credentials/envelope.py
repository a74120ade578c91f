"""A sealed secret as bytes: layout, associated data, commitment. docs/formats/envelope.md is its specification.

    01 | n | kek id (n bytes) | m (2 bytes) | wrapped data key (m bytes) | commitment (32) | nonce (12) | ciphertext and tag

Every seal draws its own data key. The context (tenant, provider, name, version, purpose) goes into both levels as associated data,
so an envelope opens only where it belongs. From the data key and the context HKDF makes the key of the cipher and the commitment;
the commitment is compared before anything is decrypted, so bytes that AES-GCM would open under two keys are refused.
"""

from typing import NamedTuple

from extauthz.credentials import aead
from extauthz.credentials.errors import DoesNotOpen, KekExhausted, NotAuthentic
from extauthz.credentials.keyring import Kek, Keyring
from extauthz.errors import Malformed
from extauthz.secret import Secret

VERSION = 1
COMMITMENT_BYTES = 32
#: Larger than any envelope we make (a value has at most 8 KiB, a wrapped key at most 64 KiB); what is longer is none of ours.
ENVELOPE_BYTES_MAX = 131_072

_WRAP = b"extauthz envelope v1 wrap"
_SEAL = b"extauthz envelope v1 seal"
_DERIVE = b"extauthz envelope v1 derive"


class Context(NamedTuple):
    """Where a secret belongs. An envelope opens only with the context it was sealed with, all five of it.

    Attributes:
        tenant_id: empty for the platform's own.
        version: 1 to 2**63 - 1.
        purpose: what the value is for, `credential` for what goes to a provider; another use is another purpose.
    """

    tenant_id: str
    provider: str
    name: str
    version: int
    purpose: str

    def associated(self, label: bytes) -> bytes:
        """The label and the five fields, each behind its length, so that no two contexts give the same bytes."""
        parts = (
            label,
            self.tenant_id.encode(),
            self.provider.encode(),
            self.name.encode(),
            self.version.to_bytes(8, "big"),
            self.purpose.encode(),
        )
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class Envelope(NamedTuple):
    """The parts of the layout; nothing here is secret."""

    kek_id: str
    wrapped: bytes
    commitment: bytes
    nonce: bytes
    sealed: bytes

    def encode(self) -> bytes:
        """The bytes that are stored."""
        kek_id = self.kek_id.encode("ascii")
        return b"".join(
            (
                bytes((VERSION, len(kek_id))),
                kek_id,
                len(self.wrapped).to_bytes(2, "big"),
                self.wrapped,
                self.commitment,
                self.nonce,
                self.sealed,
            )
        )


def parse(data: bytes) -> Envelope:
    """The parts of an envelope; that it opens is not said. Raises Malformed for a form that `encode` never makes."""
    if not 2 <= len(data) <= ENVELOPE_BYTES_MAX:
        raise Malformed(f"an envelope of {len(data)} bytes")
    if data[0] != VERSION:
        raise Malformed(f"an envelope of version {data[0]}, and only {VERSION} is known")
    id_end = 2 + data[1]
    wrapped_at = id_end + 2
    wrapped_end = wrapped_at + int.from_bytes(data[id_end:wrapped_at], "big")
    nonce_at = wrapped_end + COMMITMENT_BYTES
    sealed_at = nonce_at + aead.NONCE_BYTES
    kek_id = data[2:id_end]
    if len(data) < sealed_at + aead.TAG_BYTES or not kek_id.isalnum() or not kek_id.isascii() or wrapped_end == wrapped_at:
        raise Malformed("an envelope that is cut off or has no KEK id")
    return Envelope(
        kek_id.decode(), data[wrapped_at:wrapped_end], data[wrapped_end:nonce_at], data[nonce_at:sealed_at], data[sealed_at:]
    )


async def seal(kek: Kek, context: Context, value: Secret, seal_number: int) -> bytes:
    """The envelope of this value, under a data key of its own.

    Args:
        seal_number: how many times this KEK has sealed, this time included, counted where all its users count (Redis INCR). Above
            `kek.seals_max` KekExhausted is raised and nothing is sealed; 0 or less is a ValueError: somebody did not count.
    """
    if seal_number < 1:
        raise ValueError("seals are counted from 1")
    if seal_number > kek.seals_max:
        raise KekExhausted(f"KEK {kek.id} has sealed {kek.seals_max} times, which is its bound: put a new master key file first")
    data_key = aead.random_key()
    value_key, commitment = _derived(data_key, context)
    nonce = aead.random_nonce()
    sealed = aead.seal(value_key, nonce, value.reveal(), context.associated(_SEAL))
    wrapped = await kek.wrap(data_key, _wrap_associated(kek, context))
    return Envelope(kek.id, wrapped, commitment, nonce, sealed).encode()


async def unseal(keyring: Keyring, context: Context, data: bytes) -> Secret:
    """The value of an envelope that was sealed for this context.

    Raises Malformed (no envelope), UnknownKek and DoesNotOpen (refused at one of three places, named for the log; which byte or
    field is wrong cannot be known), Unavailable (a KEK that is elsewhere did not answer).
    """
    envelope = parse(data)
    kek = keyring.by_id(envelope.kek_id)
    try:
        data_key = await kek.unwrap(envelope.wrapped, _wrap_associated(kek, context))
    except NotAuthentic as error:
        raise DoesNotOpen("the wrapped data key is refused by its KEK") from error
    if len(data_key) != aead.KEY_BYTES:
        raise DoesNotOpen("the data key has the wrong length")
    value_key, commitment = _derived(data_key, context)
    if not aead.is_equal(commitment, envelope.commitment):
        raise DoesNotOpen("the data key is not the one the envelope commits to")
    try:
        return Secret(aead.unseal(value_key, envelope.nonce, envelope.sealed, context.associated(_SEAL)))
    except NotAuthentic as error:
        raise DoesNotOpen("the value is refused by its data key") from error


def _wrap_associated(kek: Kek, context: Context) -> bytes:
    """The KEK's id is bound as well: two ids for one key make two KEKs."""
    return context.associated(_WRAP) + kek.id.encode("ascii")


def _derived(data_key: bytes, context: Context) -> tuple[bytes, bytes]:
    """The key of the cipher, and the commitment. Two data keys or contexts with one commitment are a collision of HMAC-SHA-256."""
    both = aead.derive(data_key, context.associated(_DERIVE), aead.KEY_BYTES + COMMITMENT_BYTES)
    return both[: aead.KEY_BYTES], both[aead.KEY_BYTES :]
