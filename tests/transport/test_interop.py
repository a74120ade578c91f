"""Promise 12: grpcio's own client against both transports, over a Unix socket and over TCP: the same calls, the same answers."""

import asyncio
import gzip
import math
from collections.abc import AsyncIterator

import grpc
import pytest

from extauthz.errors import BadConfig, Malformed, Missing, Refusal, Unavailable
from extauthz.transport.seam import Services
from tests.conftest import eventually_async
from tests.transport.conftest import Serve, Served

pytestmark = pytest.mark.prove(12)

ECHO = "/test.Service/Echo"
KIB = 1_024


class Handlers:
    """One service with a method for everything a handler may do."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []
        self.started = 0
        self.cancelled = 0
        self.finished = 0
        self.gate = asyncio.Event()
        self.received = 0
        self.closed_streams = 0

    async def until(self, counter: str, count: int) -> None:
        """Wait until that many handlers got there."""

        async def is_there() -> bool:
            return bool(getattr(self, counter) == count)

        await eventually_async(is_there)

    def services(self) -> Services:
        return Services(
            unary={
                ECHO: self.echo,
                "/test.Service/Later": self.later,
                "/test.Service/Raise": self.raise_it,
                "/test.Service/Stuck": self.stuck,
                "/test.Service/Held": self.held,
                "/test.Service/Task": self.in_a_task,
                "/test.Service/Large": self.large,
            },
            client_stream={"/test.Service/Collect": self.collect, "/test.Service/Gated": self.gated},
            server_stream={"/test.Service/Count": self.count, "/test.Service/Watch": self.watch, "/test.Service/None": self.none},
        )

    async def echo(self, message: bytes, deadline: float) -> bytes:
        self.deadlines.append(deadline)
        return b"echo:" + message

    async def later(self, message: bytes, _deadline: float) -> bytes:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        return await asyncio.gather(self.echo(message, 0.0)) and b"later:" + message

    async def raise_it(self, message: bytes, _deadline: float) -> bytes:
        raise {
            b"malformed": Malformed("secret text"),
            b"missing": Missing("secret text"),
            b"unavailable": Unavailable("secret text"),
            b"config": BadConfig([]),
            b"refusal": Refusal("code", 403, "secret text"),
            b"timeout": TimeoutError("secret text"),
            b"value": ValueError("secret text"),
            b"cancelled": asyncio.CancelledError(),
        }[message]

    async def stuck(self, _message: bytes, _deadline: float) -> bytes:
        self.started += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError

    async def held(self, message: bytes, _deadline: float) -> bytes:
        self.started += 1
        await self.gate.wait()
        return b"held:" + message

    async def in_a_task(self, message: bytes, _deadline: float) -> bytes:
        async def work() -> bytes:
            async with asyncio.timeout(5):
                if message == b"stuck":
                    await self.stuck(message, 0.0)
                await asyncio.sleep(0.001)
            return b"task:" + message

        return await asyncio.create_task(work())

    async def large(self, message: bytes, _deadline: float) -> bytes:
        return b"z" * int(message)

    async def collect(self, messages: AsyncIterator[bytes], _deadline: float) -> bytes:
        sizes = [len(message) async for message in messages]
        self.finished += 1
        return repr((len(sizes), sum(sizes))).encode()

    async def gated(self, messages: AsyncIterator[bytes], _deadline: float) -> bytes:
        """Takes nothing until it is allowed to."""
        await self.gate.wait()
        async for message in messages:
            self.received += len(message)
        return b"%d" % self.received

    async def count(self, message: bytes, _deadline: float) -> AsyncIterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number * 1_000

    async def watch(self, _message: bytes, _deadline: float) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed_streams += 1

    async def none(self, _message: bytes, _deadline: float) -> AsyncIterator[bytes]:
        nothing: tuple[bytes, ...] = ()
        for answer in nothing:
            yield answer


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def served(serve: Serve, transport: str, address: str, handlers: Handlers) -> Served:
    return await serve(transport, handlers.services(), address)


async def call(served: Served, method: str, message: bytes, **options: object) -> bytes:
    async with served.channel() as channel:
        answer: bytes = await channel.unary_unary(f"/test.Service/{method}")(message, **options)
        return answer


async def failure(served: Served, method: str, message: bytes, **options: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(served, method, message, **options)
    return caught.value


@pytest.mark.parametrize("method", ["Echo", "Later", "Task"])
async def test_a_message_comes_back_whole(served: Served, method: str) -> None:
    message = bytes(range(256)) * 64
    assert (await call(served, method, message)).partition(b":")[2] == message
    assert served.bugs == []


async def test_no_deadline_is_infinite_and_a_deadline_is_a_time_of_the_loop(served: Served, handlers: Handlers) -> None:
    await call(served, "Echo", b"x")
    before = asyncio.get_running_loop().time()
    await call(served, "Echo", b"x", timeout=60)
    infinite, finite = handlers.deadlines
    assert infinite == math.inf
    assert 59 < finite - before <= 60.2


@pytest.mark.parametrize(
    ("raised", "code", "is_bug"),
    [
        (b"malformed", grpc.StatusCode.INVALID_ARGUMENT, False),
        (b"missing", grpc.StatusCode.NOT_FOUND, False),
        (b"unavailable", grpc.StatusCode.UNAVAILABLE, False),
        (b"config", grpc.StatusCode.UNAVAILABLE, False),
        (b"refusal", grpc.StatusCode.INTERNAL, True),
        (b"timeout", grpc.StatusCode.DEADLINE_EXCEEDED, False),
        (b"value", grpc.StatusCode.INTERNAL, True),
        (b"cancelled", grpc.StatusCode.INTERNAL, True),
    ],
)
async def test_an_error_becomes_its_status_without_its_text(
    served: Served, raised: bytes, code: grpc.StatusCode, is_bug: bool
) -> None:
    error = await failure(served, "Raise", raised)
    assert error.code() is code
    assert "secret" not in str(error.details())
    assert [path for path, _ in served.bugs] == (["/test.Service/Raise"] if is_bug else [])


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    assert (await failure(served, "Nothing", b"x")).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Stuck", "Task"])
async def test_a_passed_deadline_answers_and_cancels_the_handler(served: Served, handlers: Handlers, method: str) -> None:
    error = await failure(served, method, b"stuck", timeout=0.15)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await handlers.until("cancelled", 1)
    assert served.bugs == []


@pytest.mark.parametrize("method", ["Stuck", "Task"])
async def test_a_cancelled_call_cancels_the_handler(served: Served, handlers: Handlers, method: str) -> None:
    async with served.channel() as channel:
        await channel.channel_ready()
        running = channel.unary_unary(f"/test.Service/{method}")(b"stuck")
        await handlers.until("started", 1)
        running.cancel()
        await handlers.until("cancelled", 1)
    assert served.bugs == []


async def test_a_lost_connection_cancels_the_handler(served: Served, handlers: Handlers) -> None:
    async with served.channel() as channel:
        _running = channel.unary_unary("/test.Service/Stuck")(b"x")
        await handlers.until("started", 1)
    await handlers.until("cancelled", 1)


async def test_the_largest_message_passes_and_one_octet_more_does_not(served: Served) -> None:
    assert len(await call(served, "Echo", b"x" * (256 * KIB))) == 256 * KIB + 5
    error = await failure(served, "Echo", b"x" * (256 * KIB + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_answer_larger_than_every_window_arrives(served: Served) -> None:
    assert len(await call(served, "Large", b"3000000")) == 3_000_000


async def test_gzip_is_inflated_up_to_the_cap(served: Served) -> None:
    message = b"abc" * 20_000
    async with served.channel() as channel:
        method = channel.unary_unary(ECHO)
        assert await method(message, compression=grpc.Compression.Gzip) == b"echo:" + message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"a" * (5 * 1_024 * KIB), compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(gzip.compress(b"a" * (5 * 1_024 * KIB))) < 256 * KIB  # refused for what it inflates to


async def test_deflate_is_answered_with_a_status(serve: Serve, address: str, handlers: Handlers) -> None:
    served = await serve("fast", handlers.services(), address)
    async with served.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(ECHO)(b"x" * 5_000, compression=grpc.Compression.Deflate)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_of_any_kind_is_carried_and_ignored(served: Served) -> None:
    metadata = (("x-plain", "value"), ("x-binary-bin", bytes(range(256))), ("x-empty", ""), ("traceparent", "00-" + "a" * 52))
    assert await call(served, "Echo", b"x", metadata=metadata) == b"echo:x"


async def test_too_much_metadata_is_refused(served: Served) -> None:
    error = await failure(served, "Echo", b"x", metadata=(("x-long", "v" * 9_000),))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_many_calls_at_once_each_get_their_own_answer(served: Served) -> None:
    async with served.channel() as channel:
        methods = [channel.unary_unary(f"/test.Service/{name}") for name in ("Echo", "Later", "Task")]
        messages = [b"%d" % number for number in range(300)]
        answers = await asyncio.gather(*(methods[int(message) % 3](message) for message in messages))
    assert [answer.partition(b":")[2] for answer in answers] == messages


async def test_messages_of_a_client_stream_arrive_in_order_and_whole(served: Served) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for size in (1, 0, 100_000, 300_000, 2_000_000, 4_000_000, 5):
            yield b"m" * size

    async with served.channel() as channel:
        answer = await channel.stream_unary("/test.Service/Collect")(messages())
    assert answer == b"(7, 6400006)"


async def test_a_client_stream_of_many_messages_does_not_stall(served: Served) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"m" * 50_000

    async with served.channel() as channel:
        answers = await asyncio.gather(*(channel.stream_unary("/test.Service/Collect")(messages()) for _ in range(3)))
    assert answers == [b"(300, 15000000)"] * 3


async def test_a_handler_that_does_not_read_holds_the_client_back(served: Served, handlers: Handlers) -> None:
    sent = 0

    async def messages() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(400):
            yield b"m" * 50_000
            sent += 1

    async with served.channel() as channel:
        running = channel.stream_unary("/test.Service/Gated")(messages())
        readings: list[int] = []

        async def is_held_back() -> bool:
            readings.append(sent)
            return readings[-30:] == [sent] * 30 and sent > 0

        await eventually_async(is_held_back)
        assert sent < 400
        handlers.gate.set()
        assert await running == b"20000000"


async def test_a_message_of_a_client_stream_above_its_cap_is_refused(served: Served) -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield b"m" * (4 * 1_024 * KIB + 1)

    async with served.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary("/test.Service/Collect")(messages())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_server_stream_sends_every_message(served: Served) -> None:
    async with served.channel() as channel:
        answers = [answer async for answer in channel.unary_stream("/test.Service/Count")(b"500")]
    assert answers == [b"%d" % number * 1_000 for number in range(500)]


async def test_a_cancelled_server_stream_closes_its_handler(served: Served, handlers: Handlers) -> None:
    async with served.channel() as channel:
        running = channel.unary_stream("/test.Service/Watch")(b"x")
        assert await running.read() == b"first"
        running.cancel()
        await handlers.until("closed_streams", 1)


async def test_a_server_stream_without_a_message_is_an_error(served: Served) -> None:
    async with served.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [answer async for answer in channel.unary_stream("/test.Service/None")(b"x")]
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_drain_finishes_running_calls_and_takes_no_new_ones(served: Served, handlers: Handlers) -> None:
    async with served.channel() as channel:
        method = channel.unary_unary("/test.Service/Held")
        running = [method(b"%d" % number) for number in range(50)]
        await handlers.until("started", 50)
        draining = asyncio.create_task(served.server.drain(5.0))
        await asyncio.sleep(0)
        handlers.gate.set()
        assert [await answer for answer in running] == [b"held:%d" % number for number in range(50)]
        await asyncio.wait_for(draining, 5)
    assert (await failure(served, "Echo", b"x")).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_ends_when_the_grace_is_over(served: Served, handlers: Handlers) -> None:
    async with served.channel() as channel:
        running = channel.unary_unary("/test.Service/Stuck")(b"x")
        await handlers.until("started", 1)
        await asyncio.wait_for(served.server.drain(0.2), 5)
        with pytest.raises(grpc.aio.AioRpcError):
            await running
    assert handlers.cancelled == 1
