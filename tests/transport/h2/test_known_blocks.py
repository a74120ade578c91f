"""A block found by its shape is the request that decoding it anew would give, or it is not found."""

import random

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.transport.h2.blocks import Blocks
from extauthz.transport.h2.frames import ConnectionFault, StreamFault
from extauthz.transport.h2.header_block import decode
from extauthz.transport.h2.known_blocks import KnownBlocks
from extauthz.transport.h2.limits import KNOWN_BLOCKS_MAX, Limits
from extauthz.transport.h2.request import request_of
from tests.transport.core import CHECK, ROUTES, fields

LIMITS = Limits()


def block_of(
    *changing: tuple[str, str], huffman: bool = True, tail: tuple[tuple[str, str], ...] = (("x-envoy-internal", "true"),)
) -> bytes:
    pairs = [(name, value, True) for name, value in [*fields(), *changing, *tail]]
    return hpack.Encoder().encode(pairs, huffman=huffman)


def learnt(block: bytes) -> KnownBlocks:
    known = KnownBlocks(LIMITS)
    decoded = decode(block, LIMITS)
    known.learn(block, decoded, request_of([(field.name, field.value) for field in decoded.fields], ROUTES))
    return known


def is_sound(block: bytes) -> bool:
    """Whether decoding the block anew would serve it."""
    try:
        decoded = decode(block, LIMITS)
        request_of([(field.name, field.value) for field in decoded.fields], ROUTES)
    except (ConnectionFault, StreamFault):
        return False
    return decoded.list_bytes <= LIMITS.header_list_bytes_max


@pytest.mark.parametrize("huffman", [False, True])
def test_a_new_traceparent_is_found_by_its_shape(huffman: bool) -> None:
    known = learnt(block_of(("traceparent", "00-" + "0" * 52), huffman=huffman))
    source = random.Random(3)
    for _ in range(200):
        value = f"00-{source.getrandbits(128):032x}-{source.getrandbits(64):016x}-01"
        found = known.find(block_of(("traceparent", value), huffman=huffman))
        assert found is not None
        assert found.path == CHECK
    assert known.whole == {}


@pytest.mark.parametrize("tail", [(), (("x-envoy-internal", "true"),)])
def test_two_changing_fields_are_found_by_one_shape(tail: tuple[tuple[str, str], ...]) -> None:
    known = learnt(block_of(("traceparent", "00-1"), ("x-request-id", "a"), tail=tail))
    assert known.find(block_of(("traceparent", "00-22"), ("x-request-id", "bbb"), tail=tail)) is not None


@pytest.mark.parametrize(
    "other",
    [
        block_of(("traceparent", "00-2"), tail=(("grpc-timeout", "1S"),)),
        block_of(("traceparent", "00-2"), tail=()),
        block_of(("traceparent", "00-2")) + b"\x88",
        block_of(("traceparent", "00-2"))[:-1],
        block_of(("tracestate", "00-2")),
        block_of(),
    ],
)
def test_what_differs_in_anything_else_is_not_found(other: bytes) -> None:
    known = learnt(block_of(("traceparent", "00-1")))
    assert known.find(block_of(("traceparent", "00-2"))) is not None
    assert known.find(other) is None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_nothing_is_found_that_decoding_would_refuse(data: st.DataObject) -> None:
    """The shape's look-up against the decoder: whatever stands in the changing value, found means sound and the same request."""
    sample = block_of(("traceparent", "00-1"))
    known = learnt(sample)
    begin = sample.index(hpack.Encoder().encode([("traceparent", "00-1", True)], huffman=True))
    value_at = begin + 2 + (sample[begin + 1] & 0x7F)
    rest = sample[value_at + 1 + (sample[value_at] & 0x7F) :]
    value = data.draw(st.one_of(st.binary(max_size=30), st.text("0123456789abcdef- \t\r\n\0", max_size=60).map(_coded)))
    length = data.draw(st.sampled_from([len(value), len(value), len(value) + 1, max(0, len(value) - 1)]))
    block = sample[:value_at] + bytes((data.draw(st.sampled_from([0, 0x80])) | length,)) + value + rest
    found = known.find(block)
    if found is not None:
        assert is_sound(block)
        again = decode(block, LIMITS)
        request = request_of([(field.name, field.value) for field in again.fields], ROUTES)
        assert (request.path, request.timeout_s, request.kind) == (found.path, found.timeout_s, found.kind)


def _coded(text: str) -> bytes:
    code: bytes = hpack.Encoder().huffman_coder.encode(text.encode())
    return code


def test_a_value_that_would_make_the_list_too_long_is_decoded() -> None:
    filler = tuple((f"x-{number}", "v" * 1_000) for number in range(7))
    known = learnt(block_of(("traceparent", "00-1"), tail=(*filler, ("x-8", "v" * 470))))
    assert known.find(block_of(("traceparent", "00-2"), tail=(*filler, ("x-8", "v" * 470)))) is not None
    assert known.find(block_of(("traceparent", "a" * 120), tail=(*filler, ("x-8", "v" * 470)))) is None


def test_the_memory_of_blocks_is_bounded() -> None:
    blocks = Blocks(ROUTES, LIMITS)
    blocks.acknowledged()
    for number in range(3 * KNOWN_BLOCKS_MAX):
        blocks.request(block_of(tail=(("x-number", str(number)),)))
        assert len(blocks.whole) <= KNOWN_BLOCKS_MAX


def test_nothing_is_remembered_while_the_peer_may_use_a_table() -> None:
    blocks = Blocks(ROUTES, LIMITS)
    block = block_of()
    blocks.request(block)
    assert blocks.whole == {}
    blocks.acknowledged()
    blocks.request(block)
    assert list(blocks.whole) == [block]


def test_a_peer_with_a_table_must_empty_it_first() -> None:
    encoder = hpack.Encoder()
    blocks = Blocks(ROUTES, LIMITS)
    blocks.request(encoder.encode(fields()))
    blocks.acknowledged()
    assert not blocks.is_shrunk
    with pytest.raises(ConnectionFault):
        blocks.request(encoder.encode(fields()))


@pytest.mark.parametrize("first", [b"\x40\x01a\x01b", b"\x20"])
def test_a_block_that_the_peer_believes_to_change_its_table_is_not_remembered(first: bytes) -> None:
    block = first + block_of() if first == b"\x20" else block_of() + first
    known = learnt(block)
    assert known.whole == {}
    assert known.find(block) is None
    assert learnt(block_of(("traceparent", "00-1")) + b"\x40\x01a\x01b")._shapes == []


def test_once_it_is_empty_blocks_are_remembered() -> None:
    encoder = hpack.Encoder()
    blocks = Blocks(ROUTES, LIMITS)
    blocks.request(encoder.encode(fields()))
    blocks.acknowledged()
    encoder.header_table_size = 0
    assert blocks.request(encoder.encode(fields())).path == CHECK
    assert blocks.is_shrunk
    blocks.request(block_of())
    assert len(blocks.whole) == 1
