"""HPACK without a dynamic table (RFC 7541), for a peer that has acknowledged SETTINGS_HEADER_TABLE_SIZE = 0.

What such a peer may send: static fields, literals, and size updates to zero at the start. An incremental literal is allowed and
leaves the table empty (section 4.4), an index above 61 is an error. `hpack` is the oracle in the tests: same fields, same refusals.
"""

from typing import NamedTuple

from hpack.table import HeaderTable

from extauthz.transport.h2 import huffman
from extauthz.transport.h2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault, StreamFault
from extauthz.transport.h2.limits import Limits

_STATIC = HeaderTable.STATIC_TABLE
_STATIC_FIELDS = len(_STATIC)
#: Octets of an integer after its prefix. Five hold 2^32; the library has the same bound.
_INTEGER_BYTES_MAX = 5
FIELD_OVERHEAD = 32


class Field(NamedTuple):
    """A field as it stood in the block.

    Attributes:
        value_at: where the value's string begins in the block (its length octet); 0 for a static field.
        ends_at: the first octet after the field.
    """

    name: bytes
    value: bytes
    value_at: int
    ends_at: int


class Decoded(NamedTuple):
    """The fields of a block, and whether the block means the same on any connection at any time."""

    fields: list[Field]
    list_bytes: int
    is_stateless: bool


def decode(block: bytes, limits: Limits) -> Decoded:
    """Every field of a block.

    Raises ConnectionFault where it is not HPACK or has more than two size updates; StreamFault where the list has too many fields
    or twice the octets allowed (nothing is lost by that: there is no table that would now differ).
    """
    try:
        return _decode(block, limits)
    except IndexError:
        raise _broken("truncated") from None


def count_size_updates(block: bytes, limits: Limits) -> int:
    """Octets of the size updates a block begins with.

    Raises ConnectionFault when there are more than allowed: the library spends 728 ms on a megabyte of them.
    """
    position = updates = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        updates += 1
        if updates > limits.size_updates_max:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many table-size updates")
        try:
            _, position = _integer(block, position, 0x1F)
        except IndexError:
            raise _broken("truncated") from None
    return position


def _decode(block: bytes, limits: Limits) -> Decoded:
    fields: list[Field] = []
    position = _skip_size_updates(block, limits)
    is_stateless = position == 0
    list_bytes, end = 0, len(block)
    while position < end:
        first = block[position]
        value_at = 0
        if first & 0x80:
            index, position = _integer(block, position, 0x7F)
            name, value = _static(index)
        elif first & 0x60 == 0x20:
            raise _broken("a table-size update after a field")
        else:
            index, position = _integer(block, position, 0x3F if first & 0x40 else 0x0F)
            if first & 0x40:
                is_stateless = False
            if index:
                name = _static(index)[0]
            else:
                name, position = _string(block, position)
            value_at = position
            value, position = _string(block, position)
        list_bytes += len(name) + len(value) + FIELD_OVERHEAD
        if list_bytes > 2 * limits.header_list_bytes_max or len(fields) >= limits.header_fields_max:
            raise StreamFault(ENHANCE_YOUR_CALM, "header list too long")
        fields.append(Field(name, value, value_at, position))
    return Decoded(fields, list_bytes, is_stateless)


def _skip_size_updates(block: bytes, limits: Limits) -> int:
    end = count_size_updates(block, limits)
    position = 0
    while position < end:
        size, position = _integer(block, position, 0x1F)
        if size:
            raise _broken("a table-size update above what was allowed")
    return end


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer (section 5.1) and where it ends. IndexError where it is cut off."""
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    for shift in range(0, 7 * _INTEGER_BYTES_MAX, 7):
        octet = block[position]
        position += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, position
    raise _broken("an integer too long")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string (section 5.2) and where it ends. IndexError where it is cut off."""
    is_code = block[position] & 0x80
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise IndexError
    text = block[position:end]
    if not is_code:
        return text, end
    decoded = huffman.decode(text)
    if decoded is None:
        raise _broken("broken Huffman code")
    return decoded, end


def _static(index: int) -> tuple[bytes, bytes]:
    if not 1 <= index <= _STATIC_FIELDS:
        raise _broken("an index of no field")
    return _STATIC[index - 1]


def _broken(why: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, why)
