"""Replies find the commands they belong to, however the bytes arrive; what does not belong ends the connection."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.redisio import pipeline
from extauthz.redisio.errors import BrokenProtocol, CommandFailed, NotSent, OutcomeUnknown, ServerBusy
from extauthz.redisio.pipeline import Pipeline, pack

STREAM = b"+OK\r\n:7\r\n$-1\r\n$5\r\nab\r\nc\r\n*3\r\n:1\r\n*1\r\n$1\r\nx\r\n$-1\r\n-OOM full\r\n-NOPERM no\r\n*0\r\n$0\r\n\r\n"
REPLIES = [b"OK", 7, None, b"ab\r\nc", [1, [b"x"], None], ("OOM", ServerBusy), ("NOPERM", CommandFailed), [], b""]


class Told:
    """A waiter that remembers what it was told, each time."""

    def __init__(self, deadline: float = inf, limit: float = inf) -> None:
        self.deadline = deadline
        self.limit = limit
        self.told: list[Any] = []

    def deliver(self, value: Any, /) -> None:
        self.told.append((value.code, type(value)) if isinstance(value, ServerBusy | CommandFailed) else value)

    def done(self) -> bool:
        return bool(self.told)


def waiting(count: int) -> tuple[Pipeline, list[Told]]:
    told = [Told() for _ in range(count)]
    line = Pipeline()
    line.waiting.extend(told)
    return line, told


def feed_all(line: Pipeline, pieces: Iterable[bytes]) -> bool:
    return any([line.receive(piece) for piece in pieces])  # noqa: C419 — all of them, also after the first yes


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    return (data[position : position + 1] for position in range(len(data)))


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_each_command_gets_its_own_reply(feed: Callable[[bytes], Iterator[bytes]]) -> None:
    line, told = waiting(len(REPLIES))
    assert not feed_all(line, feed(STREAM))
    assert [[reply] for reply in REPLIES] == [waiter.told for waiter in told]
    assert not line.waiting


@given(cuts=st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=8), count=st.integers(min_value=1, max_value=12))
def test_bytes_cut_anywhere_give_the_same_replies(cuts: list[int], count: int) -> None:
    line, told = waiting(len(REPLIES) * count)
    data = STREAM * count
    places = [0, *sorted(cut * count for cut in cuts), len(data)]
    feed_all(line, (data[start:end] for start, end in pairwise(places)))
    assert [[reply] for reply in REPLIES] * count == [waiter.told for waiter in told]


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400\r\n", b"\x00", b"*-7\r\n", b"$abc\r\n", b">1\r\n+push\r\n", b"#t\r\n", b"%0\r\n", b",1.5\r\n"]
)
def test_garbage_after_a_reply_breaks_the_protocol_and_reaches_nobody(
    feed: Callable[[bytes], Iterator[bytes]], garbage: bytes
) -> None:
    line, told = waiting(2)
    with pytest.raises(BrokenProtocol):
        feed_all(line, feed(b"+one\r\n" + garbage + b"\r\n"))
    assert [waiter.told for waiter in told] == [[b"one"], []]


def test_reply_to_no_command_breaks_the_protocol() -> None:
    line, told = waiting(1)
    with pytest.raises(BrokenProtocol, match="no command"):
        line.receive(b"+one\r\n+two\r\n")
    assert told[0].told == [b"one"]
    with pytest.raises(BrokenProtocol, match="DENIED"):
        Pipeline().receive(b"-DENIED running in protected mode\r\n")


def test_endless_reply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "REPLY_BYTES_MAX", 1_000)
    line, told = waiting(1)
    with pytest.raises(BrokenProtocol, match="more than"):
        feed_all(line, byte_by_byte(b"$100000\r\n" + b"x" * 2_000))
    assert told[0].told == []


@pytest.mark.parametrize(
    "text", [b"-READONLY x", b"-ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY x"]
)
def test_server_that_is_no_primary_is_left_after_its_replies_were_delivered(text: bytes) -> None:
    line, told = waiting(3)
    assert line.receive(b"+one\r\n" + text + b"\r\n+three\r\n")
    assert [[b"one"], [("READONLY", ServerBusy)], [b"three"]] == [waiter.told for waiter in told]


def test_late_waiters_are_told_once_and_keep_their_place() -> None:
    line = Pipeline()
    late, patient, later = Told(1.0, 10.0), Told(inf, 11.0), Told(3.0, 12.0)
    line.waiting.extend((late, patient, later))
    assert line.expire(2.0) == 3.0
    assert [type(value) for value in late.told] == [OutcomeUnknown]
    assert line.expire(2.5) == 3.0
    assert len(late.told) == 1
    assert line.stalls_at() == 10.0
    late.told.clear()
    line.receive(b"+late\r\n+patient\r\n")
    assert [late.told, patient.told, later.told] == [[b"late"], [b"patient"], []]
    assert line.stalls_at() == 12.0


@pytest.mark.parametrize("unwritten", range(4))
def test_a_lost_connection_tells_the_written_from_the_unwritten(unwritten: int) -> None:
    line, told = waiting(3)
    line.fail(unwritten, NotSent("gone"), OutcomeUnknown("gone"))
    assert [OutcomeUnknown] * (3 - unwritten) + [NotSent] * unwritten == [type(waiter.told[0]) for waiter in told]
    assert len({id(waiter.told[0]) for waiter in told}) == 3, "an exception of its own for each"
    assert not line.waiting


def test_command_is_packed_as_bulk_strings() -> None:
    assert pack("SET", b"k\r\n", -1, "ä") == b"*4\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n-1\r\n$2\r\n\xc3\xa4\r\n"
