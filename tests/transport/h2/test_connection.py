"""The core fed frames: what it calls, what it answers, what it holds back, and how it ends."""

import gzip
import math

import pytest

from extauthz.transport.h2 import frames
from extauthz.transport.h2.streams import Message
from extauthz.transport.seam import DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED
from tests.transport.core import (
    COLLECT,
    HELLO,
    SETTINGS_ACK,
    WATCH,
    Core,
    call,
    fields,
    goaway_code,
    headers,
    literal_block,
    message,
)

KIB = 1_024


def window_update(stream_id: int, increment: int) -> bytes:
    return frames.window_update(stream_id, increment)


def data_of(found: list[tuple[int, int, int, bytes]], stream_id: int) -> bytes:
    return b"".join(payload for kind, _, at, payload in found if kind == frames.DATA and at == stream_id)


def test_a_greeting_is_settings_and_a_window() -> None:
    first = Core().output()
    assert [kind for kind, *_ in first] == [frames.SETTINGS, frames.WINDOW_UPDATE]
    assert dict(frames.setting_pairs(first[0][3])) == {3: 1_024, 4: 263_173, 6: 8_192}


def test_a_call_is_answered_with_headers_message_and_status() -> None:
    core = Core().shaken()
    found = core.feed(call(3, b"hello"))
    assert core.started == [(3, b"hello")]
    assert [(kind, flags, stream_id) for kind, flags, stream_id, _ in found] == [(1, 4, 3), (0, 0, 3), (1, 5, 3)]
    assert core.fields_of(found[0][3]) == {":status": "200", "content-type": "application/grpc"}
    assert found[1][3] == b"\0\0\0\0\4pong"
    assert core.fields_of(found[2][3]) == {"grpc-status": "0"}
    assert core.connection.streams == {}


def test_the_empty_table_is_asked_for_with_the_first_call_and_not_before() -> None:
    core = Core()
    core.feed(HELLO)
    get = frames.frame(frames.HEADERS, 5, 1, literal_block([(":method", "GET"), (":path", "/"), (":scheme", "http")]))
    assert frames.SETTINGS not in [kind for kind, *_ in core.feed(get)]
    asked = [
        frames.setting_pairs(payload) for kind, flags, _, payload in core.feed(call(3)) if kind == frames.SETTINGS and not flags
    ]
    assert asked == [[(frames.HEADER_TABLE_SIZE, 0)]]
    assert frames.SETTINGS not in [kind for kind, *_ in core.feed(call(5))]


WHOLE = HELLO + SETTINGS_ACK + call(1) + SETTINGS_ACK + call(3) + headers(5, ("x", "y")) + message(5, b"p" * 300) + call(7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9, 10, 64, len(WHOLE)])
def test_however_the_bytes_are_cut_the_calls_are_the_same(size: int) -> None:
    core = Core()
    core.output()
    found = core.feed(*(WHOLE[at : at + size] for at in range(0, len(WHOLE), size)))
    assert core.started == [(1, b"ping"), (3, b"ping"), (5, b"p" * 300), (7, b"ping")]
    assert core.statuses(found) == {1: "0", 3: "0", 5: "0", 7: "0"}
    assert core.connection.closing == ""


def test_trailing_garbage_ends_the_connection_after_the_calls_before_it() -> None:
    core = Core()
    found = core.feed(WHOLE + b"\xff" * 20)
    assert core.statuses(found) == {1: "0", 3: "0", 5: "0", 7: "0"}
    assert goaway_code(found) == frames.FRAME_SIZE_ERROR
    assert core.connection.closing


def test_what_comes_after_the_end_is_not_read() -> None:
    core = Core().shaken()
    core.feed(b"\xff" * 20)
    assert core.feed(call(3)) == []
    assert core.started == []


# -- messages


@pytest.mark.parametrize("size", [1, 5, 6, 100])
def test_a_message_in_pieces_is_put_together(size: int) -> None:
    core = Core().shaken()
    body = b"\0\0\0\1\0" + bytes(range(256))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    sent = [frames.frame(frames.DATA, int(piece is pieces[-1]), 3, piece) for piece in pieces]
    found = core.feed(headers(3), *sent)
    assert core.started == [(3, bytes(range(256)))]
    assert core.statuses(found) == {3: "0"}


def test_an_empty_message_is_a_message() -> None:
    core = Core().shaken()
    assert core.statuses(core.feed(call(3, b""))) == {3: "0"}
    assert core.started == [(3, b"")]


def test_the_last_piece_of_a_message_is_no_message_although_it_looks_like_one() -> None:
    core = Core().shaken()
    inner = b"\0\0\0\0\4ping"
    core.feed(headers(3), frames.frame(frames.DATA, 0, 3, b"\0\0\0\0\x0cabc"), frames.frame(frames.DATA, 1, 3, inner))
    assert core.started == [(3, b"abc" + inner)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", INTERNAL),
        (b"\0\0\0", INTERNAL),
        (b"\0\0\0\0\5ping", INTERNAL),
        (b"\0\0\0\0\3ping", INTERNAL),
        (b"\0\0\0\0\4ping\0\0\0\0\4ping", INTERNAL),
        (b"\1\0\0\0\4ping", INTERNAL),
        (b"\2\0\0\0\4ping", INTERNAL),
        (b"\0\0\4\0\1", RESOURCE_EXHAUSTED),
        (b"\0\xff\xff\xff\xff", RESOURCE_EXHAUSTED),
    ],
)
@pytest.mark.parametrize("is_end", [True, False])
def test_a_body_that_is_not_one_message_is_a_status_and_never_a_call(body: bytes, status: int, is_end: bool) -> None:
    core = Core().shaken()
    rest = b"" if is_end else frames.frame(frames.DATA, 1, 3, b"")
    found = core.feed(headers(3), frames.frame(frames.DATA, int(is_end), 3, body), rest, call(5))
    assert core.started == [(5, b"ping")]
    assert core.statuses(found) == {3: str(status), 5: "0"}


def test_an_oversized_message_is_refused_at_its_prefix_and_the_client_told_to_stop() -> None:
    core = Core().shaken()
    found = core.feed(headers(3), frames.frame(frames.DATA, 0, 3, b"\0\0\4\0\1"))
    assert core.statuses(found) == {3: str(RESOURCE_EXHAUSTED)}
    assert core.resets(found) == {3: frames.NO_ERROR}
    assert core.feed(frames.frame(frames.DATA, 0, 3, b"x" * 1_000)) == []  # on its way when we answered


def gzipped(data: bytes) -> bytes:
    body = gzip.compress(data)
    return b"\1" + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzipped(b"hello"), 0),
        (gzipped(b"x" * 256 * KIB), 0),
        (gzipped(b"x" * (256 * KIB + 1)), RESOURCE_EXHAUSTED),
        (gzipped(b"\0" * 100_000_000), RESOURCE_EXHAUSTED),
        (b"\1\0\0\0\4ping", INTERNAL),
        (b"\1\0\0\0\0", INTERNAL),
        (gzipped(b"x")[:5].replace(b"\x15", b"\x05") + gzipped(b"x")[5:10], INTERNAL),
        (b"\0\0\0\0\4ping", 0),
    ],
    ids=range(8),
)
def test_gzip_inflates_up_to_the_cap(body: bytes, status: int) -> None:
    core = Core().shaken()
    sent = [
        frames.frame(frames.DATA, int(at + 16_000 >= len(body)), 3, body[at : at + 16_000]) for at in range(0, len(body), 16_000)
    ]
    found = core.feed(headers(3, ("grpc-encoding", "gzip")), *sent)
    assert core.statuses(found) == {3: str(status)}
    assert core.connection._inflated_left == 8 * KIB * KIB


def test_inflated_messages_of_running_handlers_are_bounded_together() -> None:
    core = Core(reply=None, inflated_bytes=1_000_000).shaken()
    bomb = gzipped(b"x" * 256 * KIB)
    found = core.feed(*(headers(at, ("grpc-encoding", "gzip")) + frames.frame(frames.DATA, 1, at, bomb) for at in range(3, 23, 2)))
    assert len(core.started) == 3
    assert set(core.statuses(found).values()) == {str(RESOURCE_EXHAUSTED)}
    for stream in list(core.running.values()):
        core.connection.answer(stream, b"pong")
    assert core.connection._inflated_left == 1_000_000


# -- deadlines, resets, slots


def test_a_deadline_counts_from_the_arrival_of_the_headers() -> None:
    core = Core(reply=None).shaken()
    core.feed(headers(3, ("grpc-timeout", "200m")), headers(5), after_s=10.0)
    core.feed(message(3), message(5), after_s=0.1)
    assert [core.running[3].deadline, core.running[5].deadline] == [pytest.approx(10.2), math.inf]
    core.connection.tick(10.19)
    assert core.cancelled == []
    core.connection.tick(10.2)
    assert [stream.id for stream in core.cancelled] == [3]
    assert core.statuses(core.output()) == {3: str(DEADLINE_EXCEEDED)}


def test_a_deadline_that_passes_before_the_message_came_is_answered() -> None:
    core = Core(reply=None).shaken()
    core.feed(headers(3, ("grpc-timeout", "200m")))
    core.connection.tick(0.3)
    found = core.output()
    assert core.statuses(found) == {3: str(DEADLINE_EXCEEDED)}
    assert core.resets(found) == {3: frames.NO_ERROR}
    assert (core.started, core.cancelled) == ([], [])


def test_a_reset_cancels_the_handler_and_nothing_is_sent() -> None:
    core = Core(reply=None).shaken()
    core.feed(call(3))
    assert core.feed(frames.rst_stream(3, frames.CANCEL)) == []
    assert [stream.id for stream in core.cancelled] == [3]
    assert core.connection.lingering == 0


def test_a_handler_counts_until_its_work_ends() -> None:
    core = Core(reply=None, is_stubborn=True, streams_max=4).shaken()
    core.feed(*(call(at) + frames.rst_stream(at, frames.CANCEL) for at in (3, 5, 7, 9)))
    assert (core.connection.streams, core.connection.lingering) == ({}, 4)
    assert core.resets(core.feed(call(11))) == {11: frames.REFUSED_STREAM}
    core.connection.release(core.cancelled[0])
    core.feed(call(13))
    assert list(core.running) == [13]


def test_the_stream_beyond_the_limit_is_refused_and_the_others_go_on() -> None:
    core = Core(reply=None, streams_max=4).shaken()
    found = core.feed(*(call(at) for at in range(3, 15, 2)))
    assert core.resets(found) == {11: frames.REFUSED_STREAM, 13: frames.REFUSED_STREAM}
    core.connection.answer(core.running[3], b"pong")
    assert core.statuses(core.output()) == {3: "0"}


def test_an_answer_after_the_end_of_the_connection_only_frees_the_slot() -> None:
    core = Core(reply=None, is_stubborn=True).shaken()
    core.feed(call(3))
    core.connection.lost()
    assert core.connection.lingering == 1
    core.connection.release(core.cancelled[0])
    assert core.connection.lingering == 0


# -- windows


def test_an_answer_waits_for_the_windows_and_comes_in_order() -> None:
    core = Core(reply=b"a" * 100).shaken()
    core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    found = core.feed(call(3))
    assert [(kind, len(payload)) for kind, _, _, payload in found if kind == frames.DATA] == [(0, 10)]
    found += core.feed(window_update(3, 20), window_update(3, 30))
    assert len(data_of(found, 3)) == 60
    assert core.statuses(found) == {}
    found += core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 100}))
    assert data_of(found, 3) == b"\0\0\0\0d" + b"a" * 100
    assert core.statuses(found) == {3: "0"}


def test_the_connections_window_is_shared_and_first_come_first_served() -> None:
    core = Core(reply=b"a" * 30_000).shaken()
    found = core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**20}), *(call(at) for at in (3, 5, 7)))
    sent = sum(len(payload) for kind, _, _, payload in found if kind == frames.DATA)
    assert sent == 65_535 - 9  # the greeting's call took 9
    assert core.statuses(found) == {3: "0", 5: "0"}
    found += core.feed(window_update(0, 100_000))
    assert core.statuses(found) == {3: "0", 5: "0", 7: "0"}
    assert data_of(found, 7) == b"\0\0\0\x75\x30" + b"a" * 30_000


def test_small_answers_stop_at_the_end_of_the_connections_window() -> None:
    core = Core(reply=b"a" * 10_000).shaken()
    found = core.feed(*(call(at) for at in range(3, 21, 2)))
    assert sum(len(payload) for kind, _, _, payload in found if kind == frames.DATA) == 65_535 - 9
    assert len(core.statuses(found)) == 6
    found = core.feed(window_update(0, 1_000_000))
    assert len(core.statuses(found)) == 3


def test_a_window_that_went_negative_is_waited_for() -> None:
    core = Core(reply=b"a" * 50).shaken()
    core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 20}), call(3))
    core.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    assert core.feed(window_update(3, 20)) == []
    assert len(data_of(core.feed(window_update(3, 1)), 3)) == 1


def test_what_was_read_is_given_back_to_the_connections_window() -> None:
    core = Core(connection_window=100_000).shaken()
    returned = sent = 0
    for at in range(3, 203, 2):
        for kind, _, stream_id, payload in core.feed(call(at, b"x" * 5_000)):
            if (kind, stream_id) == (frames.WINDOW_UPDATE, 0):
                returned += int.from_bytes(payload, "big")
        sent += 5_005
        assert sent - returned <= 100_000
    assert core.connection.closing == ""


@pytest.mark.parametrize("how", ["answered", "cancelled", "refused", "padded", "discarded", "reset by us"])
def test_no_octet_of_the_window_is_lost(how: str) -> None:
    """However a call ends, what it took of the window comes back."""
    core = Core(reply=None if how == "cancelled" else b"pong", connection_window=70_000).shaken()
    for at in range(3, 403, 2):
        if how == "padded":
            padded = b"\x0a\0\0\0\0\4ping" + b"\0" * 10
            core.feed(headers(at), frames.frame(frames.DATA, frames.PADDED | 1, at, padded))
        elif how == "discarded":
            core.feed(headers(at, path="/nothing"), message(at, b"x" * 5_000))
        elif how == "refused":
            core.feed(headers(at), frames.frame(frames.DATA, 1, at, b"\2" + b"x" * 5_000))
        elif how == "reset by us":
            core.feed(headers(at, ("content-length", "3")), message(at, b"x" * 5_000))
        else:
            core.feed(call(at, b"x" * 5_000))
        if how == "cancelled":
            core.feed(frames.rst_stream(at, frames.CANCEL))
        assert core.connection.closing == ""
    assert core.connection._left + core.connection._owed == 70_000


def test_data_beyond_a_window_is_an_error_of_whose_window_it_is() -> None:
    core = Core(stream_window=1_000).shaken()
    found = core.feed(headers(3), frames.frame(frames.DATA, 0, 3, b"\0\0\0\x7f\xff" + b"x" * 1_000))
    assert core.resets(found) == {3: frames.FLOW_CONTROL_ERROR}
    core = Core(connection_window=70_000).shaken()
    begun = [headers(at) + frames.frame(frames.DATA, 0, at, b"\0\0\0\x7f\xff" + b"x" * 14_000) for at in range(3, 13, 2)]
    assert goaway_code(core.feed(*begun[:-1])) is None
    assert goaway_code(core.feed(begun[-1])) == frames.FLOW_CONTROL_ERROR


# -- frames that are wrong by themselves

PRIORITY = b"\0\0\0\1\x10"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frames.frame(frames.DATA, 9, 3, b"\x05\0\0\0\0"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 9, 3, b"\x06\0\0\0\0"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 9, 3), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.DATA, 0, 0, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 5, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 2, b"x"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 1, b"x"), frames.STREAM_CLOSED),
        (frames.frame(frames.HEADERS, 12, 5, b"\x01"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 36, 5, PRIORITY[:4]), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.HEADERS, 4, 0, b"\x83"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 4, b"\x83"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 1, b"\x83"), frames.STREAM_CLOSED),
        (frames.frame(frames.PRIORITY, 0, 0, PRIORITY), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 9, PRIORITY[:4]), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 0, b"\0\0\0\0"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 9, b"\0\0\0\0"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 3, b"\0\0\0"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 3), frames.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 1, 0, b"\0\2\0\0\0\0"), frames.FRAME_SIZE_ERROR),
        (frames.settings({frames.ENABLE_PUSH: 2}), frames.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 16_383}), frames.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 2**24}), frames.PROTOCOL_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), frames.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 4, 3, b"\0\0\0\2"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 3, b"12345678"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"1234567"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.GOAWAY, 0, 3, b"12345678"), frames.PROTOCOL_ERROR),
        (frames.frame(frames.GOAWAY, 0, 0, b"1234567"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 3, b"\0\0\1"), frames.FRAME_SIZE_ERROR),
        (window_update(0, 0), frames.PROTOCOL_ERROR),
        (window_update(9, 1), frames.PROTOCOL_ERROR),
        (window_update(0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
        (frames.frame(frames.CONTINUATION, 4, 3, b"\x83"), frames.PROTOCOL_ERROR),
        (headers(5, flags=0) + frames.frame(frames.CONTINUATION, 4, 7, b"\x83"), frames.PROTOCOL_ERROR),
        (headers(5, flags=0) + frames.frame(99, 0, 5), frames.PROTOCOL_ERROR),
        (headers(5, flags=0) + message(3), frames.PROTOCOL_ERROR),
        (b"\0\x40\1\x63\0\0\0\0\0", frames.FRAME_SIZE_ERROR),
    ],
)
def test_a_wrong_frame_ends_the_connection_with_its_code(sent: bytes, code: int) -> None:
    core = Core(reply=None).shaken()
    core.feed(headers(3))
    assert goaway_code(core.feed(sent)) == code
    assert core.connection.streams == {}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (window_update(3, 0), frames.PROTOCOL_ERROR),
        (window_update(3, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 3, PRIORITY[:4]), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.PRIORITY, 0, 3, b"\0\0\0\3\x10"), frames.PROTOCOL_ERROR),
        (message(3) + message(3), frames.STREAM_CLOSED),
        (message(3) + frames.frame(frames.HEADERS, 5, 3, literal_block([("x-end", "1")])), frames.STREAM_CLOSED),
        (headers(3), frames.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 3) * 2, frames.ENHANCE_YOUR_CALM),
    ],
)
def test_a_frame_wrong_for_its_stream_resets_that_stream_alone(sent: bytes, code: int) -> None:
    core = Core(reply=None).shaken()
    core.feed(headers(3) + headers(5))
    assert core.resets(core.feed(sent)) == {3: code}
    assert list(core.connection.streams) == [5]


# -- streams of messages


def test_a_client_stream_hands_over_each_message_and_its_end() -> None:
    core = Core().shaken()
    core.feed(headers(3, path=COLLECT), message(3, b"one", 0) + message(3, b"two", 0))
    assert [stream.id for stream in core.opened] == [3]
    core.feed(message(3, b"three"))
    assert core.received == [(3, b"one"), (3, b"two"), (3, b"three")]
    assert core.ended == [3]
    core.connection.answer(core.running[3], b"done")
    assert core.statuses(core.output()) == {3: "0"}


def test_a_large_message_is_given_the_window_it_needs_and_no_more() -> None:
    core = Core().shaken()
    size = 4 * KIB * KIB
    body = b"\0" + size.to_bytes(4, "big") + b"x" * size
    window = core.connection.limits.stream_window
    core.feed(headers(3, path=COLLECT))
    at = 0
    while at < len(body):
        piece = body[at : at + min(16_384, window)]
        at += len(piece)
        window -= len(piece)
        for kind, _, stream_id, payload in core.feed(frames.frame(frames.DATA, 0, 3, piece)):
            if (kind, stream_id) == (frames.WINDOW_UPDATE, 3):
                window += int.from_bytes(payload, "big")
    assert [len(data) for _, data in core.received] == [size]
    assert core.connection._large_left == 4 * KIB * KIB
    core.connection.consumed(*core.taken[0])
    assert core.connection._large_left == 8 * KIB * KIB
    assert core.connection._left + core.connection._owed == core.connection.limits.connection_window


def test_a_third_large_message_at_once_is_refused() -> None:
    core = Core().shaken()
    prefix = b"\0" + (4 * KIB * KIB).to_bytes(4, "big")
    found = core.feed(*(headers(at, path=COLLECT) + frames.frame(frames.DATA, 0, at, prefix) for at in (3, 5, 7)))
    assert core.statuses(found) == {7: str(RESOURCE_EXHAUSTED)}
    assert [stream.id for stream in core.cancelled] == [7]
    core.feed(frames.rst_stream(3, frames.CANCEL), headers(9, path=COLLECT), frames.frame(frames.DATA, 0, 9, prefix))
    assert sorted(core.running) == [5, 9]


def test_consuming_after_the_end_gives_nothing_back_twice() -> None:
    core = Core().shaken()
    core.feed(headers(3, path=COLLECT), message(3, b"x" * 1_000, 0), frames.rst_stream(3, frames.CANCEL))
    core.connection.consumed(*core.taken[0])
    assert core.connection._left + core.connection._owed == core.connection.limits.connection_window


def test_a_server_stream_sends_messages_and_then_its_status() -> None:
    core = Core().shaken()
    core.feed(headers(3, path=WATCH), message(3))
    stream = core.running[3]
    core.connection.push(stream, b"one")
    core.connection.push(stream, b"two")
    core.connection.finish(stream, 0, "")
    found = core.output()
    assert data_of(found, 3) == b"\0\0\0\0\3one\0\0\0\0\3two"
    assert [kind for kind, *_ in found] == [1, 0, 0, 1]
    assert core.statuses(found) == {3: "0"}


# -- drain and waiting


@pytest.mark.parametrize("traced", [False, True], ids=["block known whole", "block known by its shape"])
def test_a_drain_serves_what_was_on_its_way_and_refuses_what_comes_later(traced: bool) -> None:
    def call(stream_id: int) -> bytes:
        trace = [("traceparent", f"00-{stream_id:032x}-{stream_id:016x}-01")] if traced else []
        return headers(stream_id, *trace) + message(stream_id)

    core = Core().shaken()
    core.connection.drain(0.0)
    found = core.output()
    assert [int.from_bytes(payload[:4], "big") for kind, _, _, payload in found if kind == frames.GOAWAY] == [2**31 - 1]
    ping = next(payload for kind, _, _, payload in found if kind == frames.PING)
    assert core.statuses(core.feed(call(3))) == {3: "0"}
    found = core.feed(frames.frame(frames.PING, frames.ACK, 0, ping))
    assert [int.from_bytes(payload[:4], "big") for kind, _, _, payload in found if kind == frames.GOAWAY] == [3]
    assert core.feed(call(5)) == []
    assert core.started == [(3, b"ping")]
    assert core.connection.is_drained


def test_a_client_that_does_not_answer_the_ping_is_refused_after_a_second() -> None:
    core = Core(reply=None).shaken()
    core.feed(call(3))
    core.connection.drain(0.0)
    refusing = []
    for now in (0.5, 1.0):
        core.connection.slow_tick(now, 0.5)
        refusing.append((core.connection.is_refusing, core.connection.is_drained))
    assert refusing == [(False, False), (True, False)]
    core.connection.answer(core.running[3], b"pong")
    assert core.connection.is_drained


@pytest.mark.parametrize(
    ("sent", "seconds", "code"),
    [
        ([], 5.0, frames.PROTOCOL_ERROR),
        ([HELLO[:20]], 5.0, frames.PROTOCOL_ERROR),
        ([frames.PREFACE], 5.0, frames.PROTOCOL_ERROR),
        ([HELLO, headers(1, flags=0)], 5.0, frames.ENHANCE_YOUR_CALM),
        ([HELLO], 1_000.0, None),
    ],
)
def test_a_connection_that_waits_too_long_is_ended(sent: list[bytes], seconds: float, code: int | None) -> None:
    core = Core()
    core.feed(*sent)
    core.connection.slow_tick(seconds - 0.1, 0.5)
    assert goaway_code(core.output()) is None
    core.connection.slow_tick(seconds + 0.1, 0.5)
    assert goaway_code(core.output()) == code


@pytest.mark.parametrize(
    "sent",
    [
        [headers(3)],
        [headers(3), frames.frame(frames.DATA, 0, 3, b"\0\0\0\0\4pin")],
        [headers(3, path="/nothing")],
        [frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), call(3)],
    ],
)
def test_a_stream_that_waits_for_its_peer_too_long_is_reset(sent: list[bytes]) -> None:
    core = Core().shaken()
    core.feed(*sent)
    for _ in range(60):
        core.connection.slow_tick(0.0, 0.5)
    assert core.output() == []
    core.connection.slow_tick(0.0, 0.5)
    assert core.resets(core.output()) == {3: frames.CANCEL}
    assert core.connection.streams == {}


def test_a_running_handler_and_an_open_client_stream_may_take_their_time() -> None:
    core = Core(reply=None).shaken()
    core.feed(call(3), headers(5, path=COLLECT))
    for _ in range(1_000):
        core.connection.slow_tick(0.0, 0.5)
    assert core.output() == []
    assert sorted(core.running) == [3, 5]


# -- requests that are no calls


@pytest.mark.parametrize(("method", "body"), [("GET", 54), ("HEAD", 0), ("POST", 54)])
def test_what_is_no_call_gets_a_small_http_answer(method: str, body: int) -> None:
    core = Core().shaken()
    block = literal_block([(":method", method), (":path", "/"), (":scheme", "http")])
    found = core.feed(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 3, block))
    answer = core.fields_of(found[0][3])
    assert (answer[":status"], answer["content-length"]) == ("404", str(len(data_of(found, 3)) or 55))
    assert bool(data_of(found, 3)) is bool(body)
    assert found[-1][1] & frames.END_STREAM


def test_an_unknown_method_is_unimplemented_once_its_body_came() -> None:
    core = Core().shaken()
    assert core.feed(headers(3, path="/nothing")) == []
    assert core.statuses(core.feed(message(3))) == {3: str(UNIMPLEMENTED)}


def test_a_body_that_nobody_reads_is_not_read_to_its_end() -> None:
    core = Core(message_bytes_max=1_000).shaken()
    found = core.feed(headers(3, path="/nothing"), frames.frame(frames.DATA, 0, 3, b"x" * 1_001))
    assert core.statuses(found) == {3: str(UNIMPLEMENTED)}
    assert core.resets(found) == {3: frames.NO_ERROR}


def test_trailers_end_a_call_and_are_checked() -> None:
    core = Core().shaken()
    trailers = frames.frame(frames.HEADERS, 5, 3, literal_block([("x-end", "1")]))
    assert core.statuses(core.feed(headers(3), message(3, flags=0), trailers)) == {3: "0"}
    bad = frames.frame(frames.HEADERS, 5, 5, literal_block(fields()))
    assert core.resets(core.feed(headers(5), message(5, flags=0), bad)) == {5: frames.PROTOCOL_ERROR}


def test_messages_know_what_they_took() -> None:
    core = Core().shaken()
    body = gzipped(b"hello")
    core.feed(headers(3, ("grpc-encoding", "gzip"), path=COLLECT), frames.frame(frames.DATA, 0, 3, body))
    assert core.taken[0][1] == Message(b"hello", len(body), 0, 5)
    core.connection.consumed(*core.taken[0])
    assert core.connection._inflated_left == 8 * KIB * KIB
