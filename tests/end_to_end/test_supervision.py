"""The life of a sidecar: workers that die and are replaced, the end by signal, Redis and the gateway file that come late."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from operator import itemgetter
from pathlib import Path

import grpc.aio
import pytest

from demo.processes import free_port
from demo.redis_server import RedisServer
from tests.conftest import eventually_async
from tests.harness.messages import check_request
from tests.harness.record import Record, opened_record
from tests.harness.sidecar import (
    CHECK,
    GATEWAY,
    NOT_SERVING,
    SERVING,
    Sidecar,
    health_of,
    is_alive,
    no_one_of,
    ready,
    serving,
    signal_group,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["fast", "grpcio"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    await eventually_async(condition, 15)


def replaced(sidecar: Sidecar, gone: int, count: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        pids = sidecar.worker_pids()
        return gone not in pids and len(pids) == count and await sidecar.all_serve()

    return condition


async def a_key(record: Record) -> str:
    await record.tenant("acme", "open")
    await record.secret("acme", "openai", "credential-of-acme")
    return (await record.key("acme", ("chat",))).text


@TRANSPORTS
async def test_a_killed_worker_is_replaced_and_its_socket_serves_again(transport: str, redis_url: str) -> None:
    async with (
        serving(redis_url, "--transport", transport, workers=2) as sidecar,
        opened_record(redis_url, sidecar.gateway.parent) as record,
    ):
        key = await a_key(record)
        first, second = sidecar.worker_pids()
        os.kill(first, signal.SIGKILL)
        assert (await sidecar.check(key, 1)).is_allow
        await until(replaced(sidecar, first, 2))
        assert second in sidecar.worker_pids()
        assert [(await sidecar.check(key, worker)).status for worker in range(2)] == [200, 200]
        assert len(sidecar.log_lines("a worker ended and is started again")) == 1


@TRANSPORTS
async def test_each_worker_says_once_that_it_listens_and_where(transport: str, redis_url: str) -> None:
    async with serving(redis_url, "--transport", transport, workers=2) as sidecar:

        async def all_told() -> bool:
            return len(sidecar.log_lines("a worker listens")) >= len(sidecar.worker_pids())

        await until(all_told)
        told = sorted(sidecar.log_lines("a worker listens"), key=itemgetter("worker"))
        for index, line in enumerate(told):
            assert line["level"] == "info"
            (address,) = line["listens"]
            assert address.startswith("unix:/")
            assert (line["worker"], line["transport"], address.endswith(f".sock.{index}")) == (index, transport, True), line
        assert len(told) == 2


async def test_a_parent_that_is_killed_leaves_no_worker(redis_url: str) -> None:
    async with serving(redis_url, workers=2) as sidecar:
        workers = sidecar.worker_pids()
        sidecar.process.send(signal.SIGKILL)
        await until(no_one_of(workers))


@TRANSPORTS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_a_signal_drains(transport: str, number: signal.Signals, tmp_path: Path) -> None:
    """A call that waits for a silent Redis is finished, what is new is refused, and all ends with code 0."""
    redis = RedisServer(tmp_path)
    port = free_port()
    try:
        async with (
            serving(
                redis.url,
                *("--transport", transport, "--health", f"127.0.0.1:{port}"),
                workers=2,
                EXTAUTHZ_REDIS_TIMEOUT_MS="2500",
                EXTAUTHZ_DRAIN_S="8",
            ) as sidecar,
            opened_record(redis.url, sidecar.gateway.parent) as record,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as pod,
        ):
            key = await a_key(record)
            assert (await sidecar.check(key)).is_allow
            await until(lambda: _is(pod, SERVING))
            workers = sidecar.worker_pids()
            redis.process.send(signal.SIGSTOP)
            running = asyncio.ensure_future(sidecar.check(key))
            await until(lambda: _waits(sidecar))
            signal_group(sidecar.process, number)
            await until(lambda: _is(pod, NOT_SERVING))
            assert not running.done()
            await until(lambda: _refuses_new_connections(sidecar))
            answer = await running
            assert (answer.status, answer.refused_by) == (503, "unavailable")
            assert await asyncio.to_thread(sidecar.process.wait, 8) == 0
            assert not [pid for pid in workers if is_alive(pid)]
            assert not list(sidecar.gateway.parent.glob("*.sock*"))
    finally:
        redis.process.send(signal.SIGCONT)
        redis.stop()


async def _is(channel: grpc.aio.Channel, status: int) -> bool:
    return await health_of(channel) == status


async def _waits(sidecar: Sidecar) -> bool:
    """Whether the call that was just begun has reached the worker: a later one on the same connection is answered."""
    return await sidecar.health() == SERVING


async def _refuses_new_connections(sidecar: Sidecar) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(sidecar.addresses[0].removeprefix("unix:"))
    except OSError:
        return True
    writer.close()
    return False


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    try:
        async with (
            serving(redis.url, workers=2, EXTAUTHZ_REDIS_TIMEOUT_MS="9000", EXTAUTHZ_DRAIN_S="60") as sidecar,
            opened_record(redis.url, sidecar.gateway.parent) as record,
        ):
            key = await a_key(record)
            assert (await sidecar.check(key)).is_allow
            workers = sidecar.worker_pids()
            redis.process.send(signal.SIGSTOP)
            call = sidecar.channel().unary_unary(CHECK)(check_request(key), timeout=20)
            await until(lambda: _waits(sidecar))
            sidecar.process.send(signal.SIGTERM)
            await until(lambda: _refuses_new_connections(sidecar))
            assert sidecar.process.exit_code is None
            sidecar.process.send(signal.SIGINT)
            assert await asyncio.to_thread(sidecar.process.wait, 5) == 1
            assert not [pid for pid in workers if is_alive(pid)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        redis.process.send(signal.SIGCONT)
        redis.stop()


async def test_redis_that_comes_late_makes_ready_and_one_that_evicts_does_not(tmp_path: Path) -> None:
    port = free_port()
    async with serving(f"redis://127.0.0.1:{port}", workers=2, until_ready=False) as sidecar:
        await until(lambda: _all_are(sidecar, NOT_SERVING))
        assert await sidecar.health(0, "liveness") == SERVING
        assert (await sidecar.check("x")).refused_by == "not_configured"
        evicting = RedisServer(tmp_path, port=port, options=("maxmemory-policy allkeys-lfu",))
        try:
            await until(lambda: _has_logged(sidecar, "Redis must not be used as it is", 2))
            assert [await sidecar.health(worker) for worker in range(2)] == [NOT_SERVING] * 2
            assert await sidecar.health(0, "redis") == SERVING
            assert (await sidecar.check("x")).refused_by == "not_configured"
            told = sidecar.log_lines("Redis must not be used as it is")[0]["problems"][0]
            assert told.startswith("EXTAUTHZ_REDIS_URL: the server's maxmemory-policy is allkeys-lfu")
        finally:
            evicting.stop()
        mended = RedisServer(tmp_path / "mended", port=port)
        try:
            await ready(sidecar)
            async with opened_record(mended.url, sidecar.gateway.parent) as record:
                assert (await sidecar.check(await a_key(record), 1)).is_allow
            assert len(sidecar.log_lines("Redis must not be used as it is")) == 2  # once for each worker, not for each look
        finally:
            mended.stop()


async def test_redis_that_was_replaced_by_one_that_evicts_is_told_of_and_kept(tmp_path: Path) -> None:
    """What it holds is exact until its memory is full; refusing everything at a failover would be worse."""
    fit = RedisServer(tmp_path / "fit")
    try:
        async with serving(fit.url, workers=1) as sidecar:
            fit.stop()
            await until(lambda: _is(sidecar.channel(), SERVING))
            evicting = RedisServer(tmp_path / "evicting", port=fit.port, options=("maxmemory-policy allkeys-lru",))
            try:
                await until(lambda: _has_logged(sidecar, "Redis must not be used as it is", 1))
                assert await sidecar.health() == SERVING
                assert (await sidecar.check("x")).refused_by == "key_malformed"
            finally:
                evicting.stop()
    finally:
        fit.stop()


async def _all_are(sidecar: Sidecar, status: int) -> bool:
    return all([await sidecar.health(worker) == status for worker in range(len(sidecar.addresses))])


async def _has_logged(sidecar: Sidecar, event: str, count: int) -> bool:
    return len(sidecar.log_lines(event)) >= count


async def test_a_gateway_file_is_mended_broken_and_changed_while_it_serves(redis_url: str) -> None:
    """At the start it is bad: NOT_SERVING, every problem told. Mended: ready. Broken: the last good one stays. Changed: it acts."""
    broken = GATEWAY.replace("scope: chat,", "scope: nobody,").replace("default_plan: open", "default_plan: shut")
    async with serving(redis_url, workers=2, until_ready=False, gateway=broken) as sidecar:
        await until(lambda: _all_are(sidecar, NOT_SERVING))
        refused = sidecar.log_lines("gateway file refused")
        assert len(refused) == 1
        assert len(refused[0]["problems"]) == 2
        assert refused[0]["then"] == "nothing is served until it is mended"
        assert (await sidecar.check("x")).refused_by == "not_configured"
        sidecar.gateway.write_text(GATEWAY)
        await ready(sidecar)
        async with opened_record(redis_url, sidecar.gateway.parent) as record:
            key = await a_key(record)
        assert (await sidecar.check(key)).is_allow
        sidecar.gateway.write_text(broken)
        await until(lambda: _has_logged(sidecar, "gateway file refused", 2))
        assert sidecar.log_lines("gateway file refused")[1]["then"] == "the last good one stays in force"
        assert (await sidecar.check(key)).is_allow
        assert await sidecar.all_serve()
        sidecar.gateway.write_text(GATEWAY.replace("/v1/chat/completions", "/v2/chat"))

        async def has_moved() -> bool:
            answers = [await sidecar.check(key, worker, path="/v2/chat") for worker in range(2)]
            return all(answer.is_allow for answer in answers)

        await until(has_moved)
        assert (await sidecar.check(key)).refused_by == "route_not_found"
        assert len(sidecar.log_lines("gateway file refused")) == 2


async def test_a_gateway_file_that_is_not_there_is_waited_for(redis_url: str) -> None:
    async with serving(redis_url, until_ready=False, gateway=None) as sidecar:
        await until(lambda: _all_are(sidecar, NOT_SERVING))
        assert len(sidecar.log_lines("gateway file refused")) == 1
        sidecar.gateway.write_text(GATEWAY)
        await ready(sidecar)
