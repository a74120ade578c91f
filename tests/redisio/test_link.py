"""One connection under pressure: what it does with silence, cuts, garbage and cancellations, against a real server."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from math import inf
from signal import SIGCONT, SIGSTOP
from typing import Any, cast

import pytest
import pytest_asyncio
import redis

from demo.redis_server import RedisServer
from extauthz.redisio import link as link_module
from extauthz.redisio.connection import Connection
from extauthz.redisio.errors import NotSent, OutcomeUnknown
from extauthz.redisio.pipeline import pack
from extauthz.redisio.script import Script
from tests.redisio.conftest import Connect
from tests.redisio.proxy import Proxy
from tests.redisio.waiting import until

PING = pack("PING")
COUNT = Script("count", "return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)")


@pytest_asyncio.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(int(redis_url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def connection(proxy: Proxy, connect: Connect) -> Connection:
    return await connect(proxy.url, [COUNT])


@pytest.mark.prove(21)
async def test_unknown_outcome_is_never_replayed(
    redis_url: str, proxy: Proxy, connection: Connection, proving: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    total, batch = (1_000 if proving else 200), 50
    outcomes: Counter[str] = Counter()
    for start in range(0, total, batch):
        proxy.swallow = True
        commands = [pack("EVALSHA", COUNT.sha, 1, "sent", nonce) for nonce in range(start, start + batch)]
        waiting = [asyncio.create_task(connection.run(COUNT, command, inf)) for command in commands]
        await until(lambda: proxy.swallowed_bytes >= 4 * batch)
        if start % (2 * batch):
            proxy.cut()  # else: silence until the deadline, then a reset
        for reply in await asyncio.gather(*waiting, return_exceptions=True):
            outcomes[type(reply).__name__] += 1
        proxy.cut()
        proxy.swallow, proxy.swallowed_bytes = False, 0
        generation = connection.generation
        await until(lambda: connection.generation > generation and connection.is_connected)  # noqa: B023 — called in this turn
        assert await connection.execute("PING") == b"PONG"
    with redis.Redis.from_url(redis_url) as client:
        counted = Counter(client.hvals("sent"))
    with capsys.disabled():
        print(f"\nrow 21: sent {total}, {dict(outcomes)}, counted once {counted[b'1']}")
    assert outcomes == {"OutcomeUnknown": total}
    assert counted == {b"1": total}


@pytest.mark.prove(22)
@pytest.mark.parametrize("chunk", [0, 7])
async def test_replies_never_cross(
    proxy: Proxy, connection: Connection, proving: bool, chunk: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    proxy.chunk = chunk
    cancels, in_flight = (10_000 if proving else 1_000), 256
    seen: Counter[str] = Counter()
    asking: dict[asyncio.Task[None], bytes] = {}

    async def ask(nonce: bytes) -> None:
        try:
            reply = await connection.submit(pack("ECHO", nonce), inf)
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise
        seen["own" if reply == nonce else "crossed"] += 1

    link = connection._link
    assert isinstance(link, link_module.Link)
    unanswered = link._waiting
    number = 0
    while seen["cancelled"] < cancels or seen["own"] < cancels // 4:
        while len(asking) < in_flight:
            number += 1
            nonce = b"%d-%s" % (number, b"x" * dice.randrange(64))
            task = asyncio.create_task(ask(nonce))
            asking[task] = nonce
            task.add_done_callback(asking.pop)
        await asyncio.sleep(0)
        for task in dice.sample(list(asking), min(len(asking), dice.randrange(in_flight // 2))):
            task.cancel()
        # A cancelled command keeps its place: wait for the server so that places do not run out.
        await until(lambda: len(unanswered) <= in_flight)
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {None, asyncio.CancelledError} >= {outcome and type(outcome) for outcome in outcomes}
    with capsys.disabled():
        print(f"\nrow 22: seed {seed}, chunk {chunk}, {dict(seen)}, commands {number}")
    assert seen["crossed"] == 0, f"seed {seed}"
    assert await connection.execute("ECHO", "after") == b"after"
    assert connection.generation == 1


async def test_cut_tells_written_commands_that_their_outcome_is_unknown(proxy: Proxy, connection: Connection) -> None:
    proxy.swallow = True
    written = [connection.submit(PING, inf) for _ in range(3)]
    await until(lambda: proxy.swallowed_bytes > 0)
    proxy.cut()
    assert [OutcomeUnknown] * 3 == [type(reply) for reply in await asyncio.gather(*written, return_exceptions=True)]
    with pytest.raises(NotSent, match="not connected"):
        connection.submit(PING, inf)


async def test_what_was_not_written_is_known_not_to_be(proxy: Proxy, connection: Connection) -> None:
    """A connection that ends in the very turn of a submit: the command was queued, and never left."""
    waiting = connection.submit(pack("INCR", "n"), inf)
    link = connection._link
    assert isinstance(link, link_module.Link)
    link.end("ended by the test")
    with pytest.raises(NotSent):
        await waiting
    await until(lambda: connection.is_connected)
    assert await connection.execute("EXISTS", "n") == 0


@pytest.mark.parametrize("garbage", [b"GARBAGE\r\n", b"+unasked\r\n", b">1\r\n+push\r\n", b"\x00" * 10])
async def test_garbage_ends_the_connection_and_a_new_one_comes(proxy: Proxy, connection: Connection, garbage: bytes) -> None:
    proxy.inject(garbage)
    await until(lambda: connection.generation == 2)
    assert await connection.execute("ECHO", "whole") == b"whole"


async def test_garbage_instead_of_replies_is_an_unknown_outcome(proxy: Proxy, connection: Connection) -> None:
    proxy.swallow = True
    waiting = [connection.submit(PING, inf) for _ in range(2)]
    await until(lambda: proxy.swallowed_bytes > 0)
    proxy.inject(b"!!!\r\n")
    assert [OutcomeUnknown] * 2 == [type(reply) for reply in await asyncio.gather(*waiting, return_exceptions=True)]


async def test_one_callers_short_deadline_is_not_the_others_trouble(proxy: Proxy, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    proxy.delay_s = 0.08
    hasty = connection.submit(pack("ECHO", "hasty"), loop.time() + 0.02)
    calm = connection.submit(pack("ECHO", "calm"), inf)
    began = loop.time()
    with pytest.raises(OutcomeUnknown):
        await hasty
    assert 0.015 < loop.time() - began < 0.079
    await asyncio.sleep(0.005)  # the link has finished its look
    assert connection.is_connected
    assert await connection.submit(pack("ECHO", "next"), inf) == b"next"
    assert await calm == b"calm"


async def test_passed_deadline_sends_nothing(connection: Connection) -> None:
    with pytest.raises(NotSent, match="deadline"):
        connection.submit(pack("INCR", "n"), asyncio.get_running_loop().time() - 0.001)
    with pytest.raises(NotSent, match="deadline"):
        await connection.execute("INCR", "n", deadline=asyncio.get_running_loop().time() - 0.001)
    assert await connection.execute("EXISTS", "n") == 0


async def test_commands_of_one_turn_are_written_together(connection: Connection) -> None:
    link = connection._link
    assert isinstance(link, link_module.Link)
    written: list[bytes] = []

    transport = link._transport
    assert transport is not None
    write = transport.write

    class Sink:
        def write(self, data: bytes) -> None:
            written.append(data)
            write(data)

    link._transport = cast("Any", Sink())
    replies = await asyncio.gather(*(connection.submit(pack("ECHO", n), inf) for n in range(200)))
    link._transport = transport
    assert replies == [str(n).encode() for n in range(200)]
    assert written == [b"".join(pack("ECHO", n) for n in range(200))]


async def test_slow_command_may_take_longer_than_the_connections_timeout(proxy: Proxy, connection: Connection) -> None:
    proxy.delay_s = 0.4
    assert await connection.execute("PING", deadline=asyncio.get_running_loop().time() + 2) == b"PONG"
    assert connection.is_connected


async def test_pause_of_this_process_is_not_the_servers_silence(redis_url: str, connect: Connect) -> None:
    """The reply lies in the socket while the loop stood still beyond the deadline."""
    connection = await connect(redis_url)
    waiting = connection.submit(PING, inf)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251 — the pause is what is tested
    assert await waiting == b"PONG"


@pytest.mark.parametrize("stopped_s", [0.6, 3.0])
async def test_stopped_server_fails_fast_and_is_back_within_a_second(
    own_server: RedisServer, connect: Connect, stopped_s: float
) -> None:
    connection = await connect(own_server.url)
    loop = asyncio.get_running_loop()
    own_server.process.send(SIGSTOP)
    stopped_at = loop.time()
    waiting = [connection.submit(pack("HINCRBY", "n", nonce, 1), inf) for nonce in range(100)]
    unknown = await asyncio.gather(*waiting, return_exceptions=True)
    assert [OutcomeUnknown] * 100 == [type(reply) for reply in unknown]
    assert 0.2 < loop.time() - stopped_at < 0.59
    slowest = 0.0
    while loop.time() < stopped_at + stopped_s:
        before = time.perf_counter()
        with pytest.raises(NotSent):
            connection.submit(pack("HINCRBY", "n", "refused", 1), inf)
        slowest = max(slowest, time.perf_counter() - before)
        assert not connection.is_connected
        await asyncio.sleep(0.02)
    own_server.process.send(SIGCONT)
    continued_at = loop.time()
    await until(lambda: connection.is_connected)
    assert await connection.execute("PING") == b"PONG"
    assert loop.time() - continued_at < 1.0
    assert slowest < 0.2
    assert (connection.generation == 1) == (stopped_s < 2)
    counted = Counter(await connection.execute("HVALS", "n"))
    assert counted == {b"1": 100}, "each once, none of the refused"


async def test_queue_has_a_bound(proxy: Proxy, connection: Connection) -> None:
    proxy.swallow = True
    waiting = [connection.submit(PING, inf) for _ in range(link_module.IN_FLIGHT_MAX)]
    with pytest.raises(NotSent, match="queue is full"):
        connection.submit(PING, inf)
    proxy.cut()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_bytes_have_a_bound(own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "UNSENT_BYTES_MAX", 1 << 20)
    connection = await connect(own_server.url, timeout_s=30)
    own_server.process.send(SIGSTOP)
    command = pack("ECHO", b"x" * 100_000)
    waiting: list[Any] = []
    with pytest.raises(NotSent, match="behind"):
        waiting.extend(connection.submit(command, inf) for _ in range(1_000))
    assert 10 < len(waiting) < 300, "1 MiB, and what two sockets hold"
    own_server.process.send(SIGCONT)
    assert {100_000} == {len(reply) for reply in await asyncio.gather(*waiting)}
    assert connection.is_connected


async def test_broken_waiter_costs_its_connection_and_crosses_no_replies(proxy: Proxy, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken(_: object) -> None:
        raise ZeroDivisionError

    first, second, third = (connection.submit(pack("ECHO", n), inf) for n in range(3))
    second.add_done_callback(broken)
    with contextlib.suppress(OutcomeUnknown):
        assert await third == b"2"
    assert await first == b"0"
    await until(lambda: connection.generation == 2)
    assert [ZeroDivisionError] == [type(error) for error in reported]
    assert await connection.execute("ECHO", "whole") == b"whole"
