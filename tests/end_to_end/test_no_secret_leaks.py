"""Promise 27 for the sidecar's processes: 12 canaries, everything that a sidecar says or shows, and 8 ways to write a value."""

import asyncio
import base64
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
import redis.asyncio

from demo.processes import free_port
from demo.redis_server import RedisServer
from extauthz import keyspace
from tests.conftest import eventually_async
from tests.harness.messages import check_request
from tests.harness.record import MASTER_KEY, MadeKey, Record, opened_record
from tests.harness.sidecar import Sidecar, scrape, serving

TENANTS = 5
PASSWORD = "canary-of-redis-0123456789abcdef"


def forms(value: bytes) -> list[bytes]:
    """As it is, hex, base64 at each of the three alignments, percent-encoded, UTF-16, backwards."""
    base64s = [base64.b64encode(b"x" * shift + value)[4 * bool(shift) : -4] for shift in range(3)]
    percent = "".join(f"%{byte:02X}" for byte in value).encode()
    return [value, value.hex().encode(), *base64s, percent, value.decode().encode("utf-16-le"), value[::-1]]


def credential_of(number: int) -> str:
    return f"canary-credential-{number}-fedcba98765432100"


def leaks(canaries: list[str], shown: dict[str, bytes]) -> list[tuple[str, str]]:
    """Which canary is where, whole or its latter half; a key's first half is its id, which is no secret."""
    pieces = [(canary, piece.encode()) for canary in canaries for piece in (canary, canary[len(canary) // 2 :])]
    return [
        (canary, sink) for canary, piece in pieces for sink, content in shown.items() if any(f in content for f in forms(piece))
    ]


@pytest.mark.prove(27)
@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_no_secret_is_in_anything_that_a_sidecar_shows(transport: str, tmp_path: Path) -> None:
    server, port = RedisServer(tmp_path, options=(f"user sidecar on >{PASSWORD} ~* &* +@all",)), free_port()
    url = server.url.replace("//", f"//sidecar:{PASSWORD}@")
    (tmp_path / "url").write_text(url)
    try:
        async with (
            serving(
                "",
                *("--transport", transport, "--metrics", f"127.0.0.1:{port}", "--health", f"127.0.0.1:{free_port()}"),
                workers=2,
                EXTAUTHZ_REDIS_URL_FILE=str(tmp_path / "url"),
                EXTAUTHZ_LOG_LEVEL="debug",
                EXTAUTHZ_TENANT_LABEL="on",
            ) as sidecar,
            opened_record(url, sidecar.gateway.parent) as record,
        ):
            keys = [await a_tenant(record, number) for number in range(TENANTS)]
            for key in keys:
                await everything_wrong_with(sidecar, key)
            await eventually_async(lambda: every_tenant_is_counted(port))  # workers are asked once a second
            await trouble_with_redis(sidecar, server, url, keys)
            shown = dict(shown_by(sidecar, port))
            canaries = [*(key.text for key in keys), *map(credential_of, range(TENANTS)), MASTER_KEY, PASSWORD]
            print(f"row 27, {transport}: {len(canaries)} canaries, {len(shown)} sinks, {sum(map(len, shown.values()))} bytes")
            assert leaks(canaries, shown) == []
            # The sinks hold what they should: without that, nothing was searched.
            assert b"a credential does not open" in shown["output"]
            assert b"[redacted]" in shown["output"]
            assert b'tenant="tenant-0"' in shown["metrics"]
            limits = [content for sink, content in shown.items() if sink.endswith("limits")]
            assert len(limits) == 3
            assert all(re.search(rb"Max core file size +0 +0 ", content) for content in limits)
    finally:
        server.process.send(signal.SIGCONT)
        server.stop()


async def every_tenant_is_counted(port: int) -> bool:
    page = "".join(await asyncio.to_thread(scrape, port))
    return all(f'tenant="tenant-{number}"' in page for number in range(TENANTS))


def test_the_search_finds_what_is_there() -> None:
    sinks = {"log": b"... %63%61 ... " + base64.b64encode(b"ab" + PASSWORD.encode() + b"cd"), "other": b"nothing"}
    assert {sink for _, sink in leaks([PASSWORD], sinks)} == {"log"}


async def a_tenant(record: Record, number: int) -> MadeKey:
    await record.tenant(f"tenant-{number}", "open")
    await record.secret(f"tenant-{number}", "openai", credential_of(number))
    return await record.key(f"tenant-{number}", ("chat",))


async def everything_wrong_with(sidecar: Sidecar, key: MadeKey) -> None:
    """The key where it belongs, and in every place where it does not."""
    text = key.text
    assert (await sidecar.check(text)).request_headers["authorization"].startswith("Bearer canary-credential-")
    for fields in (
        {"path": f"/{text}"},
        {"path": f"/v1/chat/completions?key={text}"},
        {"host": text},
        {"method": text},
        {"request_id": text},
        {"model": text},
        {"source": text},
        {"headers": {"x-api-key": text, "authorization": "Bearer other"}},
        {"headers": {"authorization": f"Basic {text}"}},
        {"headers": {"authorization": f"Bearer {text}{text}"}},
        {"headers": {"authorization": f"Bearer {text}", "x-tenant-id": text}},
        {"headers": {"authorization": f"Bearer {text[:-1]}"}},
    ):
        await sidecar.check(text, 1, **fields)
    for message in (check_request(text) + b"\x0a", text.encode()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sidecar.send(message)
        assert text not in str(caught.value)


async def trouble_with_redis(sidecar: Sidecar, server: RedisServer, url: str, keys: list[MadeKey]) -> None:
    """An envelope that does not open, a document that does not parse, a Redis that is silent, is gone, and is empty."""
    async with redis.asyncio.Redis.from_url(url) as client:
        envelope = keyspace.secret("tenant-0", "openai", "default", 1)
        sealed = await client.get(envelope)
        assert isinstance(sealed, bytes)
        await client.set(envelope, sealed[:-1] + bytes([sealed[-1] ^ 1]))
        await client.set(keyspace.tenant_document("tenant-1"), b"\xff" + PASSWORD.encode())
    for pid in sidecar.worker_pids():
        os.kill(pid, signal.SIGKILL)  # the next ones have nothing in memory

    async def all_serve() -> bool:
        return len(sidecar.worker_pids()) == 2 and await sidecar.all_serve()

    await eventually_async(all_serve, 15)
    assert [(await sidecar.check(key.text, 1)).status for key in keys[:3]] == [503, 503, 200]
    server.process.send(signal.SIGSTOP)
    assert (await sidecar.check(keys[2].text, 1)).status == 503
    server.process.send(signal.SIGCONT)
    server.restart()
    statuses = [(await sidecar.check(key.text)).status for key in keys]
    assert set(statuses) <= {401, 503}


def shown_by(sidecar: Sidecar, port: int) -> Iterator[tuple[str, bytes]]:
    """Everything that others can read of a sidecar, by where it stands."""
    yield "output", sidecar.process.log.read_bytes()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        yield "metrics", page.read()
    for pid in (sidecar.process.pid, *sidecar.worker_pids()):
        for name in ("cmdline", "environ", "limits", "comm", "status", "maps"):
            yield f"{pid} {name}", Path(f"/proc/{pid}/{name}").read_bytes()
    for path in sorted(sidecar.gateway.parent.iterdir()):
        if path.is_file() and path.name != "master.key":
            yield str(path), path.read_bytes()
