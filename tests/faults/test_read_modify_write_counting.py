"""The accident: a counter that is read, compared and then written lets through whoever reads before the other has written."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from extauthz.admission.admit import Admission, prepare
from extauthz.admission.reply import ADMITTED
from extauthz.admission.script import ADMIT
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from tests.oracles.admission import KEY, KEY_EPOCH_KEY, PROVIDER, TENANT, TENANT_EPOCH_KEY, rule

LIMIT = 100
REQUESTS = 200
WORKERS = 4

Attempt = Callable[[Connection], Awaitable[bool]]


@pytest.fixture
async def workers(each_redis_url: str) -> AsyncIterator[list[Connection]]:
    connections = [Connection(RedisUrl.parse(each_redis_url), (ADMIT,), timeout_s=5.0) for _ in range(WORKERS)]
    await asyncio.gather(*(connection.start() for connection in connections))
    await connections[0].execute("MSET", TENANT_EPOCH_KEY, "1.a", KEY_EPOCH_KEY, "1.b")
    yield connections
    await asyncio.gather(*(connection.close() for connection in connections))


async def passed(workers: list[Connection], attempt: Attempt) -> int:
    """How many of 200 concurrent requests, spread over 4 workers, got through."""
    answers = await asyncio.gather(*(attempt(workers[number % WORKERS]) for number in range(REQUESTS)))
    return sum(answers)


@pytest.mark.parametrize("algorithm", ["fixed", "sliding"])
@pytest.mark.parametrize("level", ["tenant", "key", "key+endpoint", "global"])
async def test_200_concurrent_requests_against_a_limit_of_100_pass_exactly_100_times(
    workers: list[Connection], algorithm: str, level: str
) -> None:
    prepared = prepare(TENANT, b"1.a", KEY, b"1.b", PROVIDER, (rule("n", LIMIT, 3_600_000, algorithm=algorithm, level=level),))

    async def attempt(worker: Connection) -> bool:
        return (await Admission(worker).admit(prepared, math.inf))[0] == ADMITTED

    assert await passed(workers, attempt) == LIMIT


async def test_the_checker_sees_a_counter_that_is_read_and_then_written(workers: list[Connection]) -> None:
    async def attempt(worker: Connection) -> bool:
        used = int(await worker.execute("GET", "naive") or 0)
        if used >= LIMIT:
            return False
        await worker.execute("SET", "naive", used + 1)
        return True

    assert await passed(workers, attempt) > LIMIT
