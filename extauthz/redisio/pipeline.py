"""The order of commands and replies on one connection, without I/O: what is waiting, what comes in, what is too late.

Redis answers in the order of the commands, so a reply belongs to the oldest command that has none. Nothing here knows of sockets,
loops or clocks; times are passed in.
"""

from collections import deque
from math import inf
from typing import Any, Final, Protocol, cast

import hiredis

from extauthz.redisio.errors import LEAVE_CODES, BrokenProtocol, CommandFailed, OutcomeUnknown, ServerBusy, error_of

#: A reply that has not ended after this many bytes is an error: the largest that we ask for is a document, 64 KiB.
REPLY_BYTES_MAX: Final = 16 << 20

_NOTHING: Final = object()
_PLAIN: Final = frozenset({bytes, int, list, type(None)})


class Waiter(Protocol):
    """Who is told. See reply.py for the times."""

    deadline: float
    limit: float

    def deliver(self, value: Any, /) -> None:
        """Take a reply, or an exception; drop it when it came too late."""

    def done(self) -> bool:
        """Whether it was told, or has given up."""


def pack(*args: bytes | str | int) -> bytes:
    """One command as Redis reads it (RESP arrays of bulk strings); text is UTF-8."""
    packed: bytes = hiredis.pack_command(cast("Any", args))
    return packed


class Pipeline:
    """The commands of one connection that have no reply yet, oldest first.

    `waiting` is public for speed: the connection appends to it what it writes, in the same order.
    """

    __slots__ = ("_feed", "_gets", "_partial_bytes", "waiting")

    def __init__(self) -> None:
        reader = hiredis.Reader(protocolError=BrokenProtocol, replyError=error_of, notEnoughData=_NOTHING)
        self._feed = reader.feed
        self._gets = reader.gets
        self._partial_bytes = 0
        self.waiting: deque[Waiter] = deque()

    def receive(self, data: bytes) -> bool:
        """Hand every whole reply in the data to its waiter; True when the server said that it is no longer the primary.

        Raises BrokenProtocol for bytes that are no reply and for a reply to no command; waiters before it were served rightly.
        """
        leave = False
        received = 0
        gets = self._gets
        take = self.waiting.popleft
        self._feed(data)
        while (reply := gets()) is not _NOTHING:
            received += 1
            if type(reply) not in _PLAIN:
                leave |= _says_leave(reply)
            try:
                waiter = take()
            except IndexError:
                # A server that turns us away says so unasked: DENIED (protected mode), ERR (too many clients).
                raise BrokenProtocol(f"a reply to no command ({getattr(reply, 'code', type(reply).__name__)})") from None
            waiter.deliver(reply)
        self._partial_bytes = 0 if received else self._partial_bytes + len(data)
        if self._partial_bytes > REPLY_BYTES_MAX:
            raise BrokenProtocol(f"a reply of more than {REPLY_BYTES_MAX} bytes")
        return leave

    def expire(self, now: float) -> float:
        """Tell every waiter past its deadline; it keeps its place. The next deadline, or inf."""
        following = inf
        for waiter in tuple(self.waiting):
            if waiter.done():
                continue
            if waiter.deadline <= now:
                waiter.deliver(OutcomeUnknown("Redis did not answer in time"))
            elif waiter.deadline < following:
                following = waiter.deadline
        return following

    def stalls_at(self) -> float:
        """When the oldest command makes the connection count as stalled; inf when none waits."""
        return self.waiting[0].limit if self.waiting else inf

    def fail(self, unwritten: int, not_sent: Exception, unknown: Exception) -> None:
        """The connection is gone: tell all. The last `unwritten` commands never left, of the others nobody knows."""
        left = tuple(self.waiting)
        self.waiting.clear()
        written = len(left) - unwritten
        for position, waiter in enumerate(left):
            error = unknown if position < written else not_sent
            waiter.deliver(type(error)(*error.args))


def _says_leave(reply: object) -> bool:
    """Whether an error reply names another primary. A kind of reply that we never asked for (RESP3) breaks the protocol."""
    if isinstance(reply, ServerBusy | CommandFailed):
        return reply.code in LEAVE_CODES
    raise BrokenProtocol(f"a reply of type {type(reply).__name__}")
