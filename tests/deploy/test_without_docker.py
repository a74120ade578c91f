"""The composition and the pod run for real: their own commands and files, as processes on loopback instead of containers."""

import http.client
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from demo.envoy_server import EnvoyServer
from demo.processes import Process, accepts, free_port
from demo.redis_server import RedisServer
from tests.conftest import eventually

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"


class Here:
    """Where containers would have their own paths and ports: a folder and free ports, put into commands and files."""

    def __init__(self, folder: Path, sockets: Path, redis_url: str) -> None:
        self.folder, self.sockets = folder, sockets
        self.ports = {str(port): str(free_port()) for port in (10000, 9001, 9002, 9101, 9102)}
        self.gateway = folder / "gateway.yaml"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "EXTAUTHZ_REDIS_URL": redis_url,
            "EXTAUTHZ_MASTER_KEY_FILE": str(folder / "master.key"),
            "CONFIG": str(self.gateway),
            "KEY_FILE": str(folder / "demo.json"),
        }
        text = self.put((ROOT / "docker" / "gateway.yaml").read_text())
        port = f"  port: {self.ports['10000']}\n"
        assert text.count(port) == 1
        self.gateway.write_text(text.replace(port, f"{port}  admin_port: {free_port()}\n"))

    def put(self, text: str) -> str:
        """A text of the composition with this place's paths and ports."""
        for old, new in (
            ("/etc/extauthz/gateway.yaml", str(self.gateway)),
            ("/run/extauthz", str(self.sockets)),
            ("/var/lib/extauthz", str(self.folder)),
            ("0.0.0.0", "127.0.0.1"),
        ):
            text = text.replace(old, new)
        return re.sub(r"\b(10000|900[12]|910[12])\b", lambda port: self.ports[port[1]], text)

    def run(self, *command: str) -> str:
        """A command that ends, to its output."""
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def health(self, name: str) -> bytes:
        """The answer of grpc.health.v1; empty when nobody answers."""
        with grpc.insecure_channel(f"127.0.0.1:{self.ports['9101']}") as channel:
            request = b"\x0a" + bytes([len(name)]) + name.encode() if name else b""
            try:
                answer: bytes = channel.unary_unary(CHECK, bytes, bytes)(request, timeout=2)
            except grpc.RpcError:
                return b""
            return answer


@pytest.fixture
def here(tmp_path: Path, socket_folder: Path, redis_url: str) -> Here:
    return Here(tmp_path, socket_folder, redis_url)


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """What a test starts ends with it, the last first."""
    with ExitStack() as stack:
        yield stack


def said(port: str, method: str, path: str, body: str = "", headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and body of an answer on loopback."""
    link = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
    try:
        link.request(method, path, body, headers or {})
        answer = link.getresponse()
        return answer.status, answer.read().decode()
    finally:
        link.close()


def sidecar(here: Here, arguments: list[str], log: str) -> Process:
    return Process([str(BIN / "extauthz"), *map(here.put, arguments)], here.folder / log, here.environment)


def test_the_composition_answers_with_the_tenants_own_credential(here: Here, running: ExitStack) -> None:
    setup = COMPOSE["setup"]["command"][0].replace("$$", "$")
    here.run("sh", "-euc", here.put(setup).replace("/etc/extauthz/setup.sh", str(ROOT / "docker" / "setup.sh")))

    process = sidecar(here, COMPOSE["sidecar"]["command"], "sidecar.log")
    running.callback(process.stop)
    _, program, *arguments = map(here.put, COMPOSE["sidecar"]["healthcheck"]["test"])
    probe = [str(BIN / program), *arguments]
    process.wait_until(lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0)

    for name in ("alpha", "beta"):
        command = [here.put(part) for part in (*COMPOSE[name]["entrypoint"], *COMPOSE[name]["command"])]
        provider = Process([str(BIN / command[0]), *command[1:]], here.folder / f"{name}.log", {"PYTHONPATH": str(ROOT)})
        running.callback(provider.stop)
        port = int(command[-1])
        provider.wait_until(lambda port=port: accepts(port))  # type: ignore[misc]  # the port of this round

    envoy = EnvoyServer(here.folder / "envoy", (here.folder / "envoy.yaml").read_text())
    running.callback(envoy.stop)
    key = json.loads((here.folder / "demo.json").read_text())["key"]
    body = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]})

    def ask(credential: str) -> tuple[int, str]:
        headers = {"content-type": "application/json", "authorization": credential}
        return said(here.ports["10000"], "POST", "/v1/chat/completions", body, headers)

    # What docker/load.js asks of every answer.
    status, answer = ask(f"Bearer {key}")
    assert (status, "demo-credential-of-alpha" in answer, key in answer) == (200, True, False)
    assert ask("Bearer wrong")[0] == 401
    # The second provider in the first one's stead, with its own credential: once each worker has that in memory.
    said(here.ports["9001"], "PUT", "/__fail/503")
    answers: list[tuple[int, str]] = []

    def is_rescued() -> bool:
        answers.append(ask(f"Bearer {key}"))
        return answers[-1][0] == 200

    eventually(is_rescued)
    assert "demo-credential-of-beta" in answers[-1][1]
    assert [text for _, text in answers if "demo-credential-of-alpha" in text] == []
    assert {status for status, _ in answers} <= {200, 503}


def test_liveness_is_served_and_readiness_is_not_while_redis_was_never_there(
    tmp_path: Path, socket_folder: Path, running: ExitStack
) -> None:
    """With the pod's own arguments. A restart would not bring Redis back, so nobody is told to restart."""
    manifest = yaml.safe_load((ROOT / "k8s" / "deployment.yaml").read_text())
    (pod,) = [each for each in manifest["spec"]["template"]["spec"]["initContainers"] if each["name"] == "extauthz"]
    port = free_port()
    here = Here(tmp_path, socket_folder, f"redis://127.0.0.1:{port}")
    (tmp_path / "master.key").write_text(secrets.token_hex(32))
    (tmp_path / "master.key").chmod(0o440)
    process = sidecar(here, pod["args"], "sidecar.log")
    running.callback(process.stop)
    asked = {name: pod[f"{name}Probe"]["grpc"]["service"] for name in ("startup", "readiness", "liveness")}
    process.wait_until(lambda: here.health(asked["liveness"]) == SERVING)
    assert [here.health(asked[name]) == SERVING for name in ("startup", "readiness")] == [False, False]

    redis = RedisServer(tmp_path / "redis", port=port)
    running.callback(redis.stop)
    process.wait_until(lambda: all(here.health(name) == SERVING for name in (*asked.values(), "redis")))
    redis.stop()
    process.wait_until(lambda: here.health("redis") != SERVING)
    assert [here.health(name) == SERVING for name in asked.values()] == [True, True, True]
