"""One awaited reply: a future without the event loop's detour.

An asyncio.Future hands its result over by `call_soon`: a handle, a queue and a turn of the loop for each command. Replies arrive
in a callback of the loop, where no task is running, so the waiter can be continued right there.

Measured on uvloop, 64 in flight, EVALSHA with 400 bytes of arguments, CPU from submit to result: 1.4 us driven by hand and 2.3 us
in tasks (with asyncio.Future 2.1 and 2.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final

_PENDING: Final = object()

Callback = Callable[[Any], object]


class Reply:
    """What `Connection.submit` returns: awaitable once or often, by an asyncio.Task or by whoever drives a coroutine by hand.

    It has what asyncio asks of a future (PEP 3156; `_asyncio_future_blocking` marks it), with these differences: callbacks are
    called in the loop callback that brought the reply, not later; a callback without `context` is called in that callback's
    context; an error that nobody fetches is not reported. `deliver` must not be called while a task runs. Not thread safe.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_value", "deadline", "limit")

    def __init__(self, deadline: float, limit: float) -> None:
        """
        Args:
            deadline: loop.time() at which the waiter is told that the outcome is unknown.
            limit: loop.time() from which the whole connection counts as stalled while this is the oldest command.
        """
        self.deadline = deadline
        self.limit = limit
        self._value: Any = _PENDING
        self._callback: Callback | None = None
        self._asyncio_future_blocking = False

    def deliver(self, value: Any) -> None:
        """Complete it, with an exception to be raised or with a value. Nothing happens when it was cancelled or has expired."""
        if self._value is not _PENDING:
            return
        self._value = value
        callback = self._callback
        if callback is not None:
            self._callback = None
            if self._context is None:
                callback(self)
            else:
                self._context.run(callback, self)

    def __await__(self) -> Generator[Reply, None, Any]:
        if self._value is _PENDING:
            self._asyncio_future_blocking = True
            yield self
        value = self._value
        if value is _PENDING or isinstance(value, BaseException):
            return self.result()  # which raises
        return value

    __iter__ = __await__

    def result(self) -> Any:
        """The reply. Raises what was delivered, CancelledError after `cancel`, InvalidStateError before there is one."""
        value = self._value
        if isinstance(value, BaseException):
            try:
                raise value
            finally:
                del self, value  # otherwise the traceback holds the frame that holds the exception
        if value is _PENDING:
            raise asyncio.InvalidStateError("there is no reply yet")
        return value

    def exception(self) -> BaseException | None:
        """The error it was completed with. Raises CancelledError after `cancel`, InvalidStateError before there is a reply."""
        if self._value is _PENDING:
            raise asyncio.InvalidStateError("there is no reply yet")
        if isinstance(self._value, asyncio.CancelledError):
            raise self._value
        return self._value if isinstance(self._value, BaseException) else None

    def done(self) -> bool:
        """Whether it has a reply, an error, or was cancelled."""
        return self._value is not _PENDING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return isinstance(self._value, asyncio.CancelledError)

    def cancel(self, msg: Any = None) -> bool:
        """Give up waiting. The command keeps its place in the pipeline and its reply is dropped. False when it was done."""
        if self._value is not _PENDING:
            return False
        self._value = self._make_cancelled_error(msg)
        callback = self._callback
        if callback is not None:
            # A task that cancels another is running: this time by way of the loop.
            self._callback = None
            self.get_loop().call_soon(callback, self, context=self._context)
        return True

    def add_done_callback(self, callback: Callback, *, context: Context | None = None) -> None:
        """Call `callback(self)` when it completes; soon, when it has."""
        if self._value is not _PENDING:
            self.get_loop().call_soon(callback, self, context=context)
        elif self._callback is None:
            self._callback = callback
            self._context = context
        else:
            self._callback = _Several(self._callback, self._context, callback, context)
            self._context = None

    def remove_done_callback(self, callback: Callback) -> int:
        """Forget a callback; how many there were."""
        present = self._callback
        if isinstance(present, _Several):
            return present.remove(callback)
        if present is None or present != callback:
            return 0
        self._callback = None
        return 1

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of its connection, which is the one that runs."""
        return asyncio.get_running_loop()

    def _make_cancelled_error(self, msg: Any = None) -> asyncio.CancelledError:
        return asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)


class _Several:
    """More than one callback of a reply, which `asyncio.gather` of one reply twice makes; rare."""

    __slots__ = ("callbacks",)

    def __init__(self, first: Callback, first_context: Context | None, second: Callback, second_context: Context | None) -> None:
        earlier = first.callbacks if isinstance(first, _Several) else [(first, first_context)]
        self.callbacks: list[tuple[Callback, Context | None]] = [*earlier, (second, second_context)]

    def __call__(self, reply: Reply) -> None:
        for callback, context in self.callbacks:
            reply.get_loop().call_soon(callback, reply, context=context)

    def remove(self, callback: Callback) -> int:
        kept = [entry for entry in self.callbacks if entry[0] != callback]
        removed = len(self.callbacks) - len(kept)
        self.callbacks = kept
        return removed
