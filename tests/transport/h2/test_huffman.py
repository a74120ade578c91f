"""Our walk of the Huffman code against the library's, and the walk that only says whether a value may stand."""

import random

import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

from extauthz.transport.h2 import huffman

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def library(code: bytes) -> bytes | None:
    try:
        return bytes(decode_huffman(code))
    except HPACKDecodingError:
        return None


def is_visible(code: bytes) -> bool:
    state = huffman.START_VISIBLE
    for byte in code:
        state = state[byte]
    return bool(state[huffman.MAY_END])


def test_every_string_of_one_and_two_octets_of_code_decodes_as_in_the_library() -> None:
    codes = [bytes((first,)) for first in range(256)] + [divmod(number, 256) for number in range(65_536)]
    assert all(huffman.decode(bytes(code)) == library(bytes(code)) for code in codes)


def test_random_code_decodes_as_in_the_library() -> None:
    source = random.Random(7)
    for _ in range(5_000):
        code = source.randbytes(source.randrange(12))
        assert huffman.decode(code) == library(code), code


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol_comes_back_and_only_visible_ones_are_called_so(symbol: int) -> None:
    text = b"00-" + bytes((symbol,)) + b"-01"
    code = ENCODER.encode(text)
    assert huffman.decode(code) == text
    assert is_visible(code) is (0x21 <= symbol <= 0x7E)


def test_the_end_of_string_symbol_and_wrong_padding_are_broken() -> None:
    assert huffman.decode(b"\xff\xff\xff\xff") is None
    assert huffman.decode(ENCODER.encode(b"a") + b"\xff") is None
    assert huffman.decode(b"\x18") is None  # "a" and zeros for padding
    assert not is_visible(b"\x18")
