"""200 concurrent requests against a limit of 100, sent to four sidecar processes: exactly 100 pass."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.harness.record import opened_record
from tests.harness.sidecar import Sidecar, environment_of, ready, serving, short_folder, start

PROCESSES = 4
REQUESTS, LIMIT = 200, 100


async def race(redis_url: str, folder: Path, doors: list[tuple[Sidecar, int]]) -> Counter[int]:
    """All requests at once, dealt out to the doors; how many got which status."""
    async with opened_record(redis_url, folder) as record:
        await record.tenant("acme", "hundred")
        await record.secret("acme", "openai", "credential-of-acme")
        key = (await record.key("acme", ("chat",))).text
    answers = await asyncio.gather(
        *(sidecar.check(key, worker) for _ in range(REQUESTS // len(doors)) for sidecar, worker in doors),
    )
    assert {answer.refused_by for answer in answers if not answer.is_allow} == {"rate_limit_exceeded"}
    return Counter(answer.status for answer in answers)


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_workers_of_one_sidecar_share_one_count(transport: str, redis_url: str) -> None:
    async with serving(redis_url, "--transport", transport, workers=PROCESSES) as sidecar:
        doors = [(sidecar, worker) for worker in range(PROCESSES)]
        assert len(set(sidecar.worker_pids())) == PROCESSES
        assert await race(redis_url, sidecar.gateway.parent, doors) == {200: LIMIT, 429: REQUESTS - LIMIT}


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_four_sidecars_share_one_count(transport: str, redis_url: str) -> None:
    async with AsyncExitStack() as running:
        folder = running.enter_context(short_folder())
        sidecars = []
        for name in range(PROCESSES):
            sidecar = start(folder, environment_of(redis_url, folder), "--transport", transport, name=f"sidecar{name}")
            running.push_async_callback(sidecar.close)
            sidecars.append(sidecar)
        await ready(*sidecars)
        assert await race(redis_url, folder, [(sidecar, 0) for sidecar in sidecars]) == {200: LIMIT, 429: REQUESTS - LIMIT}
