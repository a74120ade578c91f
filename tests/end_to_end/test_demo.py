"""`make run`, as the Makefile starts it: an answer through Envoy, and nothing left after Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.processes import Process, free_port
from tests.conftest import eventually
from tests.end_to_end.wire import http1, http1_headers

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("port", "admin-port", "redis", "openai", "backup")


def below(pid: int) -> set[int]:
    """Every process that descends from this one, through any session."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*/task/*/children"):
        if folder.parts[2] == str(pid):
            for child in map(int, folder.read_text().split()):
                found |= {child} | below(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in NAMES}


@pytest.fixture
def demo(tmp_path: Path, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    flags = [part for name, port in ports.items() for part in (f"--{name}", str(port))]
    monkeypatch.chdir(tmp_path)
    process = Process([sys.executable, "-m", "demo", *flags], tmp_path / "demo.log", {"PYTHONPATH": str(ROOT)})
    yield process
    process.stop()


def test_the_demo_answers_fails_over_and_leaves_nothing(demo: Process, ports: dict[str, int]) -> None:
    demo.wait_until(lambda: "Ctrl-C stops everything." in demo.output(), 30)
    output = demo.output()
    assert "got authorization: Bearer sk-demo-key-of-the-tenant-at-openai" in output
    assert "did not leave Envoy" in output
    key = re.findall(r"authorization: Bearer (xa_\w+)", output)[0]
    body = b'{"model":"gpt-4o-mini","messages":[]}'
    headers = http1_headers("any.test", body, [("content-type", "application/json"), ("x-api-key", key)])
    http1(ports["openai"], "PUT", "/__fail/503", http1_headers("x", b""))
    rescued = b'"credentials": {"x-api-key": "sk-demo-key-of-the-tenant-at-backup"}'
    # The fallback's credential is fetched in the background of the first request, and joins the chain a quarter of a second later.
    eventually(lambda: rescued in http1(ports["port"], "POST", "/v1/chat/completions", headers, body).body)
    others = below(demo.pid)
    assert len(others) >= 5
    # An impatient user; and make, which hands on what its group got as well. No later signal may interrupt the stopping.
    until = time.monotonic() + 0.5
    while time.monotonic() < until and demo.exit_code is None:
        os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(15) == 0
    assert demo.output().endswith("stopped\n")
    eventually(lambda: not [pid for pid in others if is_alive(pid)])


@pytest.mark.parametrize("name", NAMES)
def test_a_busy_port_is_an_error_that_names_it(name: str, ports: dict[str, int], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", ports[name])):
        flags = [part for each, port in ports.items() for part in (f"--{each}", str(port))]
        done = subprocess.run(
            [sys.executable, "-m", "demo", *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: port {ports[name]} of 127.0.0.1 is in use")
    assert done.stderr.endswith(f" -m demo --{name} PORT\n")
