"""The real `extauthz serve`, its workers as processes, and grpcio's client in front of them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from demo.processes import Process
from extauthz import _pb
from tests.conftest import eventually_async
from tests.harness.messages import Answer, check_request
from tests.harness.record import master_key_file

CHECK = "/envoy.service.auth.v3.Authorization/Check"
GATEWAY = """
providers:
  openai:
    address: http://127.0.0.1:9001
    credential: {header: authorization, format: "Bearer {}"}
  agno:
    address: http://127.0.0.1:9005
    credential: none
scopes:
  chat: {providers: [openai]}
  internal: {providers: [agno]}
routes:
  - {name: chat, path: /v1/chat/completions, scope: chat, providers: [openai]}
  - {name: runs, path: "/agents/{agent}/runs", scope: internal, providers: [agno]}
plans:
  hundred: {limits: {requests: {per: tenant, limit: 100/hour}}}
  open: {limits: {requests: {per: tenant, limit: 1000000/hour}}}
  five: {limits: {requests: {per: tenant, limit: 5/hour}}}
default_plan: open
"""
SERVING, NOT_SERVING = 1, 2


class Sidecar:
    """A running `extauthz serve`, and channels to its workers.

    Args:
        process: the parent.
        addresses: of the workers, as grpcio's client takes them.
    """

    def __init__(self, process: Process, addresses: tuple[str, ...], gateway: Path) -> None:
        self.process = process
        self.addresses = addresses
        self.gateway = gateway
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, worker: int = 0) -> Any:
        """The channel to a worker, the same one each time."""
        address = self.addresses[worker]
        if address not in self._channels:
            # Reconnects quickly: workers are killed and replaced.
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
            self._channels[address] = grpc.aio.insecure_channel(
                address, options=[*options, ("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)]
            )
        return self._channels[address]

    async def send(self, message: bytes, worker: int = 0, timeout_s: float = 5.0, **options: Any) -> Answer:
        """One Check as bytes. Raises grpc.aio.AioRpcError."""
        return Answer(await self.channel(worker).unary_unary(CHECK)(message, timeout=timeout_s, **options))

    async def check(self, key: str = "", worker: int = 0, **fields: Any) -> Answer:
        """One Check of a worker."""
        return await self.send(check_request(key, **fields), worker)

    async def health(self, worker: int = 0, name: str = "") -> int | None:
        """The worker's own status of this name; None when it does not answer."""
        return await health_of(self.channel(worker), name)

    async def all_serve(self) -> bool:
        return all([await self.health(worker) == SERVING for worker in range(len(self.addresses))])

    def worker_pids(self) -> list[int]:
        """The workers that live now, in the order in which they were started."""
        return children_of(self.process.pid)

    def log_lines(self, event: str = "") -> list[dict[str, Any]]:
        """What was logged so far, of one event or all."""
        lines = [json.loads(line) for line in self.process.output().splitlines() if line.startswith("{")]
        return [line for line in lines if event in ("", line["event"])]

    async def close(self) -> None:
        """Close the channels, stop the parent by its pid and see that no worker is left."""
        for channel in self._channels.values():
            await channel.close(None)
        workers = self.worker_pids()
        await asyncio.to_thread(self.process.stop)
        await eventually_async(no_one_of(workers))


def no_one_of(pids: list[int]) -> Any:
    async def condition() -> bool:
        return not [pid for pid in pids if is_alive(pid)]

    return condition


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """The living children of a process; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return sorted(filter(is_alive, found))


async def health_of(channel: Any, name: str = "") -> int | None:
    """The status of a name over this channel; None when nobody answers."""
    message = _pb.HealthCheckRequest(service=name).SerializeToString()
    try:
        answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(message, timeout=2.0)
    except grpc.aio.AioRpcError:
        return None
    return int(_pb.HealthCheckResponse.FromString(answer).status)


def scrape(port: int) -> dict[str, float]:
    """The series of /metrics with their values; the name with its labels is the key."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="xa-") as folder:
        yield Path(folder)


def environment_of(redis_url: str, folder: Path, **more: str) -> dict[str, str]:
    return {
        "EXTAUTHZ_REDIS_URL": redis_url,
        "EXTAUTHZ_MASTER_KEY_FILE": str(master_key_file(folder)),
        "EXTAUTHZ_DRAIN_S": "3",
        **more,
    }


def start(
    folder: Path,
    environment: Mapping[str, str],
    *options: str,
    workers: int | None = None,
    name: str = "sidecar",
    gateway: str | None = GATEWAY,
) -> Sidecar:
    """Start `extauthz serve` in this (short) folder; it may not serve yet. Without a gateway file when that is None."""
    file = folder / "gateway.yaml"
    if gateway is not None:
        file.write_text(gateway)
    path = folder / f"{name}.sock"
    flags = () if workers is None else ("--workers", str(workers))
    command = (sys.executable, "-m", "extauthz", "serve", "--config", str(file), "--listen", f"unix:{path}", *flags, *options)
    inherited = {name: "" for name in os.environ if name.startswith("EXTAUTHZ_")}
    process = Process(command, folder / f"{name}.log", {**inherited, **environment})
    paths = [path] if workers is None else [f"{path}.{index}" for index in range(workers)]
    return Sidecar(process, tuple(f"unix:{each}" for each in paths), file)


@contextlib.asynccontextmanager
async def serving(
    redis_url: str,
    *options: str,
    workers: int | None = None,
    until_ready: bool = True,
    gateway: str | None = GATEWAY,
    **environment: str,
) -> AsyncIterator[Sidecar]:
    """A sidecar until the end of the block; with `until_ready`, it serves when the block begins.

    The keyword arguments in capitals go into its environment.
    """
    with short_folder() as folder:
        sidecar = start(folder, environment_of(redis_url, folder, **environment), *options, workers=workers, gateway=gateway)
        try:
            if until_ready:
                await ready(sidecar)
            yield sidecar
        finally:
            await sidecar.close()


async def ready(*sidecars: Sidecar) -> None:
    """Wait until every worker serves; fail with what was logged when one ends before."""

    async def condition() -> bool:
        for sidecar in sidecars:
            if sidecar.process.exit_code is not None:
                raise AssertionError(f"serve ended with {sidecar.process.exit_code}\n{sidecar.process.output()}")
        return all([await sidecar.all_serve() for sidecar in sidecars])

    try:
        await eventually_async(condition, 20)
    except BaseException:
        print(*(sidecar.process.output() for sidecar in sidecars))
        raise


def signal_group(process: Process, number: signal.Signals) -> None:
    """As a terminal does for Ctrl-C."""
    os.killpg(process.pid, number)
