"""Our decoder against the hpack library: the same fields, the same refusals, for any block."""

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.transport.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault, StreamFault
from extauthz.transport.h2.header_block import decode
from extauthz.transport.h2.limits import Limits

LIMITS = Limits()
WIDE = Limits(header_list_bytes_max=2**30, header_fields_max=2**30, size_updates_max=2**30)


def library(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """What a decoder with an empty table of size 0 makes of a block; None when it refuses."""
    decoder = hpack.Decoder(max_header_list_size=2**30)
    decoder.header_table_size = 0
    decoder.max_allowed_table_size = 0
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except (HPACKError, IndexError):
        return None


def ours(block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(field.name, field.value) for field in decode(block, WIDE).fields]
    except ConnectionFault as fault:
        return None if fault.code == COMPRESSION_ERROR else [(b"code", b"%d" % fault.code)]


texts = st.one_of(st.binary(max_size=40), st.text("abcdef0123456789-", max_size=60).map(str.encode))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Pieces that are mostly sound, one octet of which may be wrong."""
    encoder = hpack.Encoder()
    encoder.header_table_size = draw(st.sampled_from([0, 0, 4_096]))
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.integers(0, 9))
        if kind == 0:
            pieces.append(bytes((0x80 | draw(st.integers(0, 127)),)))
        elif kind == 1:
            pieces.append(bytes((draw(st.integers(0, 127)), draw(st.integers(0, 255)))))
        elif kind == 2:
            pieces.append(draw(st.sampled_from([b"\x20", b"\x3f\x00", b"\x3f\x80\x00", b"\x21", b"\x3f\xe1\x1f"])))
        else:
            pieces.append(encoder.encode([(draw(texts), draw(texts), draw(st.booleans()))], huffman=draw(st.booleans())))
    block = bytearray(b"".join(pieces))
    if block and draw(st.booleans()):
        block[draw(st.integers(0, len(block) - 1))] = draw(st.integers(0, 255))
    return bytes(block[: draw(st.integers(0, len(block)))] if draw(st.integers(0, 4)) == 0 else block)


@settings(max_examples=700, deadline=None)
@given(blocks())
def test_our_decoder_says_what_the_library_says(block: bytes) -> None:
    assert ours(block) == library(block)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_our_decoder_says_what_the_library_says_of_noise(block: bytes) -> None:
    assert ours(block) == library(block)


def test_every_prefix_of_a_block_is_what_the_library_says() -> None:
    block = hpack.Encoder().encode([(":method", "POST", True), ("x-y", "z" * 300, True), ("te", "trailers", True)])
    assert [ours(block[:size]) for size in range(len(block) + 1)] == [library(block[:size]) for size in range(len(block) + 1)]


@pytest.mark.parametrize(
    ("block", "is_stateless"),
    [
        (b"\x83\x86", True),
        (b"\x00\x01a\x01b", True),  # without indexing
        (b"\x10\x01a\x01b", True),  # never indexed
        (b"\x40\x01a\x01b", False),  # incremental: the peer believes it is in the table
        (b"\x20\x83", False),  # a size update
    ],
)
def test_only_a_block_that_changes_nothing_may_be_remembered(block: bytes, is_stateless: bool) -> None:
    assert decode(block, LIMITS).is_stateless is is_stateless


def test_a_third_size_update_ends_the_connection() -> None:
    assert len(decode(b"\x20\x20\x83", LIMITS).fields) == 1
    with pytest.raises(ConnectionFault) as caught:
        decode(b"\x20\x20\x20\x83", LIMITS)
    assert caught.value.code == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "block",
    [
        b"\x90" * 400,  # an empty static field: one octet, 46 of the list
        b"\x00\x01a\x7f\x81\x7f" + b"v" * 16_512,
        b"\x00\x01a\x7f\xe1\x7e" + b"v" * 16_352,
    ],
)
def test_a_list_far_too_long_resets_the_stream(block: bytes) -> None:
    with pytest.raises(StreamFault) as caught:
        decode(block, LIMITS)
    assert caught.value.code == ENHANCE_YOUR_CALM
