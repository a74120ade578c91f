"""One probe at a time in the fleet, as a lease."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
import redis

from extauthz.breaker.commands import close_by_hand, open_by_hand
from extauthz.breaker.outcomes import record_outcome
from extauthz.breaker.probe import Probes
from extauthz.breaker.script import SCRIPTS
from extauthz.breaker.states import CLOSED, OPEN
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from tests.conftest import eventually_async
from tests.oracles.breaker import BREAKER_KEY, PROBE_KEY, PROVIDER, RealBreaker

WORKERS = 8


@pytest.fixture
async def connections(each_redis_url: str) -> AsyncIterator[list[Connection]]:
    """The connections of eight workers."""
    made = [Connection(RedisUrl.parse(each_redis_url), SCRIPTS, timeout_s=5.0) for _ in range(WORKERS)]
    await asyncio.gather(*(connection.start() for connection in made))
    yield made
    await asyncio.gather(*(connection.close() for connection in made))


@pytest.fixture
def half_open(each_redis_url: str) -> None:
    """A breaker that was open for a millisecond, long ago."""
    with redis.Redis.from_url(each_redis_url) as client:
        client.set(BREAKER_KEY, "open:1:1000")


async def contend(connections: list[Connection], lease_ms: int = 60_000) -> list[bytes]:
    """64 requests on 8 workers ask at once; the tokens that were given."""
    probes = [Probes(connections[number % WORKERS], lease_ms) for number in range(64)]
    answers = await asyncio.gather(*(each.acquire(PROVIDER, math.inf) for each in probes))
    return [token for token in answers if token is not None]


@pytest.mark.usefixtures("half_open")
async def test_of_64_contenders_one_probes(connections: list[Connection]) -> None:
    for _ in range(20):
        (token,) = await contend(connections)
        assert await contend(connections) == []
        await Probes(connections[0]).release(PROVIDER, token, math.inf)


@pytest.mark.usefixtures("half_open")
async def test_a_lease_ends_so_that_a_lost_outcome_is_no_outcome(connections: list[Connection]) -> None:
    probes = Probes(connections[0], lease_ms=50)
    first = await probes.acquire(PROVIDER, math.inf)
    assert first is not None

    async def again() -> bool:
        return await Probes(connections[1], lease_ms=60_000).acquire(PROVIDER, math.inf) is not None

    await eventually_async(again)
    # The old token gives nothing back that is another's by now.
    await probes.release(PROVIDER, first, math.inf)
    assert await contend(connections) == []


async def test_a_breaker_that_is_not_half_open_gives_no_probe(connections: list[Connection]) -> None:
    assert await contend(connections) == []
    await open_by_hand(connections[0].execute, PROVIDER)
    assert await contend(connections) == []


@pytest.mark.usefixtures("half_open")
async def test_a_successful_probe_closes_and_a_failed_one_reopens(connections: list[Connection], each_redis_url: str) -> None:
    assert len(await contend(connections)) == 1
    assert await record_outcome(connections[3], PROVIDER, success=False) == OPEN
    assert await contend(connections) == []
    with redis.Redis.from_url(each_redis_url) as client:
        client.set(BREAKER_KEY, "open:1:1000")
    assert len(await contend(connections)) == 1
    assert await record_outcome(connections[4], PROVIDER, success=True) == CLOSED
    with redis.Redis.from_url(each_redis_url) as client:
        assert client.exists(BREAKER_KEY, PROBE_KEY) == 0


async def test_of_64_failures_at_once_the_fifth_opens_and_the_others_say_nothing_new(connections: list[Connection]) -> None:
    answers = await asyncio.gather(
        *(record_outcome(connections[number % WORKERS], PROVIDER, success=False) for number in range(64))
    )
    assert (answers.count(CLOSED), answers.count(OPEN)) == (4, 60)


def test_by_hand_runs_through_redis_py(each_redis_url: str) -> None:
    breaker = RealBreaker(each_redis_url)
    until_ms = open_by_hand(breaker.client.execute_command, PROVIDER, 30_000)
    assert breaker.state(until_ms - 1) == OPEN
    close_by_hand(breaker.client.execute_command, PROVIDER)
    assert breaker.client.keys("*") == []
    breaker.close()


@pytest.mark.parametrize("for_ms", [0, -1, 366 * 86_400_000 + 1])
def test_a_time_out_of_range_is_refused(for_ms: int) -> None:
    with pytest.raises(ValueError, match="1 ms to 366 days"):
        open_by_hand(lambda *words: words, PROVIDER, for_ms)
