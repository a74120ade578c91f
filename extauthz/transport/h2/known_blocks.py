"""Header blocks seen before, so that a request's headers are one look-up.

Two memories. A block that came before byte for byte is found whole (0.1 us). A block that differs only in the value of a field
nobody reads, such as `traceparent`, is found by its *shape*: the octets between those values. A shape's pieces are whole fields up
to and including the name of the changing one, so where the value begins is certain; the value is checked as strictly as the decoder
would (1 us for a Huffman-coded traceparent, where decoding the block anew takes 12).

Only blocks that mean the same at any time are learnt: no dynamic index, no incremental literal, no size update.
"""

from extauthz.transport.h2 import huffman
from extauthz.transport.h2.header_block import Decoded
from extauthz.transport.h2.limits import KNOWN_BLOCKS_MAX, KNOWN_SHAPES_MAX, Limits
from extauthz.transport.h2.request import Request

#: Fields whose value changes with every request and which no handler is given.
CHANGING = frozenset(
    (
        b"traceparent",
        b"tracestate",
        b"x-request-id",
        b"b3",
        b"x-b3-traceid",
        b"x-b3-spanid",
        b"x-b3-parentspanid",
        b"x-cloud-trace-context",
        b"x-ot-span-context",
        b"grpc-trace-bin",
    )
)
_VISIBLE = bytes(range(0x21, 0x7F))
#: A value longer than this is decoded: its length then takes more than one octet.
_VALUE_BYTES_MAX = 126
#: Symbols a byte of Huffman code can hold: the shortest code has 5 bits.
_SYMBOLS_PER_BYTE = 8 / 5


class KnownBlocks:
    """The blocks of one connection. `whole` is read by the connection itself, on its quick path."""

    __slots__ = ("_limits", "_shapes", "whole")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.whole: dict[bytes, Request] = {}
        self._shapes: list[tuple[tuple[bytes, ...], int, Request]] = []

    def find(self, block: bytes) -> Request | None:
        """The request of a block of a known shape; None when it has to be decoded."""
        for pieces, room, request in self._shapes:
            if block.startswith(pieces[0]) and _fits(block, pieces, room):
                return request
        return None

    def learn(self, block: bytes, decoded: Decoded, request: Request) -> None:
        """Remember a block. When a memory is full it is begun anew: a client with so many blocks gains nothing from it."""
        if not decoded.is_stateless:
            return
        pieces, held, start = [], 0, 0
        for field in decoded.fields:
            if field.name in CHANGING and field.value_at:
                pieces.append(block[start : field.value_at])
                start = field.ends_at
                held += len(field.value)
        if not pieces:
            if len(self.whole) >= KNOWN_BLOCKS_MAX:
                self.whole.clear()
            self.whole[block] = request
            return
        pieces.append(block[start:])
        if len(self._shapes) >= KNOWN_SHAPES_MAX:
            self._shapes.pop()
        self._shapes.insert(0, (tuple(pieces), self._limits.header_list_bytes_max - decoded.list_bytes + held, request))


def _fits(block: bytes, pieces: tuple[bytes, ...], room: int) -> bool:
    """Whether the block is these pieces with a sound value between each two, its list no longer than `room` allows. HOT."""
    position = len(pieces[0])
    end = len(block)
    for piece in pieces[1:]:
        if position >= end:
            return False
        length = block[position]
        position += 1
        if length & 0x80:
            length &= 0x7F
            stop = position + length
            state = huffman.START_VISIBLE
            for byte in block[position:stop]:
                state = state[byte]
            if not state[huffman.MAY_END]:
                return False
            room -= int(length * _SYMBOLS_PER_BYTE)
        else:
            stop = position + length
            if block[position:stop].translate(None, _VISIBLE):
                return False
            room -= length
        if length > _VALUE_BYTES_MAX or room < 0 or stop > end or not block.startswith(piece, stop):
            return False
        position = stop + len(piece)
    return position == end
