"""A worker that is told to end: what it has it finishes, and the other takes the rest at once."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.processes import Process
from demo.system import all_healthy
from tests.conftest import eventually
from tests.end_to_end.through import BODY, CHAT, Through, through
from tests.end_to_end.wire import http1, http1_headers

CLIENTS = 8
#: On a busy machine the first calls of the worker that starts are now and then broken off. Without quick retries it is dozens.
STARTING = 4
#: A request that waits for the worker that is gone takes up to a second; one that goes to the other at once, a few milliseconds.
WAITED_S = 0.7


def workers_of(sidecar: Process) -> set[int]:
    return set(map(int, Path(f"/proc/{sidecar.pid}/task/{sidecar.pid}/children").read_text().split()))


def sockets_of(system: Through) -> int:
    """How many workers listen: one makes its socket when it can decide, and removes it when it is told to end."""
    return len(list(Path(system.system.listen.removeprefix("unix:")).parent.glob("*.sock.*")))


def asks(system: Through, end: threading.Event) -> list[tuple[int, float]]:
    """One request after another: each status, and how long it took."""
    headers = http1_headers("h", BODY, [("content-type", "application/json"), ("x-api-key", system.key)])
    found = []
    while not end.is_set():
        began = time.monotonic()
        status = http1(system.port, "POST", CHAT, headers, BODY).status
        found.append((status, time.monotonic() - began))
    return found


def test_a_worker_that_is_told_to_end_under_load_costs_no_second(tmp_path: Path) -> None:
    with through(tmp_path, workers=2) as system, ThreadPoolExecutor(CLIENTS) as pool:
        end = threading.Event()
        clients = [pool.submit(asks, system, end) for _ in range(CLIENTS)]
        try:
            pid = min(workers_of(system.sidecar))
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: pid not in workers_of(system.sidecar))
            eventually(lambda: sockets_of(system) == 2 and all_healthy(system.envoy, 2), 15)
        finally:
            end.set()
        asked = [one for client in clients for one in client.result()]
    print(f"{len(asked)} requests while a worker was replaced, the slowest {max(took for _, took in asked) * 1000:.0f} ms")
    others = [status for status, _ in asked if status != 200]
    assert set(others) <= {503}
    assert len(others) <= STARTING
    assert max(took for _, took in asked) < WAITED_S
