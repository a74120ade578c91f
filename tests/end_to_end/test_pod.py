"""What a pod sees of a sidecar from outside: health over TCP from the parent, health on every worker's socket, and /metrics."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from demo.processes import free_port
from demo.redis_server import RedisServer
from extauthz import _pb
from extauthz.services.health import AUTHORIZATION
from tests.conftest import eventually_async
from tests.harness.messages import check_request
from tests.harness.record import opened_record
from tests.harness.sidecar import NOT_SERVING, SERVING, Sidecar, health_of, scrape, serving

REQUESTS = 5_000
WORKERS = 2


@asynccontextmanager
async def watched(channel: Any, name: str) -> AsyncIterator[list[int]]:
    """All that a Watch of this name has said so far."""
    told: list[int] = []
    call = channel.unary_stream("/grpc.health.v1.Health/Watch")(_pb.HealthCheckRequest(service=name).SerializeToString())

    async def listen() -> None:
        try:
            async for answer in call:
                told.append(_pb.HealthCheckResponse.FromString(answer).status)  # noqa: PERF401 (it is read meanwhile)
        except grpc.aio.AioRpcError:
            return

    listening = asyncio.ensure_future(listen())
    try:
        yield told
    finally:
        call.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def until_said(told: list[int], *statuses: int) -> None:
    async def is_said() -> bool:
        return told == list(statuses)

    await eventually_async(is_said, 10)


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_health_tells_redis_apart_from_readiness_and_liveness(transport: str, tmp_path: Path) -> None:
    """On the parent's port and on a worker's socket alike; Redis that goes is seen under its own name alone."""
    redis, port = RedisServer(tmp_path), free_port()
    try:
        async with (
            serving(
                redis.url, "--transport", transport, "--health", f"127.0.0.1:{port}", workers=WORKERS, EXTAUTHZ_DRAIN_S="60"
            ) as sidecar,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as pod,
        ):
            doors = [pod, sidecar.channel(0)]
            names = ("", AUTHORIZATION, "redis", "liveness")
            await eventually_async(lambda: _all_serve(doors, names), 10)
            for door in doors:
                message = _pb.HealthCheckRequest(service="no.such.Service").SerializeToString()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await door.unary_unary("/grpc.health.v1.Health/Check")(message, timeout=2)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            async with watched(pod, "redis") as by_parent, watched(doors[1], "redis") as by_worker, watched(pod, "") as readiness:
                await until_said(by_parent, SERVING)
                redis.stop()
                await until_said(by_parent, SERVING, NOT_SERVING)
                await until_said(by_worker, SERVING, NOT_SERVING)
                assert [[await health_of(door, name) for name in names] for door in doors] == [
                    [SERVING, SERVING, NOT_SERVING, SERVING]
                ] * 2
                assert readiness == [SERVING]
                sidecar.process.send(signal.SIGTERM)
                await until_said(readiness, SERVING, NOT_SERVING)
                # Those who watch do not keep it from ending: the grace is a minute.
                assert await asyncio.to_thread(sidecar.process.wait, 8) == 0
    finally:
        redis.stop()


async def _all_serve(doors: list[Any], names: tuple[str, ...]) -> bool:
    return all([await health_of(door, name) == SERVING for door in doors for name in names])


async def test_metrics_count_every_request_by_closed_labels_and_outlive_workers(redis_url: str) -> None:
    """5,000 requests, everything random in them that a client chooses; then the workers are killed."""
    port = free_port()
    async with (
        serving(redis_url, "--metrics", f"127.0.0.1:{port}", workers=WORKERS) as sidecar,
        opened_record(redis_url, sidecar.gateway.parent) as record,
    ):
        await record.tenant("acme", "open")
        await record.secret("acme", "openai", "credential-of-acme")
        key = (await record.key("acme", ("chat",))).text
        half = REQUESTS // 2
        await send_random(sidecar, key, 1, half)
        await eventually_async(lambda: _decisions_are(port, half), 10)
        before = await asyncio.to_thread(scrape, port)
        await send_random(sidecar, key, 2, REQUESTS - half)
        await eventually_async(lambda: _decisions_are(port, REQUESTS), 10)
        after = await asyncio.to_thread(scrape, port)
        assert new_series(before, after) == set()
        assert len(after) < 400
        reasons = {name.partition('reason="')[2].partition('"')[0] for name in after if name.startswith("extauthz_decisions_total")}
        assert {"ok", "key_missing", "key_malformed", "route_not_found", "path_refused"} <= reasons
        assert after["extauthz_workers"] == WORKERS
        assert [value for name, value in after.items() if name.startswith("extauthz_build_info")] == [1.0]
        for pid in sidecar.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await eventually_async(lambda: _is_counted(port, "extauthz_worker_restarts_total", WORKERS), 10)
        later = await asyncio.to_thread(scrape, port)
        counters = [name for name in after if name.partition("{")[0].endswith(("_total", "_count", "_bucket"))]
        assert len(counters) > 20
        assert {name: later.get(name, 0.0) for name in counters if later.get(name, 0.0) < after[name]} == {}
        await eventually_async(sidecar.all_serve, 15)
        assert (await sidecar.check(key)).is_allow
        await eventually_async(lambda: _decisions_are(port, REQUESTS + 1), 10)


def test_the_checker_sees_a_label_that_comes_from_requests() -> None:
    """The accident: `path` as a label."""
    naive = [{f'extauthz_decisions_total{{path="/{random.Random(seed).getrandbits(64):x}"}}': 1.0} for seed in (1, 2)]
    assert new_series(*naive) == set(naive[1])


def new_series(before: dict[str, float], after: dict[str, float]) -> set[str]:
    """What the second half of the requests added; times of creation aside, which every series has."""
    return set(after) - set(before)


async def send_random(sidecar: Sidecar, key: str, seed: int, count: int) -> None:
    """Requests in which everything that a client chooses is new each time, among some that pass."""
    pick = random.Random(seed)
    messages = [random_request(pick, key) for _ in range(count)]
    for begin in range(0, count, 100):
        some = enumerate(messages[begin : begin + 100])
        await asyncio.gather(*(sidecar.send(message, number % WORKERS, timeout_s=20) for number, message in some))


def random_request(pick: random.Random, key: str) -> bytes:
    junk = f"{pick.getrandbits(64):x}"
    sent = pick.choice((key, key, "", junk))
    headers = {"x-tenant-id": junk} if pick.random() < 0.2 else {}
    return check_request(
        headers={**headers, **({"authorization": f"Bearer {sent}"} if sent else {})} or {"x-junk": junk},
        path=pick.choice(("/v1/chat/completions", "/v1/chat/completions", f"/{junk}", f"/{junk}/../x", f"/agents/{junk}/runs")),
        method=pick.choice(("POST", "POST", "GET", junk.upper())),
        host=f"{junk}.example",
        model=pick.choice((None, junk)),
        request_id=junk,
    )


async def _decisions_are(port: int, count: int) -> bool:
    page = await asyncio.to_thread(scrape, port)
    return sum(value for name, value in page.items() if name.startswith("extauthz_decisions_total")) == count


async def _is_counted(port: int, name: str, count: int) -> bool:
    return (await asyncio.to_thread(scrape, port)).get(name) == count
