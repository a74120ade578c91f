"""The servers that are measured, each on the server's core, and what they cost: CPU of the process that serves, user and system.

The load, Redis and the provider have the other core. With one core all share it, and only the ratios mean something.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
import yaml

from bench.floor import METHOD
from bench.h2_client import Result, load
from bench.record import PROVIDER, Tenant, write_tenants
from demo.envoy_server import EnvoyServer
from demo.processes import Process, free_port
from demo.system import COMMAND, System

if sys.platform != "linux":
    raise SystemExit("make bench needs Linux: it places processes on cores and reads their CPU clocks")

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
#: Messages before a measurement, so that what is made once (connection, passage, rate headers) is made.
_WARM_UP = 300


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in this block runs on this core, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads, to the nanosecond: its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child_of(parent: Process) -> int:
    """The only child of a process: the one worker of `extauthz serve`."""
    children: list[str] = []

    def has_one() -> bool:
        children[:] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        return len(children) == 1

    parent.wait_until(has_one)
    return int(children[0])


class Target:
    """Something that answers Checks at an address; `pid` is the process whose CPU counts."""

    def __init__(self, name: str, address: str, process: Process, pid: int) -> None:
        self.name = name
        self.address = address
        self.process = process
        self.pid = pid

    def send(self, tenants: list[Tenant], total: int, in_flight: int, *, has_traceparent: bool = False) -> Result:
        """Checks of these tenants in turn, `in_flight` at a time: on two connections, on one when it is one."""
        connections = min(2, in_flight)
        return uvloop.run(
            load(
                self.address,
                METHOD,
                [tenant.message() for tenant in tenants],
                total=total,
                connections=connections,
                in_flight=in_flight // connections,
                has_traceparent=has_traceparent,
                expected=[tenant.expected() for tenant in tenants] if self.name != "floor" else [(b"\x0a\x00\x1a",)],
            )
        )

    def warm_up(self, tenants: list[Tenant], in_flight: int = 16) -> None:
        """So many that what is made once is made."""
        self.send(tenants, max(_WARM_UP, len(tenants)), in_flight)


class Bench:
    """Redis, tenants and servers on loopback.

    Args:
        folder: for configurations and logs.
        many: tenants beside the one that most rows ask for.
    """

    def __init__(self, folder: Path, many: int) -> None:
        self._ports = {name: free_port() for name in ("envoy", "admin", "provider")}
        with on_core(LOAD_CORE):
            self.system = System(folder, _gateway(self._ports))
        self._sockets = Path(self.system.listen.removeprefix("unix:")).parent
        self.one = self.write(["acme"], "bench")
        self.local = self.write(["acme-local"], "local")
        self.many = self.write([f"tenant-{number}" for number in range(many)], "bench")
        self.targets = {name: self.serve(name) for name in ("fast", "grpcio")}
        self.targets["floor"] = self._floor()

    def write(self, names: list[str], plan: str) -> list[Tenant]:
        """Create tenants on a plan."""
        environment = self.system.environment
        url, master_key = environment["EXTAUTHZ_REDIS_URL"], Path(environment["EXTAUTHZ_MASTER_KEY_FILE"])
        return uvloop.run(write_tenants(url, master_key, names, plan))

    def serve(self, transport: str, name: str = "") -> Target:
        """A sidecar with one worker, as an operator starts it."""
        listen = f"unix:{self._sockets}/{name or transport}"
        arguments = ("serve", "--config", str(self.system.gateway_file), "--listen", listen, "--transport", transport)
        with on_core(SERVER_CORE):
            process = self.system.start((*COMMAND, *arguments), name or transport, self.system.environment)
        target = Target(transport, listen, process, child_of(process))
        process.wait_until(lambda: _answers(target, self.one[0]))
        return target

    def watched(self) -> tuple[Target, Path]:
        """A worker that writes down its garbage collections when it is stopped, and where."""
        notes, listen = self.system.folder / "collections.json", f"unix:{self._sockets}/watched"
        command = (COMMAND[0], "-m", "bench.watched_worker", str(self.system.gateway_file), listen, str(notes))
        with on_core(SERVER_CORE):
            process = self.system.start(command, "watched", self.system.environment)
        target = Target("fast", listen, process, process.pid)
        process.wait_until(lambda: _answers(target, self.one[0]))
        return target, notes

    def _floor(self) -> Target:
        answer = self.system.folder / "answer"
        answer.write_bytes(b"\x0a\x00\x1a" + b"\x00" * 600)
        listen = f"unix:{self._sockets}/floor"
        with on_core(SERVER_CORE):
            python = COMMAND[0]
            process = self.system.start((python, "-m", "bench.floor", listen, self.system.redis.url, str(answer)), "floor")
        target = Target("floor", listen, process, process.pid)
        process.wait_until(lambda: _answers(target, self.one[0]))
        return target

    def envoy(self) -> tuple[EnvoyServer, Target, int]:
        """An Envoy with a sidecar of its own behind it, both on the server's core; its port."""
        with on_core(LOAD_CORE):
            command = (COMMAND[0], "-m", "bench.http1", str(self._ports["provider"]), self.one[0].credential)
            self.system.start(command, "provider")
        target = self.serve("fast", "sidecar.sock")
        with on_core(SERVER_CORE):
            envoy = self.system.envoy()
        return envoy, target, self._ports["envoy"]

    def stop(self) -> None:
        """Stop everything."""
        self.system.stop()


def _answers(target: Target, tenant: Tenant) -> bool:
    try:
        return target.send([tenant], 1, 1).count == 1
    except OSError:
        return False


def _gateway(ports: dict[str, int]) -> str:
    """The example that ships, on this bench's ports, and its plan `bench` once more without the global limit."""
    values = yaml.safe_load((Path(__file__).parent.parent / "envoy" / "gateway.yaml").read_text())
    values["listener"] |= {"port": ports["envoy"], "admin_port": ports["admin"]}
    values["providers"][PROVIDER]["address"] = f"http://127.0.0.1:{ports['provider']}"
    limits = values["plans"]["bench"]["limits"]
    values["plans"]["local"] = {"limits": {name: limit for name, limit in limits.items() if name != "global"}}
    return str(yaml.safe_dump(values))
