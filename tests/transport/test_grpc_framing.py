"""Messages and gzip: what goes in comes out, and nothing beyond the bound is inflated."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.errors import Malformed
from extauthz.transport.grpc_framing import PREFIX, TooLarge, frame_message, inflate


@given(st.binary(max_size=500))
def test_a_message_has_five_octets_before_it(message: bytes) -> None:
    framed = frame_message(message)
    assert PREFIX.unpack(framed[:5]) == (0, len(message))
    assert framed[5:] == message


@given(st.binary(max_size=2_000), st.integers(0, 2_500))
def test_gzip_comes_back_or_is_too_large(message: bytes, bytes_max: int) -> None:
    data = gzip.compress(message)
    if len(message) <= bytes_max:
        assert inflate(data, bytes_max) == message
    else:
        with pytest.raises(TooLarge):
            inflate(data, bytes_max)


def test_every_prefix_and_anything_behind_is_malformed() -> None:
    data = gzip.compress(b"hello")
    for size in range(len(data)):
        with pytest.raises(Malformed):
            inflate(data[:size], 100)
    for tail in (b"\0", b"x", data):
        with pytest.raises(Malformed):
            inflate(data + tail, 100)


@pytest.mark.parametrize("data", [b"", b"hello", zlib.compress(b"hello"), b"\x1f\x8b" + b"\0" * 20])
def test_what_is_not_gzip_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        inflate(data, 100)


def test_a_corrupted_octet_never_makes_another_message() -> None:
    message = b"hello, this is a message"
    data = gzip.compress(message)
    accepted = 0
    for at in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            with contextlib.suppress(Malformed):
                assert inflate(bytes(broken), 100) == message
                accepted += 1
    assert accepted < 80  # the header's time and system, and padding bits, say nothing about the message
