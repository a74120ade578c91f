"""One connection to Redis from its first byte to its last: writes once per loop turn, notices silence, ends as a whole.

It does not connect, authenticate or come back: connection.py does. When it ends, every command in flight is told at once.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final, cast

from extauthz.redisio.errors import BrokenProtocol, NotSent, OutcomeUnknown
from extauthz.redisio.pipeline import Pipeline
from extauthz.redisio.reply import Reply

#: Commands without a reply. At 0.3 ms a reply's turn and 64 commands a turn, one second of work; 4,096 x ~700 bytes = 3 MiB.
IN_FLIGHT_MAX: Final = 4_096
#: What one loop turn collects before it is written without waiting for the turn's end.
TURN_BYTES_MAX: Final = 256 << 10
#: What the kernel has not taken yet. Beyond it nothing is accepted, until half of it is gone.
UNSENT_BYTES_MAX: Final = 4 << 20
#: A stalled connection that stays silent for so long is given up: a new one may reach a server that answers.
SILENCE_S: Final = 2.0
#: A deadline is looked at a second time so much later: after a pause of this process the reply may lie in the socket already.
SECOND_LOOK_S: Final = 0.001


class Link(asyncio.Protocol):
    """The protocol of one transport.

    Args:
        timeout_s: how long the server may be silent about a command before the link counts as stalled.
        on_change: called when it stalls or is behind, and when it flows again; `refusal` says which.
        on_lost: called once, after every waiter was told; `refusal` says why.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        on_change: Callable[["Link"], None],
        on_lost: Callable[["Link"], None],
    ) -> None:
        self._pipeline = Pipeline()
        self._waiting = self._pipeline.waiting
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._on_lost = on_lost
        self._loop = loop
        self._time = loop.time
        self._call_soon = loop.call_soon
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf
        self._reset_at = inf
        self._is_paused = False
        self._is_stalled = False
        self._ended = ""
        #: Why nothing is accepted, in a few words; empty when everything is. One look for four reasons.
        self.refusal = "not connected yet"
        #: Set once the connection is gone.
        self.lost = asyncio.Event()

    @property
    def is_flowing(self) -> bool:
        """Whether a command would be written now."""
        return not self.refusal

    def submit(self, command: bytes, deadline: float) -> Reply:
        """Queue one packed command; all of a loop turn are written together. HOT.

        Args:
            command: exactly one command, packed.
            deadline: loop.time(); the waiter is told OutcomeUnknown then, or after this link's timeout when that is sooner.

        Raises NotSent when nothing was or will be written.
        """
        if self.refusal or len(self._waiting) >= IN_FLIGHT_MAX:
            raise NotSent(f"Redis is {self.refusal or 'behind: the queue is full'}")
        now = self._time()
        if deadline <= now:
            raise NotSent("the deadline had passed")
        limit = now + self._timeout_s
        return self._enqueue(command, Reply(min(deadline, limit), limit))

    def submit_slow(self, command: bytes, deadline: float) -> Reply:
        """The same for a command that may take longer than the link's timeout; its deadline alone decides."""
        if self.refusal or len(self._waiting) >= IN_FLIGHT_MAX:
            raise NotSent(f"Redis is {self.refusal or 'behind: the queue is full'}")
        now = self._time()
        if deadline <= now:
            raise NotSent("the deadline had passed")
        return self._enqueue(command, Reply(deadline, max(deadline, now + self._timeout_s)))

    def _enqueue(self, command: bytes, reply: Reply) -> Reply:
        self._waiting.append(reply)
        batch = self._batch
        if not batch:
            self._call_soon(self._flush)
        batch.append(command)
        self._batch_bytes += len(command)
        if self._batch_bytes > TURN_BYTES_MAX:
            self._flush()
        if reply.deadline < self._wakes_at:
            self._wake_at(reply.deadline)
        return reply

    def _flush(self) -> None:
        batch = self._batch
        if batch and self._transport is not None and not self._ended:
            self._transport.write(b"".join(batch))
            batch.clear()
            self._batch_bytes = 0

    def settle(self, timeout_s: float) -> None:
        """From now on a reply may take so long, instead of what the handshake was given."""
        self._timeout_s = timeout_s

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX, low=UNSENT_BYTES_MAX // 2)
        self.refusal = ""

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        try:
            leave = self._pipeline.receive(data)
        except BrokenProtocol as error:
            self.end(f"broken: {error}")
            return
        if leave:
            self.end("no longer the primary")
        elif self._is_stalled:
            self._heard()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._judge()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._judge()

    def eof_received(self) -> bool:
        self._ended = self._ended or "closed by the server"
        self._judge()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._ended or (f"lost: {exc.strerror or exc}" if isinstance(exc, OSError) else "lost")
        self._judge()
        if self._timer is not None:
            self._timer.cancel()
        unwritten = len(self._batch)
        self._batch.clear()
        self._pipeline.fail(
            unwritten, NotSent(f"Redis is {self._ended}"), OutcomeUnknown(f"the connection to Redis is {self._ended}")
        )
        self.lost.set()
        self._on_lost(self)

    def end(self, reason: str) -> None:
        """Close at once. Waiters are told, and `on_lost` is called, in a later turn of the loop."""
        if not self._ended:
            self._ended = reason
            self._judge()
            if self._transport is not None:
                self._transport.abort()

    def _judge(self) -> None:
        """Say in a few words why nothing is accepted, if so, and tell the owner when that changed."""
        before = self.refusal
        if self._ended:
            self.refusal = self._ended
            return
        if self._is_stalled:
            self.refusal = "stalled: the oldest command has no answer"
        elif self._is_paused:
            self.refusal = "behind: the socket takes no more"
        else:
            self.refusal = ""
        if before != self.refusal:
            self._on_change(self)

    # Time. One timer for all commands: it wakes at the earliest deadline that was in flight when it was set.

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = when
        self._timer = self._loop.call_at(when, self._look_again)

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(SECOND_LOOK_S, self._look)

    def _look(self) -> None:
        """Judge the silence first, so that a waiter who is told now finds the door already closed."""
        self._timer = None
        self._wakes_at = inf
        now = self._time()
        stalls_at = self._pipeline.stalls_at()
        if self._is_stalled and now >= self._reset_at:
            self.end(f"silent for {SILENCE_S:g} s")
            return
        if stalls_at <= now and not self._is_stalled:
            self._stall(now)
        following = min(self._pipeline.expire(now), self._reset_at if self._is_stalled else stalls_at)
        if following < self._wakes_at:
            self._wake_at(following)

    def _stall(self, now: float) -> None:
        self._is_stalled = True
        self._reset_at = now + SILENCE_S
        self._judge()

    def _heard(self) -> None:
        """Something came while stalled: flow again once the oldest command that waits is a young one."""
        now = self._time()
        self._reset_at = now + SILENCE_S
        stalls_at = self._pipeline.stalls_at()
        if stalls_at > now:
            self._is_stalled = False
            self._reset_at = inf
            self._judge()
        if stalls_at < self._wakes_at and stalls_at > now:
            self._wake_at(stalls_at)
