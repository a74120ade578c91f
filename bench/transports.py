"""CPU of the two transports alone: one server process each, a handler that does nothing, the load from another process.

`python -m bench.transports` prints microseconds of server CPU (user and system) per call. With `--serve` it is the server.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.h2_client import Result, load
from demo.processes import Process
from extauthz.transport.fast import FastServer
from extauthz.transport.grpcio_server import GrpcioServer
from extauthz.transport.seam import Services

PATH = "/envoy.service.auth.v3.Authorization/Check"
WAITING = "/envoy.service.auth.v3.Authorization/Wait"
_MESSAGE = b"x" * 700
_ANSWER = b"y" * 300
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def _at_once(_message: bytes, _deadline: float) -> bytes:
    return _ANSWER


async def _after_a_future(_message: bytes, _deadline: float) -> bytes:
    """As a Check waits for Redis: a future that another callback of the loop sets."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future
    return _ANSWER


async def _serve(transport: str, listen: str) -> None:
    services = Services(unary={PATH: _at_once, WAITING: _after_a_future})
    server = {"fast": FastServer, "grpcio": GrpcioServer}[transport](services, on_bug=lambda _path, error: print(repr(error)))
    await server.start(listen)
    await asyncio.Event().wait()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _measure(pid: int, listen: str, path: str, total: int, in_flight: int, *, has_traceparent: bool) -> tuple[float, Result]:
    async def run(count: int) -> Result:
        return await load(
            listen,
            path,
            _MESSAGE,
            total=count,
            connections=min(2, in_flight),
            in_flight=max(1, in_flight // 2),
            has_traceparent=has_traceparent,
        )

    uvloop.run(run(min(2_000, total)))
    before = _cpu_s(pid)
    result = uvloop.run(run(total))
    return (_cpu_s(pid) - before) / total * 1e6, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["fast", "grpcio"])
    parser.add_argument("--listen", default="")
    parser.add_argument("--total", type=int, default=200_000)
    parser.add_argument("--only", choices=["fast", "grpcio"])
    given = parser.parse_args()
    if given.serve:
        uvloop.run(_serve(given.serve, given.listen))
        return
    with tempfile.TemporaryDirectory() as folder:
        for transport in [given.only] if given.only else ["fast", "grpcio"]:
            listen = f"unix:{folder}/{transport}.sock"
            command = [sys.executable, "-m", "bench.transports", "--serve", transport, "--listen", listen]
            server = Process(command, Path(folder) / "log")
            try:
                server.wait_until(Path(listen.removeprefix("unix:")).exists)
                for name, path, in_flight, has_traceparent in (
                    ("at once, 64 in flight", PATH, 64, False),
                    ("at once, 64 in flight, fresh traceparent", PATH, 64, True),
                    ("after a future, 64 in flight", WAITING, 64, False),
                    ("after a future, 1 in flight", WAITING, 1, False),
                ):
                    total = given.total // (1 if transport == "fast" and in_flight > 1 else 8)
                    cpu_us, result = _measure(server.pid, listen, path, total, in_flight, has_traceparent=has_traceparent)
                    rate = result.count / result.elapsed_s
                    print(f"{transport:7} {name:42} {cpu_us:7.2f} us/call {rate:9.0f} calls/s {result.failures or ''}")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
