"""One connection of the fast transport: moves bytes between asyncio's transport and `h2.Connection`, and runs the handlers.

A unary handler is not made a task. Its coroutine is begun in the middle of the read that brought its message; one that needs to
wait for nothing is answered in the same write. One that awaits a future is resumed by that future (asyncio's own contract, see
`Shell._park`). seam.py says what that means for a handler. Streaming handlers are tasks.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol, cast

from extauthz.errors import ExtauthzError, Refusal
from extauthz.transport.h2.connection import Connection
from extauthz.transport.h2.limits import CONNECTIONS_MAX, Limits
from extauthz.transport.h2.request import Kind, Route
from extauthz.transport.h2.streams import CLOSED, RUNNING, Message, Stream
from extauthz.transport.seam import UNAVAILABLE, status_of

#: A connection whose peer does not read is closed after this time; after this much less when it is being closed anyway.
_UNREAD_WITHIN_S = 30.0
_LAST_WORDS_WITHIN_S = 2.0
_NO_MESSAGE = "the handler returned no message"


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: Limits
    routes: Mapping[bytes, Route]
    is_tls: bool
    shells: "set[Shell]"
    closed_because: dict[str, int]
    on_bug: Callable[[str, BaseException], None]

    def watch_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """A call waits: see to it that its deadline is noticed."""


class _Call(Stream):
    """A stream with what runs its handler."""

    shell: "Shell"
    coroutine: Coroutine[Any, Any, bytes]
    waits_for: asyncio.Future[Any] | None = None
    must_cancel: bool = False
    task: asyncio.Task[Any] | None = None
    messages: "_Messages"
    gate: asyncio.Future[None] | None = None

    def wake(self, future: object) -> None:  # noqa: ARG002 (the future's result is taken by the coroutine's await)
        """Resume the handler: what it waited for is done, failed or cancelled."""
        self.shell.resume(self)


class Shell(asyncio.Protocol):
    """One connection."""

    new_stream = _Call

    def __init__(self, server: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._time = loop.time
        self.connection: Connection[_Call] = Connection(self, server.routes, server.limits, loop.time())
        self._out = self.connection.out
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._is_scheduled = self._is_paused = False
        self._paused_at = self._closed_at = 0.0
        self._backlog = b""
        self._is_lost = False

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        server = self._server
        if len(server.shells) >= CONNECTIONS_MAX:
            self._count("too many connections")
            self._transport.abort()
            return
        if server.is_tls and transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self._count("no ALPN h2")
            self._transport.abort()
            return
        server.shells.add(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """HOT."""
        if self._backlog or (len(data) > 8_192 and len(data) > self.connection.turn_bytes):
            self._take_turns(data)
            return
        self.connection.receive(data, self._time())
        if self._out:
            self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (why the peer left is its own affair)
        self._is_lost = True
        self._server.shells.discard(self)
        self.connection.lost()
        self._out.clear()

    def pause_writing(self) -> None:
        """The peer does not read: read nothing more from it either."""
        self._is_paused = True
        self._paused_at = self._time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()
        self._go_on()

    def _take_turns(self, data: bytes) -> None:
        """More input than one turn may take: the rest waits until the others had theirs, and our answers were read."""
        if not self._backlog:
            self._transport.pause_reading()
            if not self._is_paused:
                self._loop.call_soon(self._next_turn)
        self._backlog += data

    def _next_turn(self) -> None:
        if self._is_lost or self._is_paused:
            return
        size = self.connection.turn_bytes
        data, self._backlog = self._backlog[:size], self._backlog[size:]
        self.connection.receive(data, self._time())
        self._flush()
        self._go_on()

    def _go_on(self) -> None:
        if self._is_paused or self._is_lost:
            return  # the flush found that the peer does not read: `resume_writing` goes on
        if self._backlog:
            self._loop.call_soon(self._next_turn)
        else:
            self._transport.resume_reading()

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._is_lost or (self._is_paused and not self.connection.closing):
            return
        if self._out:
            self._transport.write(self.connection.take_output())
        if self.connection.closing:
            self._count(self.connection.closing)
            self._close()

    def _close(self) -> None:
        """Close once the peer has read our last words; it is not given long for that."""
        if self._is_paused:
            self._transport.abort()
        else:
            self._transport.close()
        self._closed_at = self._time()
        self._is_lost = True

    def _flush_soon(self) -> None:
        """Answers of one loop turn leave with one write."""
        if self._out and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _count(self, reason: str) -> None:
        self._server.closed_because[reason] = self._server.closed_because.get(reason, 0) + 1

    # -- the server's side

    def tick(self, now: float) -> None:
        """Notice passed deadlines."""
        self.connection.tick(now)
        self._flush_soon()

    def slow_tick(self, now: float, passed_s: float) -> None:
        if self._is_lost:
            if now - self._closed_at > _LAST_WORDS_WITHIN_S:
                self._transport.abort()
            return
        self.connection.slow_tick(now, passed_s)
        if self._is_paused and now - self._paused_at > _UNREAD_WITHIN_S:
            self._count("output was not read")
            self._transport.abort()
        self._flush_soon()

    def drain(self) -> None:
        self.connection.drain(self._time())
        self._flush_soon()

    def close_when_drained(self) -> None:
        """Once the client knows, long streams are ended too: clients open them anew elsewhere."""
        connection = self.connection
        if connection.is_refusing:
            for call in [call for call in connection.streams.values() if call.has_work()]:
                if call.request.kind is Kind.CLIENT_STREAM:
                    call.messages.end()
                elif call.request.kind is Kind.SERVER_STREAM:
                    connection.cut(call, UNAVAILABLE, "the server is shutting down")
        if connection.is_drained and not self._is_lost:
            self._flush()
            self._close()

    def abort(self) -> None:
        self.connection.lost()
        if not self._is_lost:
            self._transport.abort()

    def has_work(self) -> bool:
        return self.connection.lingering > 0

    # -- the core's side: running handlers

    def start(self, stream: _Call, message: bytes) -> None:
        """HOT."""
        if stream.request.kind is not Kind.UNARY:
            self._run(stream, self._serve_stream(stream, message))
            return
        try:
            coroutine = stream.request.handler(message, stream.deadline)
            future = coroutine.send(None)
        except StopIteration as stop:
            self._answer(stream, stop.value)
        except BaseException as error:  # noqa: BLE001 (the transport's handler call)
            self._broke(stream, error)
        else:
            stream.shell = self
            stream.coroutine = coroutine
            self._park(stream, future)

    def resume(self, call: _Call) -> None:
        """HOT."""
        call.waits_for = None
        try:
            if call.must_cancel:
                call.must_cancel = False
                future = call.coroutine.throw(asyncio.CancelledError())
            else:
                future = call.coroutine.send(None)
        except StopIteration as stop:
            self._answer(call, stop.value)
        except BaseException as error:  # noqa: BLE001 (the transport's handler call)
            self._broke(call, error)
        else:
            self._park(call, future)
        if not self._is_scheduled and self._out:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def cancel(self, stream: _Call) -> None:
        """As `asyncio.Task.cancel`: through what the handler waits for, so that a task it awaits is cancelled too."""
        if stream.task is not None:
            stream.task.cancel()
        elif stream.waits_for is None or not stream.waits_for.cancel():
            stream.must_cancel = True

    def open(self, stream: _Call) -> None:
        stream.messages = _Messages(self, stream)
        self._run(stream, stream.request.handler(stream.messages, stream.deadline))

    def receive(self, stream: _Call, message: Message) -> None:
        stream.messages.put(message)

    def end(self, stream: _Call) -> None:
        stream.messages.end()

    def writable(self, stream: _Call) -> None:
        if stream.gate is not None and not stream.gate.done():
            stream.gate.set_result(None)

    def consumed(self, call: _Call, message: Message) -> None:
        self.connection.consumed(call, message)
        self._flush_soon()

    def _park(self, call: _Call, future: Any) -> None:
        """The handler waits. A future marks itself when it is awaited; a bare `yield` asks for another turn."""
        if future is None:
            self._loop.call_soon(call.wake, None)
        elif getattr(future, "_asyncio_future_blocking", None):
            future._asyncio_future_blocking = False  # noqa: SLF001 (the contract between asyncio's futures and tasks)
            future.add_done_callback(call.wake)
            call.waits_for = future
            if call.must_cancel and future.cancel():
                call.must_cancel = False
        else:
            call.must_cancel = True  # not awaitable by asyncio either: the handler sees a cancellation
            self._loop.call_soon(call.wake, None)
        self._server.watch_deadlines(self._loop)

    def _answer(self, call: _Call, message: Any) -> None:
        if call.phase == CLOSED:
            self.connection.release(call)
        elif type(message) is bytes and message:
            self.connection.answer(call, message)
        else:
            self._broke(call, TypeError(_NO_MESSAGE))

    def _broke(self, call: _Call, error: BaseException) -> None:
        """The handler ended without an answer."""
        if call.phase == CLOSED:
            self.connection.release(call)
            if isinstance(error, asyncio.CancelledError):
                return
        status, text = status_of(error)
        if isinstance(error, Refusal) or not isinstance(error, (ExtauthzError, TimeoutError)):
            self._server.on_bug(call.request.path, error)
        if call.phase != CLOSED:
            self.connection.fail(call, status, text)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error

    def _run(self, call: _Call, work: Coroutine[Any, Any, Any]) -> None:
        """Streaming handlers are tasks: they are few, and live long."""
        call.task = self._loop.create_task(work)
        call.task.add_done_callback(lambda task: self._ended(call, task))
        self._server.watch_deadlines(self._loop)

    def _ended(self, call: _Call, task: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._broke(call, error)
        elif call.request.kind is Kind.CLIENT_STREAM or call.phase == CLOSED:
            self._answer(call, task.result())
        elif call.has_headers:
            self.connection.finish(call, 0, "")
        else:
            self._broke(call, TypeError(_NO_MESSAGE))
        self._flush_soon()

    async def _serve_stream(self, call: _Call, message: bytes) -> None:
        """Send what the handler yields, no faster than the client reads."""
        connection = self.connection
        async with contextlib.aclosing(call.request.handler(message, call.deadline)) as answers:
            async for answer in answers:
                if call.phase != RUNNING:
                    return
                if type(answer) is not bytes or not answer:
                    raise TypeError(_NO_MESSAGE)
                connection.push(call, answer)
                self._flush_soon()
                if connection.queued_bytes(call) > connection.limits.outbox_bytes_max:
                    call.gate = self._loop.create_future()
                    await call.gate


class _Messages(AsyncIterator[bytes]):
    """The messages of a client-streaming call. Taking one lets the client send as much again."""

    def __init__(self, shell: Shell, call: _Call) -> None:
        self._shell = shell
        self._call = call
        self._queue: deque[Message] = deque()
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: Message) -> None:
        self._queue.append(message)
        self._wake()

    def end(self) -> None:
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __anext__(self) -> bytes:
        while not self._queue:
            if self._is_ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._queue.popleft()
        self._shell.consumed(self._call, message)
        return message.data
