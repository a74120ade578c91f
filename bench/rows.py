"""What is measured. A row is one kind of load on one or more servers; its rounds are taken in turn with all other rows'."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import uvloop

from bench import http1
from bench.h2_client import Result
from bench.record import HOST, PATH, Tenant
from bench.servers import Bench, cpu_s, resident_bytes

SERVERS = ("fast", "grpcio", "floor")
#: What Redis itself spends on the calls to the fast transport; it is not a server of Checks.
REDIS = "redis"
#: Who is measured beside another server of the same calls: the wrong answers are told once.
BESIDE = frozenset({REDIS, "sidecar"})
#: Calls of a measurement with this many in flight, so that each takes about half a second.
_CALLS = {1: {"fast": 4_000, "grpcio": 1_000}, 4: {"fast": 8_000, "grpcio": 1_500}, 64: {"fast": 16_000, "grpcio": 2_000}}
_QUICK = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: CPU of one process per request, and the requests of a second."""

    row: str
    server: str
    cpu_us: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of load.

    Attributes:
        tenants: who asks: `one`, `local` (a plan without the global limit), `many` in turn, or `many` to a fresh worker.
    """

    name: str
    title: str
    in_flight: int = 64
    servers: tuple[str, ...] = SERVERS
    tenants: str = "one"
    has_traceparent: bool = False


ROWS = (
    Row("one", "1 in flight", in_flight=1),
    Row("four", "4 in flight", in_flight=4),
    Row("many-in-flight", "64 in flight", servers=(*SERVERS, REDIS)),
    Row("traceparent", "64, a fresh traceparent each", has_traceparent=True),
    Row("no-global", "64, three limits, none global", servers=SERVERS[:2], tenants="local"),
    Row("tenants-cold", "64, N tenants, each unknown", servers=("fast",), tenants="cold"),
    Row("tenants-warm", "64, N tenants, all in memory", servers=SERVERS[:2], tenants="many"),
    Row("envoy", "64, through Envoy", servers=("sidecar", "envoy")),
)


@dataclass
class Measured:
    """All figures of a run, what was wrong, what a tenant takes of memory, and the garbage collections by generation."""

    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    tenant_bytes: list[float] = field(default_factory=list)
    pauses_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: Row, server: str, result: Result, cpu: float, total: int) -> None:
        """One measurement, or its wrong answers: what was cut short says nothing about the cost of a right one."""
        if not result.failures:
            self.figures.append(Figure(row.name, server, cpu / total * 1e6, result.count / result.elapsed_s))
        for what, count in result.failures.items() if server not in BESIDE else ():
            where = f"{row.name}, {server}: {what}"
            self.failures[where] = self.failures.get(where, 0) + count


def measure(bench: Bench, rows: tuple[Row, ...], rounds: int, say: Callable[[str], None], *, is_quick: bool) -> Measured:
    """Every row once a round on each of its servers: what disturbs the machine disturbs all. Rows that are compared are neighbours,
    and every second round goes backwards.
    """
    measured = Measured()
    through_envoy = bench.envoy() if any(row.name == "envoy" for row in rows) else None
    _warm_up(bench, rows)
    steps = [(row, server) for server in SERVERS for row in rows if server in row.servers and row.tenants != "cold"]
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for row, server in steps if number % 2 else reversed(steps):
            total = _CALLS[row.in_flight]["grpcio" if server == "grpcio" else "fast"] // (_QUICK if is_quick else 1)
            target = bench.targets[server]
            redis_pid = bench.system.redis.process.pid
            before = cpu_s(target.pid), cpu_s(redis_pid)
            result = target.send(_tenants(bench, row), total, row.in_flight, has_traceparent=row.has_traceparent)
            measured.add(row, server, result, cpu_s(target.pid) - before[0], total)
            if server == "fast" and REDIS in row.servers:
                measured.add(row, REDIS, result, cpu_s(redis_pid) - before[1], total)
        for row in rows:
            if row.name == "envoy" and through_envoy:
                envoy, sidecar, port = through_envoy
                _through_envoy(bench, row, measured, (envoy.process.pid, sidecar.pid, port), 2_000 if is_quick else 6_000)
            elif row.tenants == "cold":
                _cold(bench, row, measured)
    if any(row.tenants == "many" for row in rows):
        say("garbage collections")
        _collections(bench, measured, 2.0 if is_quick else 12.0)
    return measured


def _tenants(bench: Bench, row: Row) -> list[Tenant]:
    return {"one": bench.one, "local": bench.local, "many": bench.many}[row.tenants]


def _warm_up(bench: Bench, rows: tuple[Row, ...]) -> None:
    for server in SERVERS:
        for row in rows:
            if server in row.servers and row.tenants != "cold":
                bench.targets[server].warm_up(_tenants(bench, row))


def _cold(bench: Bench, row: Row, measured: Measured) -> None:
    """A worker that has just been started, and as many keys as there are tenants, each for the first time."""
    target = bench.serve("fast", "cold")
    try:
        target.warm_up(bench.one)
        before, resident = cpu_s(target.pid), resident_bytes(target.pid)
        result = target.send(bench.many, len(bench.many), row.in_flight)
        measured.add(row, target.name, result, cpu_s(target.pid) - before, len(bench.many))
        measured.tenant_bytes.append((resident_bytes(target.pid) - resident) / len(bench.many))
    finally:
        target.process.stop()


def _collections(bench: Bench, measured: Measured, seconds: float) -> None:
    """A worker that reads all tenants and then decides for them again and again."""
    target, notes = bench.watched()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = target.send(bench.many, len(bench.many), 64)
        measured.failures |= result.failures
    target.process.stop()
    measured.pauses_ms = json.loads(notes.read_text())


def _through_envoy(bench: Bench, row: Row, measured: Measured, where: tuple[int, int, int], total: int) -> None:
    envoy_pid, sidecar_pid, port = where

    def send(count: int) -> Result:
        return uvloop.run(http1.load(port, PATH, HOST, bench.one[0].key, total=count, connections=row.in_flight))

    send(200)
    before = cpu_s(envoy_pid), cpu_s(sidecar_pid)
    result = send(total)
    measured.add(row, "envoy", result, cpu_s(envoy_pid) - before[0], total)
    measured.add(row, "sidecar", result, cpu_s(sidecar_pid) - before[1], total)
