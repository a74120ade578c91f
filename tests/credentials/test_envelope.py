"""Sealed means sealed: nothing opens but the bytes that were sealed, where they were sealed for, by the key that sealed them."""

import dataclasses
import hashlib
import hmac
import itertools
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from extauthz.credentials import aead
from extauthz.credentials.envelope import ENVELOPE_BYTES_MAX, Context, Envelope, _derived, parse, seal, unseal
from extauthz.credentials.errors import DoesNotOpen, KekExhausted, NotAuthentic, UnknownKek
from extauthz.credentials.keyring import Keyring, LocalKek
from extauthz.errors import Malformed
from extauthz.secret import Secret
from tests.credentials.places import at_once, keyring_of

CONTEXT = Context("acme", "openai", "default", 1, "credential")
VALUE = Secret(b"sk-" + b"v" * 48)
KEYRING = keyring_of(b"a")

_texts = st.text(max_size=40)
_contexts = st.builds(Context, _texts, _texts, _texts, st.integers(0, 2**63 - 1), _texts)


def _sealed(context: Context = CONTEXT, value: Secret = VALUE, keyring: Keyring = KEYRING) -> bytes:
    return at_once(seal(keyring.primary, context, value, 1))


def _is_refused(data: bytes, context: Context = CONTEXT, keyring: Keyring = KEYRING) -> bool:
    """Refused as such; any other exception fails the test."""
    try:
        at_once(unseal(keyring, context, data))
    except (DoesNotOpen, Malformed):
        return True
    return False


@given(context=_contexts, value=st.binary(max_size=9_000))
def test_what_was_sealed_opens_in_its_context(context: Context, value: bytes) -> None:
    assert Secret(value) == at_once(unseal(KEYRING, context, _sealed(context, Secret(value))))


def test_the_layout_is_the_one_of_its_page() -> None:
    """docs/formats/envelope.md, offset by offset, for a local KEK."""
    data = _sealed()
    kek_id = KEYRING.primary.id.encode()
    assert b"\x01\x10" + kek_id + b"\x00\x3c" == data[:20]
    assert 20 + 60 + 32 + 12 + len(VALUE) + 16 == len(data)
    assert Envelope(kek_id.decode(), data[20:80], data[80:112], data[112:124], data[124:]) == parse(data)
    assert data == parse(data).encode()


def test_an_envelope_of_the_first_release_still_opens() -> None:
    """Sealed once and written down: a change of layout, labels or derivation fails here."""
    written = bytes.fromhex(FIRST_RELEASE)
    keyring = Keyring([LocalKek(Secret(bytes(range(32))))])
    assert at_once(unseal(keyring, CONTEXT, written)).reveal() == b"sk-first-release"


def _lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def test_the_page_is_enough_to_open_an_envelope() -> None:
    """The example of docs/formats/envelope.md, opened with nothing of ours: AES-GCM, HMAC and what the page says."""
    page = (Path(__file__).parents[2] / "docs" / "formats" / "envelope.md").read_text()
    rows = re.findall(r"^([a-z]+(?: [a-z]+)?) +(.*(?:\n {13}.+)*)", page[page.index("master key   ") :], re.MULTILINE)
    row = {name: "".join(text.split()) for name, text in rows}
    master_key, data = bytes.fromhex(row["master key"]), bytes.fromhex(row["envelope"])
    assert row["envelope"] == FIRST_RELEASE
    assert hashlib.sha256(b"extauthz kek id v1\0" + master_key).hexdigest()[:16] == row["kek id"]
    kek_id, wrapped, commitment, nonce, sealed = data[2:18], data[20:80], data[80:112], data[112:124], data[124:]
    assert kek_id.decode() == row["kek id"]
    context = (b"acme", b"openai", b"default", (1).to_bytes(8, "big"), b"credential")
    data_key = AESGCM(master_key).decrypt(wrapped[:12], wrapped[12:], _lp(b"extauthz envelope v1 wrap", *context) + kek_id)
    assert data_key.hex() == row["data key"]
    info = _lp(b"extauthz envelope v1 derive", *context)
    extracted = hmac.digest(bytes(32), data_key, "sha256")
    value_key = hmac.digest(extracted, info + b"\1", "sha256")
    assert value_key.hex() == row["value key"]
    assert hmac.digest(extracted, value_key + info + b"\2", "sha256") == commitment == bytes.fromhex(row["commitment"])
    assert AESGCM(value_key).decrypt(nonce, sealed, _lp(b"extauthz envelope v1 seal", *context)).decode() == row["value"]


def test_two_seals_of_one_value_share_nothing() -> None:
    one, other = parse(_sealed()), parse(_sealed())
    assert one.kek_id == other.kek_id
    assert [left != right for left, right in zip(one[1:], other[1:], strict=True)] == [True] * 4


@pytest.mark.prove(25)
def test_no_flipped_bit_opens(proving: bool) -> None:
    """Every bit of envelopes of three sizes; a fifth of them in the slice."""
    accepted, tried = 0, 0
    for size in (1, 51, 512):
        data = _sealed(value=Secret(b"v" * size))
        bits = range(len(data) * 8)
        for bit in bits if proving else random.Random(size).sample(bits, len(bits) // 5):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            accepted += not _is_refused(bytes(changed))
            tried += 1
    print(f"row 25: {tried} flipped bits, {accepted} accepted")
    assert accepted == 0


@pytest.mark.prove(25)
def test_no_changed_byte_opens(proving: bool) -> None:
    """Every byte to every other value; one of sixteen in the slice."""
    data = _sealed()
    accepted, tried = 0, 0
    for position in range(len(data)):
        for change in range(1, 256) if proving else random.Random(position).sample(range(1, 256), 16):
            accepted += not _is_refused(data[:position] + bytes((data[position] ^ change,)) + data[position + 1 :])
            tried += 1
    print(f"row 25: {tried} changed bytes, {accepted} accepted")
    assert accepted == 0


def test_an_envelope_cut_off_before_its_tag_is_no_envelope() -> None:
    data = _sealed(value=Secret(b""))
    assert len(data) == 140
    for end in range(140):
        with pytest.raises(Malformed):
            parse(data[:end])


def test_no_shorter_and_no_longer_envelope_opens() -> None:
    data = _sealed()
    assert [True] * len(data) == [_is_refused(data[:end]) for end in range(len(data))]
    assert [True] * len(data) == [_is_refused(data[start:]) for start in range(1, len(data) + 1)]
    assert [_is_refused(data + bytes((byte,))) for byte in range(256)] == [True] * 256
    assert _is_refused(data + data)


TEXT_FIELDS = ("tenant_id", "provider", "name", "purpose")


def _swapped() -> Iterator[Context]:
    """Each field of a context replaced, emptied, longer, shorter, and exchanged with each other field."""
    fields = CONTEXT._asdict()
    for version in (0, 2, 256, 2**32 + 1):
        yield Context(**{**fields, "version": version})
    for field in TEXT_FIELDS:
        text: str = fields[field]
        for other in ("", "other", text + "\0", text[:-1], text.upper()):
            yield Context(**{**fields, field: other})
    for left, right in itertools.combinations(TEXT_FIELDS, 2):
        yield Context(**{**fields, left: fields[right], right: fields[left]})


@pytest.mark.prove(25)
@pytest.mark.parametrize("context", list(_swapped()), ids=repr)
def test_no_other_context_opens(context: Context) -> None:
    assert context != CONTEXT
    assert _is_refused(_sealed(), context)
    assert _is_refused(_sealed(context), CONTEXT)


@pytest.mark.prove(25)
@given(one=_contexts, other=_contexts)
def test_two_contexts_are_never_the_same_associated_data(one: Context, other: Context) -> None:
    assert (one == other) == (one.associated(b"label") == other.associated(b"label"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Context("ab", "c", "n", 1, "p"), Context("a", "bc", "n", 1, "p")),
        (Context("a", "", "b", 1, "p"), Context("a", "b", "", 1, "p")),
        (Context("", "a", "n", 1, "p"), Context("a", "", "n", 1, "p")),
        (Context("a\0\0\0\1b", "c", "n", 1, "p"), Context("a", "b\0\0\0\1c", "n", 1, "p")),
        (Context("a", "b", "n1", 2, "p"), Context("a", "b", "n", 12, "p")),
        (Context("a:b", "c", "n", 1, "p"), Context("a", "b:c", "n", 1, "p")),
    ],
)
def test_a_boundary_between_fields_cannot_be_moved(one: Context, other: Context) -> None:
    assert _is_refused(_sealed(one), other)
    assert _is_refused(_sealed(other), one)


def test_a_part_of_one_envelope_does_not_fit_into_another() -> None:
    """Every mixture of two envelopes of one context and one KEK, but the two themselves."""
    one, other = parse(_sealed()), parse(_sealed(value=Secret(b"another")))
    for choice in range(1, 15):
        parts = zip(one[1:], other[1:], (1, 2, 4, 8), strict=True)
        mixed = Envelope(one.kek_id, *(theirs if choice & bit else ours for ours, theirs, bit in parts))
        assert _is_refused(mixed.encode()), f"{choice:04b}"


def test_the_levels_cannot_be_exchanged() -> None:
    """A value of 32 bytes sealed as a value is no data key, and a wrapped data key is no value."""
    kek_key = Secret(b"a".ljust(32, b"."))
    envelope = parse(_sealed(value=Secret(bytes(32))))
    as_value = envelope._replace(nonce=envelope.wrapped[:12], sealed=envelope.wrapped[12:])
    assert _is_refused(as_value.encode())
    forged = aead.seal(kek_key.reveal(), bytes(12), bytes(32), CONTEXT.associated(b"extauthz envelope v1 seal"))
    assert _is_refused(envelope._replace(wrapped=bytes(12) + forged).encode())


def test_the_kek_is_chosen_by_id_and_no_other_is_tried() -> None:
    """Renamed to another KEK of the same keyring, an envelope does not open, though the keyring holds its key."""
    both = keyring_of(b"b", b"a")
    data = _sealed()
    assert at_once(unseal(both, CONTEXT, data)) == VALUE
    assert _is_refused(parse(data)._replace(kek_id=both.primary.id).encode(), keyring=both)
    with pytest.raises(UnknownKek, match=KEYRING.primary.id):
        at_once(unseal(keyring_of(b"b"), CONTEXT, data))


def test_one_key_under_two_ids_is_two_keks() -> None:
    key = Secret(b"a".ljust(32, b"."))
    data = at_once(seal(LocalKek(key, "one"), CONTEXT, VALUE, 1))
    keyring = Keyring([LocalKek(key, "one"), LocalKek(key, "two")])
    assert at_once(unseal(keyring, CONTEXT, data)) == VALUE
    assert _is_refused(parse(data)._replace(kek_id="two").encode(), keyring=keyring)


def test_a_rotation_in_its_four_stages() -> None:
    old, new = b"old", b"new"
    sealed_before = _sealed(keyring=keyring_of(old))
    both = keyring_of(new, old)  # the new file is put in front
    sealed_after = _sealed(keyring=both)
    assert [at_once(unseal(both, CONTEXT, data)) for data in (sealed_before, sealed_after)] == [VALUE, VALUE]
    with pytest.raises(UnknownKek):  # a sidecar that was not given the new file yet
        at_once(unseal(keyring_of(old), CONTEXT, sealed_after))
    with pytest.raises(UnknownKek):  # the old file was taken away before everything was sealed again
        at_once(unseal(keyring_of(new), CONTEXT, sealed_before))


@dataclasses.dataclass
class _FewSeals:
    """A KEK with a small bound, wrapped around a real one."""

    kek: LocalKek
    seals_max: int = 3

    @property
    def id(self) -> str:
        return self.kek.id

    async def wrap(self, data_key: bytes, associated: bytes) -> bytes:
        return await self.kek.wrap(data_key, associated)

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        return await self.kek.unwrap(wrapped, associated)


@pytest.mark.prove(26)
def test_a_kek_seals_3_865_470_566_times_and_not_once_more() -> None:
    kek = KEYRING.primary
    assert at_once(unseal(KEYRING, CONTEXT, at_once(seal(kek, CONTEXT, VALUE, 3_865_470_566)))) == VALUE
    for number in (3_865_470_567, 2**32, 2**32 + 1, 2**53):
        with pytest.raises(KekExhausted, match=kek.id):
            at_once(seal(kek, CONTEXT, VALUE, number))
    few = _FewSeals(LocalKek(Secret(bytes(range(32)))))
    at_once(seal(few, CONTEXT, VALUE, 3))
    with pytest.raises(KekExhausted):
        at_once(seal(few, CONTEXT, VALUE, 4))


@pytest.mark.parametrize("number", [0, -1])
def test_a_seal_nobody_counted_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="counted"):
        at_once(seal(KEYRING.primary, CONTEXT, VALUE, number))


# A ciphertext for two keys. GCM's tag is a polynomial in H over GF(2^128), so with both keys known one block of ciphertext can be
# solved for such that the tags under both keys are equal (Dodis, Grubbs, Ristenpart, Woodage: "Fast Message Franking", 2018).


def _times(left: int, right: int) -> int:
    """Multiplication in GCM's field (SP 800-38D, algorithm 1); the first bit is the highest of the integer."""
    product = 0
    for bit in range(127, -1, -1):
        if right >> bit & 1:
            product ^= left
        left = left >> 1 ^ (0xE1 << 120 if left & 1 else 0)
    return product


def _power(base: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = _times(result, base)
        base = _times(base, base)
        exponent >>= 1
    return result


def _block(key: bytes, block: bytes) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - one block, as GCM does it itself
    return int.from_bytes(encryptor.update(block), "big")


def _for_two_keys(keys: tuple[bytes, bytes], nonce: bytes, associated: bytes, first: bytes) -> bytes:
    """Two blocks, `first` and one that is solved for, and a tag that is right under both keys."""
    padded = associated + bytes(-len(associated) % 16)
    blocks = [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)] + [int.from_bytes(first, "big")]
    lengths = int.from_bytes(struct.pack(">QQ", len(associated) * 8, 32 * 8), "big")
    hashes = [_block(key, bytes(16)) for key in keys]
    sums = []
    for key, h in zip(keys, hashes, strict=True):
        total = 0
        for place, block in enumerate(blocks):
            total ^= _times(block, _power(h, len(blocks) + 2 - place))
        sums.append(total ^ _times(lengths, h) ^ _block(key, nonce + b"\0\0\0\1"))
    squares = [_power(h, 2) for h in hashes]
    solved = _times(sums[0] ^ sums[1], _power(squares[0] ^ squares[1], 2**128 - 2))
    tag = sums[0] ^ _times(solved, squares[0])
    return first + solved.to_bytes(16, "big") + tag.to_bytes(16, "big")


@pytest.mark.prove(26)
def test_a_ciphertext_for_two_keys_is_refused() -> None:
    """Who knows two data keys and may write to the store makes one ciphertext that AES-GCM opens under both, to two values. Ours
    opens under the committed one only, whichever is committed to, and the other is refused before the cipher is asked.
    """
    kek = KEYRING.primary
    nonce = bytes(range(12))
    data_keys = (b"1" * 32, b"2" * 32)
    derived = [_derived(data_key, CONTEXT) for data_key in data_keys]
    value_keys = (derived[0][0], derived[1][0])
    label = CONTEXT.associated(b"extauthz envelope v1 seal")
    crafted = _for_two_keys(value_keys, nonce, label, b"sk-for-two-keys!")

    values = [aead.unseal(key, nonce, crafted, label) for key in value_keys]
    assert values[0] != values[1], "AES-GCM alone accepts it under both"

    associated = CONTEXT.associated(b"extauthz envelope v1 wrap") + kek.id.encode()
    wrapped = [at_once(kek.wrap(data_key, associated)) for data_key in data_keys]
    for mine, other in ((0, 1), (1, 0)):
        committed = Envelope(kek.id, wrapped[mine], derived[mine][1], nonce, crafted)
        assert values[mine] == at_once(unseal(KEYRING, CONTEXT, committed.encode())).reveal()
        with pytest.raises(DoesNotOpen, match="commits"):
            at_once(unseal(KEYRING, CONTEXT, committed._replace(wrapped=wrapped[other]).encode()))


@pytest.mark.prove(26)
def test_a_wrapped_key_for_two_keks_is_refused() -> None:
    """The same one level up: bytes that two KEKs unwrap, to two data keys. The commitment fits one of them at most."""
    keys = (b"a".ljust(32, b"."), b"b".ljust(32, b"."))
    keyring = keyring_of(b"a", b"b")
    associated = CONTEXT.associated(b"extauthz envelope v1 wrap")
    nonce = bytes(12)
    crafted = _for_two_keys(keys, nonce, associated, b"half a data key!")
    data_keys = [aead.unseal(key, nonce, crafted, associated) for key in keys]
    assert data_keys[0] != data_keys[1], "AES-GCM alone accepts it under both"

    derived = [_derived(data_key, CONTEXT) for data_key in data_keys]
    assert derived[0][1] != derived[1][1]
    # The KEK's id is associated data as well, so not even the KEKs themselves agree on these bytes any more.
    for kek_id in keyring.ids:
        with pytest.raises(NotAuthentic):
            at_once(keyring.by_id(kek_id).unwrap(nonce + crafted, associated + kek_id.encode()))


@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert _is_refused(data)


@given(tail=st.binary(max_size=300), kek_length=st.integers(0, 255), wrapped_length=st.integers(0, 65_535))
def test_any_lengths_in_the_head_are_refused(tail: bytes, kek_length: int, wrapped_length: int) -> None:
    assert _is_refused(bytes((1, kek_length)) + b"k" * kek_length + wrapped_length.to_bytes(2, "big") + tail)


def test_an_envelope_beyond_any_of_ours_is_not_looked_at() -> None:
    with pytest.raises(Malformed, match=str(ENVELOPE_BYTES_MAX + 1)):
        parse(_sealed() + bytes(ENVELOPE_BYTES_MAX + 1 - len(_sealed())))


def test_no_error_holds_the_value_or_a_key() -> None:
    data = _sealed()
    for bit in range(0, len(data) * 8, 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DoesNotOpen, Malformed)) as caught:
            at_once(unseal(KEYRING, CONTEXT, bytes(changed)))
        error: BaseException | None = caught.value
        while error is not None:
            assert "vvvv" not in repr(error) + str(error)
            assert "...." not in repr(error) + str(error)
            error = error.__cause__
    assert "...." not in repr(KEYRING.primary)


FIRST_RELEASE = (
    "011030396363353439613534616134653839003c2b8ad577a2b44f22aae922eae0538aeae7d236c11fc88b01da1fabb0b9d2"
    "39b27e1107a1016cf0bf9d8a0002c0386814e3dcc1f52ff07c88ebeee862f426faa7fe31f13d7a8206733bd90761acb23a54"
    "8b80f2ea70755696ba9b2104bb9dd4ca864e9a03c14a1206495fd786e85455e9431dddf0283f8bbb8fe1ddf81318c9ee1df2"
    "1a70f200a961"
)
