"""Promise 15: mutated recordings of connections, fed to the HTTP/2 core.

The invariant in a sentence: whatever comes, the core raises nothing, what it sends is whole frames, it begins no handler without a
whole message, and once it has ended it says nothing more.

`python -m fuzz.h2_connection 10000000` for the long run; the seed of a failure is printed and is all that is needed to repeat it.
"""

import random
import sys
import time

from extauthz.transport.h2 import frames
from tests.transport.core import COLLECT, HELLO, SETTINGS_ACK, WATCH, Core, call, fields, headers, literal_block, message, parse

#: Recordings of whole connections, as lists of frames.
RECORDINGS: list[list[bytes]] = [
    [HELLO, SETTINGS_ACK, call(1), SETTINGS_ACK, call(3), call(5), frames.rst_stream(5, 8), call(7)],
    [
        HELLO,
        SETTINGS_ACK,
        headers(1, ("grpc-timeout", "1S")),
        message(1, b"x" * 200),
        frames.window_update(0, 100),
        headers(3),
        message(3),
    ],
    [
        *(
            HELLO,
            SETTINGS_ACK,
            headers(1, path=COLLECT),
            message(1, b"one", 0),
            message(1, b"two" * 99, 0),
            call(3),
            message(1, b"end"),
        ),
        frames.frame(frames.PING, 0, 0, b"12345678"),
    ],
    [
        *(HELLO, SETTINGS_ACK, frames.frame(frames.HEADERS, 0, 1, literal_block(fields())[:20])),
        *(frames.frame(frames.CONTINUATION, 4, 1, literal_block(fields())[20:]), message(1)),
    ],
    [
        *(HELLO, frames.settings({4: 10}), SETTINGS_ACK, call(1), SETTINGS_ACK, frames.window_update(1, 5), call(3)),
        *(frames.window_update(1, 100), frames.settings({4: 65_535}), headers(5, path=WATCH), message(5)),
    ],
    [
        HELLO,
        SETTINGS_ACK,
        frames.frame(1, 5, 1, literal_block([(":method", "GET"), (":path", "/"), (":scheme", "http")])),
        frames.goaway(0, 0),
    ],
]


def mutated(source: random.Random) -> bytes:
    """A recording with a few frames moved, doubled, dropped or swapped with another's, and a few octets changed."""
    pieces = list(source.choice(RECORDINGS))
    for _ in range(source.randrange(3)):
        at = source.randrange(len(pieces))
        match source.randrange(4):
            case 0:
                pieces.insert(at, source.choice(source.choice(RECORDINGS)))
            case 1:
                pieces.insert(source.randrange(len(pieces)), pieces[at])
            case 2 if len(pieces) > 1:
                del pieces[at]
            case _:
                pieces.append(pieces.pop(at))
    data = bytearray(b"".join(pieces))
    for _ in range(source.choice([0, 0, 0, 1, 1, 2, 5, 20])):
        at = source.randrange(len(data))
        match source.randrange(4):
            case 0:
                data[at] ^= 1 << source.randrange(8)
            case 1:
                data[at] = source.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + source.randrange(1, 10)]
            case _:
                data[at:at] = source.randbytes(source.randrange(1, 10))
        if not data:
            return b""
    return bytes(data)


def one(seed: int) -> Core:
    """One mutated connection; raises when the invariant does not hold."""
    source = random.Random(seed)
    data = mutated(source)
    core = Core(reply=source.choice([b"pong", None]))
    at = 0
    while at < len(data):
        size = source.choice([1, 7, 64, len(data)]) if at < 200 else len(data)
        core.connection.receive(data[at : at + size], core.now)
        at += size
        core.now += source.choice([0.0, 0.0, 0.01, 3.0])
        if source.random() < 0.1:
            core.connection.tick(core.now)
            core.connection.slow_tick(core.now, 0.5)
    was_closing = bool(core.connection.closing)
    parse(core.connection.take_output())
    if was_closing:
        core.connection.receive(data, core.now)
        _hold(not core.connection.take_output(), "it spoke after its end")
        _hold(not core.connection.streams, "streams outlived their connection")
    _hold(all(len(body) <= core.connection.limits.message_bytes_max for _, body in core.started), "a message beyond its bound")
    core.connection.lost()
    _hold(not core.connection.streams and not core.connection.lingering, "a slot was lost")
    limits = core.connection.limits
    if not core.taken:
        _hold(core.connection._left + core.connection._owed <= limits.connection_window, "the window grew")  # noqa: SLF001
        _hold(core.connection._large_left == limits.large_messages_bytes, "room for large messages was lost")  # noqa: SLF001
    return core


def _hold(condition: bool, otherwise: str) -> None:  # noqa: FBT001 (as assert)
    if not condition:
        raise AssertionError(otherwise)


def run(count: int, first_seed: int = 0) -> tuple[int, int, float]:
    """Connections that ended by our fault or theirs, handlers begun, and the longest CPU time of one."""
    ended = begun = 0
    longest = 0.0
    for seed in range(first_seed, first_seed + count):
        before = time.thread_time()
        try:
            core = one(seed)
        except Exception as error:
            error.add_note(f"seed {seed}: {mutated(random.Random(seed)).hex()}")
            raise
        longest = max(longest, time.thread_time() - before)
        ended += core.connection.closing != "the peer is gone"
        begun += len(core.started)
    return ended, begun, longest


if __name__ == "__main__":
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    print(run(total, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
