"""Huffman strings of RFC 7541, a byte at a time. The code table is the hpack library's; what walks it is ours.

A state is a list: at 0 to 255 the next state for that byte, at 256 whether a string may end here, at 257 to 512 the symbols that
byte completes. Walking is one index per byte (20 ns), which is what lets a block be checked that differs from the last one only in
its `traceparent` (40 bytes of Huffman code; the library takes 10 us for them).
"""

from typing import Any, TypeAlias

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

State: TypeAlias = list[Any]

MAY_END = 256
SYMBOLS = 257


def _tree() -> list[list[int]]:
    """Inner nodes of the code; a child is a node's number, or -1 - symbol for a leaf."""
    nodes = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if nodes[node][bit] == 0:
                nodes.append([0, 0])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][code & 1] = -1 - symbol
    return nodes


def _step(nodes: list[list[int]], node: int, bits: int, count: int, allowed: frozenset[int]) -> tuple[int, bytes]:
    """The node after these bits and the symbols they complete; -1 once a symbol was met that is not allowed."""
    symbols = b""
    for shift in range(count - 1, -1, -1):
        node = nodes[node][bits >> shift & 1]
        if node < 0:
            if -1 - node not in allowed:
                return -1, b""
            symbols += bytes((-1 - node,))
            node = 0
    return node, symbols


def _states(allowed: frozenset[int]) -> State:
    nodes = _tree()
    nibbles = [[_step(nodes, node, bits, 4, allowed) for bits in range(16)] for node in range(len(nodes))]
    broken: State = []
    broken.extend([broken] * 256)
    broken.append(False)
    broken.extend([b""] * 256)
    states: list[State] = [[] for _ in nodes]
    endings = {0}
    node = 0
    for _ in range(7):  # padding: up to seven bits of the end-of-string symbol, which is all ones
        node = nodes[node][1]
        endings.add(node)
    shared: dict[bytes, bytes] = {}
    for number, state in enumerate(states):
        symbols: list[bytes] = []
        for byte in range(256):
            middle, first = nibbles[number][byte >> 4]
            end, second = nibbles[middle][byte & 15] if middle >= 0 else (-1, b"")
            state.append(states[end] if end >= 0 else broken)
            symbols.append(shared.setdefault(first + second, first + second))
        state.append(number in endings)
        state.extend(symbols)
    return states[0]


#: Every symbol but the end of string, which may not be in one (RFC 7541 section 5.2).
START: State = _states(frozenset(range(256)))
#: Only strings of visible ASCII end well from here: what a value is checked with that nobody reads.
START_VISIBLE: State = _states(frozenset(range(0x21, 0x7F)))


def decode(code: bytes) -> bytes | None:
    """The string, or None where the code is broken: a wrong padding or the end-of-string symbol inside."""
    state = START
    parts = []
    for byte in code:
        parts.append(state[SYMBOLS + byte])
        state = state[byte]
    return b"".join(parts) if state[MAY_END] else None
