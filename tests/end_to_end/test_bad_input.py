"""What clients, Redis and operators get wrong, over a real socket and on both transports: refused and logged, never allowed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
import pytest
import redis.asyncio

from demo.processes import free_port
from demo.redis_server import RedisServer
from extauthz import keyspace
from extauthz.tenants import api_key
from tests.conftest import eventually_async
from tests.harness.messages import check_request
from tests.harness.record import MadeKey, Record, opened_record
from tests.harness.sidecar import CHECK, SERVING, Sidecar, scrape, serving

TRANSPORTS = pytest.mark.parametrize("transport", ["fast", "grpcio"])
Code = grpc.StatusCode


class Place(NamedTuple):
    """A sidecar with a Redis of its own, and a key that passes."""

    sidecar: Sidecar
    redis: RedisServer
    record: Record
    key: MadeKey

    async def refused_with(self, message: bytes, **options: object) -> Code:
        """The status of a call that must not succeed."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.sidecar.send(message, **options)  # type: ignore[arg-type]
        code: Code = caught.value.code()
        return code

    async def passes(self) -> bool:
        return (await self.sidecar.check(self.key.text)).is_allow


@asynccontextmanager
async def a_place(transport: str, folder: Path) -> AsyncIterator[Place]:
    server = RedisServer(folder)
    try:
        async with (
            serving(server.url, "--transport", transport) as sidecar,
            opened_record(server.url, sidecar.gateway.parent) as record,
        ):
            await record.tenant("acme", "open")
            await record.secret("acme", "openai", "credential-of-acme")
            place = Place(sidecar, server, record, await record.key("acme", ("chat",)))
            assert await place.passes()
            yield place
    finally:
        server.process.send(signal.SIGCONT)
        server.stop()


@TRANSPORTS
async def test_what_a_client_sends_wrongly_is_refused_and_logged_once(transport: str, tmp_path: Path) -> None:
    async with a_place(transport, tmp_path) as place:
        key, sidecar = place.key.text, place.sidecar
        unknown = api_key.mint("test")[0].reveal().decode()
        twice = [("authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]

        assert await place.refused_with(b"\xff\xff\xff not protobuf") is Code.INVALID_ARGUMENT
        assert await place.refused_with(check_request(key) + b"\x0a") is Code.INVALID_ARGUMENT
        assert await place.refused_with(check_request(key, headers={"x": "y" * 300_000})) is Code.RESOURCE_EXHAUSTED
        assert await place.refused_with(check_request(key), metadata=(("x-large", "y" * 20_000),)) is not Code.OK
        answers = [
            await sidecar.send(b""),
            await sidecar.check(),
            await sidecar.check("not-a-key"),
            await sidecar.check(key[:-1] + ("a" if key[-1] != "a" else "b")),
            await sidecar.check(unknown),
            await sidecar.send(with_headers(check_request(), twice)),
            await sidecar.check(headers={"authorization": f"Bearer {key}", "x-api-key": unknown}),
        ]
        assert [(answer.status, answer.refused_by) for answer in answers] == [
            (401, "key_missing"),
            (401, "key_missing"),
            (401, "key_malformed"),
            (401, "key_malformed"),
            (401, "key_unknown"),
            (401, "key_malformed"),
            (401, "key_ambiguous"),
        ]
        assert len({answer.body for answer in answers[1:]}) == 1
        assert await place.passes()
        assert [line["code"] for line in sidecar.log_lines("refused")] == [answer.refused_by for answer in answers]
        undecodable = sidecar.log_lines("a message is no CheckRequest")
        assert [line["method"] for line in undecodable] == [CHECK, CHECK]
        assert "Traceback" not in sidecar.process.output()
        assert len(sidecar.worker_pids()) == 1


def with_headers(message: bytes, pairs: list[tuple[str, str]]) -> bytes:
    """The request with these headers as an Envoy with encode_raw_headers sends them, and no others."""
    from extauthz import _pb  # noqa: PLC0415

    request = _pb.CheckRequest.FromString(message)
    http = request.attributes.request.http
    http.ClearField("headers")
    for name, value in pairs:
        pair = http.header_map.headers.add()
        pair.key, pair.raw_value = name, value.encode()
    return bytes(request.SerializeToString())


@TRANSPORTS
async def test_a_silent_redis_is_a_denial_in_time_and_is_over_when_it_answers(transport: str, tmp_path: Path) -> None:
    count = 50
    async with a_place(transport, tmp_path) as place:
        key, sidecar = place.key.text, place.sidecar
        said_before = len(redis_lines(sidecar))
        place.redis.process.send(signal.SIGSTOP)
        answers = [await sidecar.send(check_request(key), timeout_s=1.0)]
        answers += await asyncio.gather(*(sidecar.send(check_request(key), timeout_s=1.0) for _ in range(count)))
        answers.append(await sidecar.check(api_key.mint("test")[0].reveal().decode()))
        assert {(answer.status, answer.refused_by) for answer in answers} == {(503, "unavailable")}
        assert all(int(answer.response_headers["retry-after"]) >= 1 for answer in answers)
        assert await sidecar.health() == SERVING  # a blip must not unready every pod at once
        assert len(redis_lines(sidecar)) - said_before <= 3
        place.redis.process.send(signal.SIGCONT)
        began = time.monotonic()
        await eventually_async(place.passes)
        print(f"{transport}: passed again {time.monotonic() - began:.3f} s after Redis went on")


def redis_lines(sidecar: Sidecar) -> list[str]:
    return [line["event"] for line in sidecar.log_lines() if line["logger"] == "extauthz.redis"]


@TRANSPORTS
async def test_an_emptied_redis_is_503_and_not_401(transport: str, tmp_path: Path) -> None:
    """Neither a key that is in memory nor one that is not may learn that it is bad."""
    async with a_place(transport, tmp_path) as place:
        other = await place.record.key("acme", ("chat",))
        async with redis.asyncio.Redis.from_url(place.redis.url) as client:
            await client.flushall()
        answers = [await place.sidecar.check(key) for key in (place.key.text, other.text, place.key.text)]
        assert [(answer.status, answer.refused_by) for answer in answers] == [(503, "unavailable")] * 3
        assert all("retry-after" in answer.response_headers for answer in answers)


@TRANSPORTS
async def test_a_document_that_does_not_parse_is_503(transport: str, tmp_path: Path) -> None:
    async with a_place(transport, tmp_path) as place:
        other = await place.record.key("acme", ("chat",))
        async with redis.asyncio.Redis.from_url(place.redis.url) as client:
            whole = await client.get(keyspace.key_document("acme", other.key_id))
            assert isinstance(whole, bytes)
            for broken in (b"", b"\xff" * 40, whole[:-1], whole + b"\0"):
                await client.set(keyspace.key_document("acme", other.key_id), broken)
                answer = await place.sidecar.check(other.text)
                assert (broken, answer.status, answer.refused_by) == (broken, 503, "unavailable")
            await client.set(keyspace.key_document("acme", other.key_id), whole)
        assert (await place.sidecar.check(other.text)).is_allow
        assert "Traceback" not in place.sidecar.process.output()


async def test_a_master_key_that_is_not_the_one_is_503_and_told_once_a_second(redis_url: str) -> None:
    async with serving(redis_url) as sidecar:
        folder = sidecar.gateway.parent / "other"
        folder.mkdir()
        (folder / "master.key").write_text("0f" * 8 + "fedcba9876543210" * 3)
        async with opened_record(redis_url, folder) as record:
            await record.tenant("acme", "open")
            await record.secret("acme", "openai", "credential-of-acme")
            key = (await record.key("acme", ("chat",))).text
        began = time.monotonic()
        answers = await asyncio.gather(*(sidecar.check(key) for _ in range(20)))
        passed_s = time.monotonic() - began
        assert {answer.status for answer in answers} == {503}
        told = sidecar.log_lines("a credential does not open")
        assert 1 <= len(told) <= 1 + passed_s
        assert (told[0]["tenant"], told[0]["provider"]) == ("acme", "openai")


async def test_a_connection_that_breaks_a_rule_is_logged_once_and_counted(redis_url: str) -> None:
    port, times = free_port(), 3
    async with serving(redis_url, "--metrics", f"127.0.0.1:{port}") as sidecar:
        path = sidecar.addresses[0].removeprefix("unix:")
        for _ in range(times):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.read()
            writer.close()
        name = 'extauthz_connections_closed_total{reason="no HTTP/2 preface"}'

        async def is_counted() -> bool:
            return (await asyncio.to_thread(scrape, port)).get(name) == times

        await eventually_async(is_counted)
        logged = [line["reason"] for line in sidecar.log_lines() if line["event"].startswith("a connection that broke a rule")]
        assert logged == ["no HTTP/2 preface"]
