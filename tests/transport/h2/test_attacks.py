"""Promise 14 on the core: each attack is ended or throttled, and what it costs us until then is bounded.

An attack is a stream of bytes without end. It is fed in turns, as the shell feeds it, until the connection ends or 1 MiB was sent.
Held to: the bytes until it ends, the thread CPU of any turn, the CPU per KiB, the handlers begun, the memory held.
"""

import gzip
import itertools
import time
import tracemalloc
from collections.abc import Callable, Iterator

import hpack
import pytest

from extauthz.transport.h2 import frames
from extauthz.transport.h2.frames import ENHANCE_YOUR_CALM
from tests.transport.core import COLLECT, HELLO, SETTINGS_ACK, Core, call, fields, goaway_code, headers, literal_block, message

KIB, MIB = 1_024, 1_024 * 1_024
SENT_MAX = 1 * MIB
TURN_CPU_MAX_S = 0.020
CPU_PER_KIB_MAX_S = 0.002
CPU_TRIES = 4

Attack = Callable[[], Iterator[bytes]]
EMPTY_DATA = frames.frame(frames.DATA, 0, 3)


def odd(start: int = 3) -> Iterator[int]:
    return itertools.count(start, 2)


def rapid_reset() -> Iterator[bytes]:
    return (call(at) + frames.rst_stream(at, frames.CANCEL) for at in odd())


def rapid_reset_before_the_message() -> Iterator[bytes]:
    return (headers(at) + frames.rst_stream(at, frames.CANCEL) for at in odd())


def rapid_reset_with_a_far_deadline() -> Iterator[bytes]:
    return (headers(at, ("grpc-timeout", "1H")) + message(at) + frames.rst_stream(at, frames.CANCEL) for at in odd())


def made_by_a_zero_window_update() -> Iterator[bytes]:
    return (call(at) + frames.window_update(at, 0) for at in odd())


def made_by_a_window_overflow() -> Iterator[bytes]:
    return (call(at) + frames.window_update(at, 2**31 - 1) for at in odd())


def made_by_data_after_the_end() -> Iterator[bytes]:
    return (call(at) + message(at) for at in odd())


def made_by_headers_after_the_end() -> Iterator[bytes]:
    return (call(at) + headers(at) for at in odd())


def made_by_a_priority_of_a_wrong_size() -> Iterator[bytes]:
    return (call(at) + frames.frame(frames.PRIORITY, 0, at, b"1234") for at in odd())


def made_by_a_wrong_content_length() -> Iterator[bytes]:
    return (headers(at, ("content-length", "1")) + message(at) for at in odd())


def made_by_a_malformed_header_list() -> Iterator[bytes]:
    return (headers(at, ("connection", "close")) for at in odd())


def continuation_flood() -> Iterator[bytes]:
    yield frames.frame(frames.HEADERS, 0, 3, b"\x00\x01a\x01b" * 10)
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 3, b"\x00\x01a\x01b" * 10))


def continuation_flood_of_full_frames() -> Iterator[bytes]:
    yield frames.frame(frames.HEADERS, 0, 3, b"\x00\x01a\x01b" * 3_000)
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 3, b"\x00\x01a\x01b" * 3_000))


def empty_continuation_flood() -> Iterator[bytes]:
    yield frames.frame(frames.HEADERS, 0, 3, b"\x83")
    yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 3))


def empty_headers_and_continuations_without_end() -> Iterator[bytes]:
    for at in odd():
        yield frames.frame(frames.HEADERS, 0, at) + frames.frame(frames.CONTINUATION, frames.END_HEADERS, at)


def ping_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.frame(frames.PING, 0, 0, b"12345678"))


def ping_answer_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.frame(frames.PING, frames.ACK, 0, b"12345678"))


def settings_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.settings({}))


def settings_answer_flood() -> Iterator[bytes]:
    return itertools.repeat(SETTINGS_ACK)


def large_settings() -> Iterator[bytes]:
    return itertools.repeat(frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 2_730))


def window_update_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.window_update(0, 1))


def reset_flood() -> Iterator[bytes]:
    yield call(3)
    yield from itertools.repeat(frames.rst_stream(3, 0))


def priority_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\1\0"))


def unknown_frame_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.frame(99, 0, 0))


def goaway_flood() -> Iterator[bytes]:
    return itertools.repeat(frames.goaway(0, 0))


def empty_data_flood() -> Iterator[bytes]:
    yield headers(3, path=COLLECT)
    yield from itertools.repeat(EMPTY_DATA)


def empty_data_between_others() -> Iterator[bytes]:
    yield headers(3, path=COLLECT)
    yield from itertools.repeat(EMPTY_DATA + frames.frame(frames.DATA, 0, 3, b"\0"))


def padding_only_flood() -> Iterator[bytes]:
    yield headers(3, path=COLLECT)
    yield from itertools.repeat(frames.frame(frames.DATA, frames.PADDED, 3, b"\xff" + b"\0" * 255))


def data_on_a_reset_stream() -> Iterator[bytes]:
    yield headers(3, ("content-length", "1")) + message(3)
    yield from itertools.repeat(frames.frame(frames.DATA, 0, 3))


def zero_length_headers() -> Iterator[bytes]:
    block = literal_block(fields()) + b"\x00\x00\x00" * 200
    return (frames.frame(frames.HEADERS, 5, at, block) for at in odd())


def many_static_fields() -> Iterator[bytes]:
    block = literal_block(fields()) + b"\x8f" * 170
    return (frames.frame(frames.HEADERS, 5, at, block) for at in odd())


def many_different_blocks() -> Iterator[bytes]:
    return (headers(at, *((f"x-{at}-{number}", "v") for number in range(60)), flags=5) for at in odd())


def hpack_bomb() -> Iterator[bytes]:
    """One entry of 4 KiB in the table, then references of one octet to it; it needs a table, so it never acknowledges."""
    encoder = hpack.Encoder()
    yield frames.frame(frames.HEADERS, 5, 3, encoder.encode([*fields(), ("x-bomb", "b" * 3_900)]))
    yield from (frames.frame(frames.HEADERS, 5, at, b"\xbe" * 16_000) for at in odd(5))


def hpack_small_references() -> Iterator[bytes]:
    """As many references as the list allows, for ever, without acknowledging our settings."""
    block = literal_block(fields()) + b"\x8f" * 90
    return (frames.frame(frames.HEADERS, 5, at, block) for at in odd())


def size_update_flood() -> Iterator[bytes]:
    return (frames.frame(frames.HEADERS, 5, at, b"\x20" * 16_000) for at in odd())


def huffman_bomb() -> Iterator[bytes]:
    """Zeros are five bits of Huffman code each: the list grows by 8/5."""
    begin = literal_block(fields())
    code = hpack.Encoder().huffman_coder.encode(b"0" * 7_000)
    size = len(code) - 127
    value = bytes((0xFF, size & 0x7F | 0x80, size >> 7)) + code
    for at in odd():
        name = b"%06d" % at
        yield frames.frame(frames.HEADERS, 5, at, begin + b"\x00\x06" + name + value)


def gzip_bomb() -> Iterator[bytes]:
    body = gzip.compress(b"\0" * 12_000_000)
    data = b"\1" + len(body).to_bytes(4, "big") + body
    assert len(data) < 16_384
    return (headers(at, ("grpc-encoding", "gzip")) + frames.frame(frames.DATA, 1, at, data) for at in odd())


def skipped_ids() -> Iterator[bytes]:
    return (call(at) for at in itertools.count(5, 4))


#: Each attack, and whether the connection must end (else it is served, within the bounds).
ENDED: list[Attack] = [
    rapid_reset,
    rapid_reset_before_the_message,
    rapid_reset_with_a_far_deadline,
    made_by_a_zero_window_update,
    made_by_a_window_overflow,
    made_by_data_after_the_end,
    made_by_headers_after_the_end,
    made_by_a_priority_of_a_wrong_size,
    made_by_a_wrong_content_length,
    made_by_a_malformed_header_list,
    continuation_flood,
    continuation_flood_of_full_frames,
    empty_continuation_flood,
    empty_headers_and_continuations_without_end,
    ping_flood,
    ping_answer_flood,
    settings_flood,
    settings_answer_flood,
    large_settings,
    window_update_flood,
    reset_flood,
    priority_flood,
    unknown_frame_flood,
    goaway_flood,
    empty_data_flood,
    empty_data_between_others,
    data_on_a_reset_stream,
    zero_length_headers,
    hpack_bomb,
    size_update_flood,
    skipped_ids,
]
BOUNDED: list[Attack] = [many_static_fields, many_different_blocks, huffman_bomb, gzip_bomb, padding_only_flood]


#: Where two bounds could end an attack, the one that must.
REASONS = {
    rapid_reset: "too many streams were reset",
    made_by_a_wrong_content_length: "too many streams had to be reset",
    continuation_flood: "a header block too large",
    empty_continuation_flood: "empty CONTINUATION in a row",
    empty_headers_and_continuations_without_end: "empty CONTINUATION in a row",
    ping_flood: "too many pings",
    settings_flood: "too many settings",
    large_settings: "too many settings",
    size_update_flood: "too many table-size updates",
    skipped_ids: "too many stream ids left out",
}


def turns(attack: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The attack's bytes, as many at once as the shell hands over."""
    buffer = b""
    for piece in attack:
        buffer += piece
        while len(buffer) >= size:
            yield buffer[:size]
            buffer = buffer[size:]


def suffer(core: Core, attack: Attack) -> tuple[int, float, float]:
    """Bytes until the end, CPU of the worst turn, CPU of all. No time passes for the buckets."""
    sent, worst, total = 0, 0.0, 0.0
    for data in turns(attack(), core.connection.turn_bytes):
        before = time.thread_time()
        core.connection.receive(data, core.now)
        core.connection.take_output()
        spent = time.thread_time() - before
        sent += len(data)
        worst, total = max(worst, spent), total + spent
        if core.connection.closing or sent >= SENT_MAX:
            break
    return sent, worst, total


def tell(attack: Attack, core: Core, sent: int, worst: float, total: float) -> None:
    end = core.connection.closing or "served"
    print(f"\n  {attack.__name__}: {end} at {sent >> 10} KiB, worst turn {worst * 1e3:.1f} ms, {total * 1e3:.0f} ms")


def begun(attack: Attack, reply: bytes | None = None) -> Core:
    if attack in (hpack_bomb, hpack_small_references, size_update_flood):
        core = Core(reply=reply)  # these need the library to decode
        core.feed(HELLO + SETTINGS_ACK)
        return core
    return Core(reply=reply).shaken()


def suffered(attack: Attack) -> tuple[Core, int]:
    """The core after an attack that cost no more than it may, and the bytes it took. A neighbour on the machine makes the same
    instructions cost more CPU time, so the cheapest of a few runs is what the attack costs.
    """
    costs: list[tuple[float, float]] = []
    for _ in range(CPU_TRIES):
        core = begun(attack)
        sent, worst, total = suffer(core, attack)
        tell(attack, core, sent, worst, total)
        costs.append((worst, total / (sent / KIB)))
        if min(turn for turn, _ in costs) < TURN_CPU_MAX_S and min(per_kib for _, per_kib in costs) < CPU_PER_KIB_MAX_S:
            return core, sent
    pytest.fail(f"{attack.__name__} costs too much, seconds of the worst turn and per KiB: {costs}")


@pytest.mark.prove(14)
@pytest.mark.parametrize("attack", [*ENDED, hpack_small_references], ids=lambda attack: attack.__name__)
def test_an_attack_ends_the_connection_within_bounds(attack: Attack) -> None:
    core, sent = suffered(attack)
    assert core.connection.closing
    assert core.connection.closing == REASONS.get(attack, core.connection.closing)
    assert sent < SENT_MAX
    assert len(core.started) <= 1_024 + core.connection.limits.resets_max
    assert core.connection.streams == {}
    assert core.connection.lingering == 0


@pytest.mark.prove(14)
@pytest.mark.parametrize("attack", BOUNDED, ids=lambda attack: attack.__name__)
def test_what_is_served_costs_a_bounded_time_and_memory(attack: Attack) -> None:
    core, _ = suffered(attack)
    assert len(core.connection.streams) <= core.connection.limits.streams_max


@pytest.mark.prove(14)
@pytest.mark.parametrize("attack", [*ENDED, *BOUNDED], ids=lambda attack: attack.__name__)
def test_an_attack_holds_little_memory(attack: Attack, proving: bool) -> None:
    core = begun(attack)
    pieces = list(itertools.islice(turns(attack(), 8 * KIB), 128 if proving else 16))
    tracemalloc.start()
    for data in pieces:
        core.connection.receive(data, core.now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MIB


@pytest.mark.prove(14)
def test_data_dribble_and_a_window_that_stays_shut_hold_one_answer_a_stream() -> None:
    """The client opens windows an octet at a time, or never: what waits is bounded by the streams, and goes after 30 s."""
    core = Core(reply=b"a" * 2_000).shaken()
    core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), *(call(at) for at in itertools.islice(odd(), 1_100)))
    assert len(core.connection.streams) == 1_024
    before = time.thread_time()
    for _ in range(200):
        core.feed(*(frames.window_update(at, 1) for at in itertools.islice(odd(), 100)))
        if core.connection.closing:
            break
    assert core.connection.closing == "too many frames that ask for nothing"
    assert time.thread_time() - before < 0.5


@pytest.mark.prove(14)
def test_answers_that_are_not_read_end_at_their_bound() -> None:
    core = Core().shaken()
    found = []
    for _ in range(2_000):
        core.now += 0.2
        core.connection.receive(frames.frame(frames.PING, 0, 0, b"12345678"), core.now)  # and nobody takes the output
        if core.connection.closing:
            break
    found = core.output()
    assert goaway_code(found) == ENHANCE_YOUR_CALM
    assert len([1 for kind, *_ in found if kind == frames.PING]) == 1_000


def test_envoys_own_resets_of_late_answers_are_no_attack() -> None:
    """Row 16: calls are reset at their deadline of 200 ms, 1,000 at once, again and again, and nothing ends."""
    core = Core(reply=None).shaken()
    at = 3
    for _ in range(10):
        ids = range(at, at + 2_000, 2)
        at += 2_000
        core.feed(*(headers(stream_id, ("grpc-timeout", "200m")) + message(stream_id) for stream_id in ids))
        core.feed(*(frames.rst_stream(stream_id, frames.CANCEL) for stream_id in ids), after_s=0.199)
        core.now += 0.001
    assert core.connection.closing == ""
    assert len(core.started) == 10_000
    core.reply = b"pong"
    assert core.statuses(core.feed(call(at))) == {at: "0"}


def test_resets_of_answered_streams_are_no_attack() -> None:
    core = Core().shaken()
    for at in itertools.islice(odd(), 8_000):
        core.feed(call(at) + frames.rst_stream(at, frames.CANCEL))
    assert core.connection.closing == ""


def test_an_honest_client_at_full_speed_trips_nothing() -> None:
    """Window updates for stream and connection, and a probe now and then, as grpcio and Envoy send them."""
    core = Core().shaken()
    for at in itertools.islice(odd(), 8_000):
        core.feed(call(at) + frames.window_update(0, 300) + frames.window_update(at, 300), after_s=0.0001)
        if at % 2_000 == 1:
            core.feed(frames.frame(frames.PING, 0, 0, b"12345678"))
            core.connection.slow_tick(core.now, 0.5)
    assert core.connection.closing == ""


def test_the_window_updates_of_every_open_stream_at_once_trip_nothing() -> None:
    core = Core(reply=None).shaken()
    ids = list(itertools.islice(odd(), 1_024))
    core.feed(*(call(at) for at in ids))
    core.connection.slow_tick(0.5, 0.5)
    for stream in list(core.running.values()):
        core.connection.answer(stream, b"pong")
    core.feed(*(frames.window_update(at, 300) + frames.window_update(0, 300) for at in ids))
    assert core.connection.closing == ""
