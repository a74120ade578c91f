"""The shell around the core: how handlers run without tasks, and what a hostile or slow peer does to the process and to others."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest

from extauthz.transport.h2 import frames
from extauthz.transport.h2.limits import CONNECTIONS_MAX, Limits
from extauthz.transport.seam import Services
from tests.conftest import eventually_async
from tests.transport.conftest import Serve, Served
from tests.transport.core import CHECK, COLLECT, HELLO, SETTINGS_ACK, call, goaway_code, headers, message, parse

Handler = Callable[[bytes, float], Coroutine[Any, Any, bytes]]


async def echo(data: bytes, _deadline: float) -> bytes:
    return b"echo:" + data


async def serve_one(serve: Serve, address: str, handler: Handler, **options: Any) -> Served:
    return await serve("fast", Services(unary={CHECK: handler}), address, **options)


async def ask(served: Served, data: bytes = b"x", **options: Any) -> bytes:
    async with served.channel() as channel:
        answer: bytes = await channel.unary_unary(CHECK)(data, **options)
        return answer


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(served.address.removeprefix("unix:"))


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 5)
    return b""


# -- running handlers


async def test_a_handler_has_no_task_and_must_bring_its_own(serve: Serve, unix_address: str) -> None:
    """As seam.py says: what asks for the current task fails loudly here and works in a task."""

    async def careless(_data: bytes, _deadline: float) -> bytes:
        async with asyncio.timeout(1):
            await asyncio.sleep(0)
        return b"never"

    served = await serve_one(serve, unix_address, careless)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(served)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert [type(error) for _, error in served.bugs] == [RuntimeError]


async def test_a_cancelled_handler_may_still_clean_up_by_waiting(serve: Serve, unix_address: str) -> None:
    cleaned = asyncio.Event()

    async def careful(_data: bytes, _deadline: float) -> bytes:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()
        raise AssertionError

    served = await serve_one(serve, unix_address, careful)
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(served, timeout=0.05)
    await asyncio.wait_for(cleaned.wait(), 2)
    assert served.bugs == []


async def test_a_handler_that_swallows_its_cancellation_answers_nobody(serve: Serve, unix_address: str) -> None:
    finished = asyncio.Event()

    async def stubborn(_data: bytes, _deadline: float) -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(0.02)
        finished.set()
        return b"too late"

    served = await serve_one(serve, unix_address, stubborn)
    async with served.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(CHECK)(b"x", timeout=0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(finished.wait(), 2)
        (shell,) = served.server.shells
        assert (shell.connection.streams, shell.connection.lingering) == ({}, 0)


async def test_a_shielded_future_outlives_the_cancelled_handler(serve: Serve, unix_address: str) -> None:
    shared: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def waiting(_data: bytes, _deadline: float) -> bytes:
        return await asyncio.shield(shared)

    served = await serve_one(serve, unix_address, waiting)
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(served, timeout=0.05)
    assert not shared.cancelled()
    shared.set_result(b"done")
    assert await ask(served) == b"done"


@pytest.mark.parametrize("how", ["result", "error", "cancelled"])
async def test_a_future_that_is_already_done_does_not_wait(serve: Serve, unix_address: str, how: str) -> None:
    async def handler(_data: bytes, _deadline: float) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if how == "result":
            future.set_result(b"done")
        elif how == "error":
            future.set_exception(KeyError("x"))
        else:
            future.cancel()
        try:
            return await future
        except (KeyError, asyncio.CancelledError):
            return b"caught"

    served = await serve_one(serve, unix_address, handler)
    assert await ask(served) == (b"done" if how == "result" else b"caught")


async def test_locks_queues_events_and_gather_work_without_a_task(serve: Serve, unix_address: str) -> None:
    lock, queue = asyncio.Lock(), asyncio.Queue[bytes](maxsize=1)

    async def handler(data: bytes, _deadline: float) -> bytes:
        async with lock:
            await asyncio.gather(queue.put(data), asyncio.sleep(0))
            return await queue.get()

    served = await serve_one(serve, unix_address, handler)
    async with served.channel() as channel:
        method = channel.unary_unary(CHECK)
        answers = await asyncio.gather(*(method(b"%d" % number) for number in range(100)))
    assert answers == [b"%d" % number for number in range(100)]


async def test_a_handler_that_yields_what_is_no_future_is_a_bug_and_not_a_hang(serve: Serve, unix_address: str) -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def handler(_data: bytes, _deadline: float) -> bytes:
        await Odd()
        return b"never"

    served = await serve_one(serve, unix_address, handler)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(served)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert len(served.bugs) == 1


async def test_closing_the_server_cancels_what_runs_and_leaves_nothing(serve: Serve, unix_address: str) -> None:
    cancelled: list[bytes] = []
    started = asyncio.Event()

    async def stuck(data: bytes, _deadline: float) -> bytes:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(data)
        raise AssertionError

    served = await serve_one(serve, unix_address, stuck)
    async with served.channel() as channel:
        running = channel.unary_unary(CHECK)(b"x")
        await asyncio.wait_for(started.wait(), 2)
        await served.server.close()
        with pytest.raises(grpc.aio.AioRpcError):
            await running
    assert cancelled == [b"x"]
    assert served.server.shells == set()


async def test_a_drain_ends_open_client_streams_at_their_last_message(serve: Serve, unix_address: str) -> None:
    """An access log never ends by itself; its handler sees the end of the stream and may finish."""
    seen: list[bytes] = []

    async def collect(messages: AsyncIterator[bytes], _deadline: float) -> bytes:
        seen.extend([data async for data in messages])
        return b"done"

    served = await serve("fast", Services(client_stream={COLLECT: collect}), unix_address)
    async with served.channel() as channel:
        stream = channel.stream_unary(COLLECT)()
        await stream.write(b"one")
        await stream.write(b"two")

        async def has_arrived() -> bool:
            return any(shell.connection.streams for shell in served.server.shells)

        await eventually_async(has_arrived)
        await asyncio.wait_for(served.server.drain(5), 6)
        assert await stream == b"done"
    assert seen == [b"one", b"two"]


# -- peers that mean harm, or are slow


async def test_one_connection_more_than_allowed_is_closed_and_the_others_are_served(serve: Serve, unix_address: str) -> None:
    served = await serve_one(serve, unix_address, echo)
    held = [await connect(served) for _ in range(CONNECTIONS_MAX)]
    try:

        async def are_all_there() -> bool:
            return len(served.server.shells) == CONNECTIONS_MAX

        await eventually_async(are_all_there)
        reader, writer = await connect(served)
        assert await rest(reader) == b""
        writer.close()
        assert served.server.closed_because == {"too many connections": 1}
        held[0][1].write(HELLO + call(1))
        assert b"echo:ping" in await asyncio.wait_for(held[0][0].readuntil(b"ping"), 2)
    finally:
        for _, writer in held:
            writer.close()


async def test_two_hundred_slow_connections_are_closed_and_nobody_waits_for_them(serve: Serve, unix_address: str) -> None:
    served = await serve_one(serve, unix_address, echo, limits=Limits(preface_within_s=0.4, block_whole_within_s=0.4))
    held = [await connect(served) for _ in range(200)]
    for number, (_, writer) in enumerate(held):
        writer.write((HELLO + headers(1, flags=0))[: number % len(HELLO) if number % 2 else None])
    assert await ask(served) == b"echo:x"

    async def are_all_gone() -> bool:
        return not served.server.shells

    await eventually_async(are_all_gone)
    for _, writer in held:
        writer.close()
    assert sum(served.server.closed_because.values()) == 200


async def test_a_peer_that_does_not_read_is_not_read_either(serve: Serve, unix_address: str) -> None:
    """Internal buffering: every window is open, the socket is not read. What we hold stays bounded, and nobody else waits."""
    begun = 0

    async def large(data: bytes, _deadline: float) -> bytes:
        nonlocal begun
        begun += 1
        return b"z" * 100_000 if data == b"ping" else b"small"

    served = await serve_one(serve, unix_address, large)
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(unix_address.removeprefix("unix:"))
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(plain, HELLO + SETTINGS_ACK + frames.settings({4: 2**31 - 1}) + frames.window_update(0, 2**30))
    flood = b"".join(call(at) for at in range(1, 20_001, 2))
    sending = asyncio.create_task(loop.sock_sendall(plain, flood))

    async def is_held_back() -> bool:
        return any(shell._is_paused for shell in served.server.shells)

    await eventually_async(is_held_back)
    assert await ask(served, b"other") == b"small"
    at_first = begun
    for _ in range(20):
        assert await ask(served, b"other") == b"small"
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await sending
    plain.close()
    assert begun - at_first == 20
    assert begun < 1_000


async def test_a_peer_that_does_not_read_its_goaway_does_not_keep_its_place(serve: Serve, unix_address: str) -> None:
    async def large(_data: bytes, _deadline: float) -> bytes:
        return b"z" * 60_000

    served = await serve_one(serve, unix_address, large)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        plain.connect(unix_address.removeprefix("unix:"))
        plain.setblocking(False)
        window = frames.settings({4: 2**31 - 1}) + frames.window_update(0, 2**30)
        calls = b"".join(call(at) for at in range(1, 9, 2))
        await asyncio.get_running_loop().sock_sendall(plain, HELLO + window + calls + frames.frame(frames.SETTINGS, 0, 1))

        async def is_gone() -> bool:
            return bool(served.server.closed_because) and not served.server.shells

        await eventually_async(is_gone)
    assert served.server.closed_because == {"SETTINGS on a stream": 1}


async def test_a_flood_on_one_connection_leaves_the_others_their_turn(serve: Serve, unix_address: str) -> None:
    """Requests are taken 32 KiB at a time, so a peer that sends megabytes at once is served between others, not before them."""
    order: list[bytes] = []

    async def noting(data: bytes, _deadline: float) -> bytes:
        order.append(data)
        return b"done"

    served = await serve_one(serve, unix_address, noting)
    (first_reader, first), (second_reader, second) = await connect(served), await connect(served)
    for reader, writer in ((first_reader, first), (second_reader, second)):
        writer.write(HELLO + SETTINGS_ACK + call(1, b"hello") + SETTINGS_ACK)
        await asyncio.wait_for(reader.readuntil(b"done"), 2)
    first.write(b"".join(call(at, b"f" * 200) for at in range(3, 4_003, 2)))
    second.write(call(3, b"second"))
    await asyncio.wait_for(second_reader.readuntil(b"done"), 2)
    assert order.count(b"f" * 200) < 1_500
    for writer in (first, second):
        writer.close()


@pytest.mark.parametrize("size", [1, 50, 10**6])
async def test_the_reason_of_an_end_reaches_the_peer_and_is_counted(serve: Serve, unix_address: str, size: int) -> None:
    served = await serve_one(serve, unix_address, echo)
    reader, writer = await connect(served)
    data = HELLO + SETTINGS_ACK + call(1) + frames.frame(frames.SETTINGS, 0, 1)
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await writer.drain()
    found = parse(await rest(reader))
    assert goaway_code(found) == frames.PROTOCOL_ERROR
    assert b"\0\0\0\0\techo:ping" in [payload for kind, _, _, payload in found if kind == frames.DATA]
    assert served.server.closed_because == {"SETTINGS on a stream": 1}
    writer.close()


async def test_streams_of_one_read_are_answered_in_one_write(serve: Serve, unix_address: str) -> None:
    """One write a turn: the answers to what came together come together."""

    async def later(data: bytes, _deadline: float) -> bytes:
        await asyncio.sleep(0)
        return data

    served = await serve_one(serve, unix_address, later)
    reader, writer = await connect(served)
    writer.write(HELLO + SETTINGS_ACK + call(1) + SETTINGS_ACK)
    await asyncio.wait_for(reader.readuntil(b"ping"), 2)
    await asyncio.sleep(0)
    (shell,) = served.server.shells
    before = shell.connection.now
    writer.write(b"".join(headers(at) + message(at) for at in range(3, 103, 2)))
    chunk = b""
    while chunk.count(b"\0\0\0\0\4ping") < 50:
        piece = await asyncio.wait_for(reader.read(2**20), 2)
        assert piece
        chunk += piece
        if b"ping" in piece:
            assert piece.count(b"\0\0\0\0\4ping") == 50
    assert shell.connection.now >= before
    writer.close()
