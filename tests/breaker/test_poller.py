"""What several workers know of the breakers, and that it stays what it was while Redis is away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from demo.redis_server import RedisServer
from extauthz.breaker.commands import close_by_hand, open_by_hand
from extauthz.breaker.outcomes import record_outcome
from extauthz.breaker.poller import BreakerPoller
from extauthz.breaker.script import SCRIPTS
from extauthz.breaker.states import FAILURES_TO_OPEN, HALF_OPEN, OPEN
from extauthz.errors import Unavailable
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from tests.conftest import eventually_async

PROVIDERS = ("openai", "anthropic", "gemini")


async def connected(url: str) -> Connection:
    connection = Connection(RedisUrl.parse(url), SCRIPTS)
    await connection.start()
    return connection


@pytest.fixture
async def connections(each_redis_url: str) -> AsyncIterator[list[Connection]]:
    made = [await connected(each_redis_url) for _ in range(3)]
    yield made
    for connection in made:
        await connection.close()


async def test_every_worker_sees_what_one_has_told(connections: list[Connection]) -> None:
    pollers = [BreakerPoller(connection, PROVIDERS, interval_s=0.02) for connection in connections]
    for poller in pollers:
        poller.start()

    async def agree(expected: dict[str, int]) -> None:
        async def all_agree() -> bool:
            return all(poller.states == expected for poller in pollers)

        await eventually_async(all_agree)

    for _ in range(FAILURES_TO_OPEN):
        await record_outcome(connections[0], "openai", success=False)
    await agree({"openai": OPEN})
    await open_by_hand(connections[1].execute, "gemini", 30)
    await agree({"openai": OPEN, "gemini": HALF_OPEN})
    await record_outcome(connections[2], "gemini", success=True)
    await agree({"openai": OPEN})
    await close_by_hand(connections[2].execute, "openai")
    await agree({})
    for poller in pollers:
        await poller.close()


async def test_the_version_grows_with_every_change_and_only_then(connections: list[Connection]) -> None:
    poller = BreakerPoller(connections[0], PROVIDERS)
    await poller.poll()
    await poller.poll()
    assert (poller.states, poller.version) == ({}, 0)
    await open_by_hand(connections[1].execute, "openai")
    await poller.poll()
    before = poller.states
    await poller.poll()
    assert (poller.states, poller.version) == ({"openai": OPEN}, 1)
    assert poller.states is before
    await close_by_hand(connections[1].execute, "openai")
    await poller.poll()
    assert (poller.states, poller.version, before) == ({}, 2, {"openai": OPEN})


async def test_another_gateway_file_changes_what_is_polled(connections: list[Connection]) -> None:
    poller = BreakerPoller(connections[0])
    await poller.poll()
    await open_by_hand(connections[1].execute, "openai")
    await open_by_hand(connections[1].execute, "cartesia")
    poller.watch(PROVIDERS)
    await poller.poll()
    assert poller.states == {"openai": OPEN}
    poller.watch(("cartesia",))
    assert (poller.states, poller.version) == ({}, 2)
    await poller.poll()
    assert (poller.states, poller.version) == ({"cartesia": OPEN}, 3)


async def test_a_poll_of_the_old_file_does_not_answer_for_the_new_one(connections: list[Connection]) -> None:
    await open_by_hand(connections[1].execute, "openai")
    poller = BreakerPoller(connections[0], PROVIDERS)
    polling = asyncio.ensure_future(poller.poll())
    await asyncio.sleep(0)
    poller.watch(("cartesia",))
    await polling
    assert poller.states == {}


@pytest.mark.parametrize("way", ["stopped", "paused"])
async def test_while_redis_does_not_answer_the_last_states_stay_and_nobody_waits(tmp_path: Path, way: str) -> None:
    server = RedisServer(tmp_path)
    connection = await connected(server.url)
    poller = BreakerPoller(connection, PROVIDERS, interval_s=0.02)
    await open_by_hand(connection.execute, "openai")
    poller.start()

    async def sees() -> bool:
        return poller.states == {"openai": OPEN}

    await eventually_async(sees)
    if way == "stopped":
        server.process.stop()
    else:
        server.process.send(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await poller.poll()
    with pytest.raises(Unavailable):
        await poller.poll()
    assert (poller.states, poller.version) == ({"openai": OPEN}, 1)
    if way == "stopped":
        server.restart()
    else:
        server.process.send(signal.SIGCONT)
        await eventually_async(_is_back(connection))
        await close_by_hand(connection.execute, "openai")

    async def closed() -> bool:
        return poller.states == {}

    # The server that was stopped has forgotten its breakers, which is closed.
    await eventually_async(closed)
    await poller.close()
    await connection.close()
    server.stop()


def _is_back(connection: Connection) -> Callable[[], Awaitable[bool]]:
    async def is_back() -> bool:
        return connection.is_connected

    return is_back
