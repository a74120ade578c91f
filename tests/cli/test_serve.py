"""`extauthz serve` at its start: what keeps it from starting is one clear line, exit code 1 (2 for a flag), no worker left."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.redis_server import RedisServer
from tests.conftest import eventually
from tests.harness.sidecar import GATEWAY, environment_of, short_folder

WORKERS = ("--workers", "2")


class Ended(NamedTuple):
    code: int
    stdout: str
    #: Standard error without the log's lines.
    told: list[str]
    stderr: str


def serve(folder: Path, environment: dict[str, str], *options: str) -> Ended:
    """Run it to its end, which must come by itself, and see that nothing of it is left."""
    file = folder / "gateway.yaml"
    file.write_text(GATEWAY)
    done = subprocess.run(
        (sys.executable, "-m", "extauthz", "serve", "--config", str(file), *options),
        env={
            **{name: text for name, text in os.environ.items() if not name.startswith("EXTAUTHZ_")},
            **environment,
            "MARK": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    eventually(lambda: not processes_of(folder))
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return Ended(done.returncode, done.stdout, told, done.stderr)


def processes_of(folder: Path) -> list[int]:
    """Every process of this machine that was started with this folder in its environment."""
    mark, found = f"MARK={folder}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as short:
        yield short


def busy_port(flag: str) -> tuple[socket.socket, tuple[str, ...], str]:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    return taken, (flag, f"127.0.0.1:{port}"), f"port {port} of 127.0.0.1 is in use"


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
def test_a_busy_port_is_named(transport: str, folder: Path, redis_url: str) -> None:
    taken, flags, what = busy_port("--listen")
    with taken:
        # One worker: the next port, which a second one would have, may be another test's.
        ended = serve(folder, environment_of(redis_url, folder), *flags, "--workers", "1", "--transport", transport)
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.told == [f"error: --listen: {what} (allowed: an address nothing listens on)"]


@pytest.mark.parametrize("flag", ["--health", "--metrics"])
def test_a_busy_port_of_the_parent_is_named_and_ends_the_workers(flag: str, folder: Path, redis_url: str) -> None:
    taken, flags, _ = busy_port(flag)
    with taken:
        ended = serve(folder, environment_of(redis_url, folder), *flags, "--listen", f"unix:{folder}/x.sock", *WORKERS)
    assert (ended.code, ended.stdout, len(ended.told)) == (1, "", 1)
    assert ended.told[0].startswith(f"error: {flag}: ")
    assert flags[1].rpartition(":")[2] in ended.told[0]


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
def test_a_busy_socket_is_named_and_its_owner_keeps_it(transport: str, folder: Path, redis_url: str) -> None:
    path = folder / "x.sock.1"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen()
        ended = serve(
            folder, environment_of(redis_url, folder), "--listen", f"unix:{folder}/x.sock", *WORKERS, "--transport", transport
        )
        assert (ended.code, ended.stdout) == (1, "")
        assert ended.told == [f"error: --listen: unix:{path} is in use by another process (allowed: an address nothing listens on)"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        pytest.param(
            "unix:{}/no-such/x.sock", "error: --listen: unix:{}/no-such/x.sock: No such file or directory", id="no folder"
        ),
        pytest.param("unix:/proc/x.sock", "error: --listen: unix:/proc/x.sock: ", id="a folder that takes no socket"),
        pytest.param("unix:{}/gateway.yaml", "error: --listen: unix:{}/gateway.yaml exists and is no socket", id="another file"),
        pytest.param("192.0.2.1:8080", "error: --listen: 192.0.2.1:8080: ", id="another machine's address"),
    ],
)
def test_an_address_that_cannot_be_served_is_named(listen: str, told: str, folder: Path, redis_url: str) -> None:
    ended = serve(folder, environment_of(redis_url, folder), "--listen", listen.format(folder))
    assert (ended.code, ended.stdout, len(ended.told)) == (1, "", 1)
    assert ended.told[0].startswith(told.format(folder))
    assert (folder / "gateway.yaml").read_text() == GATEWAY


_TCP = "HOST:PORT or [IPV6]:PORT, ports 1 to 65535"


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--listen", "foo", f"'foo' is no address (allowed: unix:PATH, {_TCP})"),
        ("--workers", "0", "is 0 (allowed: 1 to 64)"),
        ("--metrics", "nope", f"'nope' is no address (allowed: {_TCP})"),
        ("--metrics", "unix:x.sock", f"'unix:x.sock' is no address (allowed: {_TCP})"),
        ("--health", "unix:x.sock", f"'unix:x.sock' is no address (allowed: {_TCP})"),
    ],
)
def test_a_flag_that_can_never_be_served_is_asked_in_the_wrong_way(flag: str, value: str, told: str, folder: Path) -> None:
    """Also where the environment is not set up yet."""
    ended = serve(folder, {}, flag, value)
    assert (ended.code, ended.stdout, ended.told) == (2, "", [f"error: {flag}: {told}"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"EXTAUTHZ_REDIS_URL": ""}, ["EXTAUTHZ_REDIS_URL: is not set"], id="no Redis"),
        pytest.param({"EXTAUTHZ_REDIS_URL": "http://x"}, ["EXTAUTHZ_REDIS_URL: "], id="no URL of a Redis"),
        pytest.param({"EXTAUTHZ_MASTER_KEY_FILE": ""}, ["EXTAUTHZ_MASTER_KEY_FILE: is not set"], id="no master key"),
        pytest.param({"EXTAUTHZ_MASTER_KEY_FILE": "/nowhere"}, ["EXTAUTHZ_MASTER_KEY_FILE: '/nowhere' is no file"], id="no file"),
        pytest.param(
            {"EXTAUTHZ_MASTER_KEY_FILE": "", "EXTAUTHZ_REDIS_URL": "", "EXTAUTHZ_LOG_LEVEL": "loud"},
            ["EXTAUTHZ_REDIS_URL: is not set", "EXTAUTHZ_MASTER_KEY_FILE: is not set", "EXTAUTHZ_LOG_LEVEL: is 'loud'"],
            id="everything at once",
        ),
    ],
)
def test_the_environment_is_told_by_the_variables_names(changes: dict[str, str], told: list[str], folder: Path) -> None:
    environment = {**environment_of("redis://127.0.0.1:1", folder), **changes}
    ended = serve(folder, environment, "--listen", f"unix:{folder}/x.sock", *WORKERS)
    assert (ended.code, ended.stdout, len(ended.told)) == (1, "", len(told)), ended.stderr
    for line, begin in zip(ended.told, told, strict=True):
        assert line.startswith(f"error: {begin}")
    assert not list(folder.glob("x.sock*"))


def test_a_master_key_that_is_too_short_is_told_without_a_byte_of_it(folder: Path, redis_url: str) -> None:
    environment = environment_of(redis_url, folder)
    (folder / "master.key").write_text("0123456789abcdef" * 2)
    ended = serve(folder, environment, "--listen", f"unix:{folder}/x.sock", *WORKERS)
    assert (ended.code, ended.stdout, len(ended.told)) == (1, "", 1)
    assert ended.told[0].startswith(f"error: {folder}/master.key: the master key file holds 32 hex digits")
    assert "0123456789abcdef" not in ended.stderr


def test_a_redis_that_evicts_is_refused_once_for_all_workers(folder: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, options=("maxmemory-policy allkeys-lru",))
    try:
        ended = serve(folder, environment_of(server.url, folder), "--listen", f"unix:{folder}/x.sock", *WORKERS)
    finally:
        server.stop()
    assert (ended.code, ended.stdout, len(ended.told)) == (1, "", 1), ended.stderr
    assert ended.told[0].startswith("error: EXTAUTHZ_REDIS_URL: the server's maxmemory-policy is allkeys-lru")
    assert "Traceback" not in ended.stderr
    assert not list(folder.glob("x.sock*"))


def test_a_redis_user_who_may_not_ask_is_told_what_to_allow(folder: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, options=("user limited on >canary-password ~* &* +@all -info",))
    try:
        url = server.url.replace("//", "//limited:canary-password@")
        ended = serve(folder, environment_of(url, folder), "--listen", f"unix:{folder}/x.sock", *WORKERS)
    finally:
        server.stop()
    assert (ended.code, ended.stdout) == (1, ""), ended.stderr
    assert ended.told == ["error: EXTAUTHZ_REDIS_URL: the server refused INFO (NOPERM) (allowed: a user who may)"]
    assert "canary-password" not in ended.stderr


def imported(module: str) -> set[str]:
    """What importing it loads, in a process of its own."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True, timeout=30).stdout.split())


SLOW = {"typer", "pydantic", "rich", "grpc", "redis", "prometheus_client", "opentelemetry", "watchfiles"}


def test_a_worker_imports_nothing_that_it_does_not_serve_with() -> None:
    """A worker serves within a second of its start; each of these takes 20 to 200 ms of it."""
    assert imported("extauthz.cli.worker") & SLOW == set()


def test_the_parent_imports_little_before_it_starts_the_workers() -> None:
    slow = (SLOW - {"typer"}) | {"cryptography", "google.protobuf", "yaml", "hiredis"}
    assert imported("extauthz.cli.serve") & slow == set()


def test_every_slow_module_of_these_lists_exists() -> None:
    """A list with a misspelt name would hold nobody to anything."""
    everything = imported("extauthz.cli.pod_health, extauthz.telemetry.exposition, extauthz.cli.sidecar, extauthz.gateway.watch")
    everything |= imported("pydantic, rich, redis, typer, opentelemetry")
    assert SLOW | {"cryptography", "google.protobuf", "yaml", "hiredis"} <= everything
