"""docker-compose.yml and the files it mounts: by schema, by our own loader and Envoy's, and its setup run for real."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.envoy_server import binary
from extauthz.cli.main import COMMANDS
from extauthz.envoy_config.check import check_text
from extauthz.envoy_config.render import render
from extauthz.gateway.load import load
from extauthz.settings import parse_listen, worker_listens

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
GATEWAY = ROOT / "docker" / "gateway.yaml"
BIN = Path(sys.executable).parent


def judged(file: Path) -> subprocess.CompletedProcess[str]:
    """By the schema that the Compose specification publishes."""
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_keeps_the_schema_of_compose_and_a_misspelt_field_is_seen(tmp_path: Path) -> None:
    assert judged(FILE).returncode == 0
    broken = deepcopy(COMPOSE)
    broken["services"]["envoy"]["comand"] = broken["services"]["envoy"].pop("command")
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(broken))
    wrong = judged(tmp_path / "docker-compose.yml")
    assert (wrong.returncode, "comand" in wrong.stdout) == (1, True)


def unsafe(compose: dict[str, Any]) -> list[str]:
    """What of our promises a composition breaks."""
    found = []
    for name, service in compose["services"].items():
        image = service["image"]
        tag = image.rpartition(":")[2]
        found += [
            f"{name} {text}"
            for holds, text in (
                (service.get("user", "root").split(":")[0] not in ("root", "0"), "runs as root"),
                (service.get("read_only") is True, "may write its root"),
                (service.get("cap_drop") == ["ALL"], "keeps capabilities"),
                ("no-new-privileges:true" in service.get("security_opt", []), "may gain privileges"),
                (not service.get("privileged"), "is privileged"),
                (
                    sum(part.isdigit() for part in tag.lstrip("v").replace("-", ".").replace("v", "").split(".")) >= 3,
                    "is not pinned",
                ),
                ("/" not in image or "." not in image.partition("/")[0], "names a registry's host"),
                (all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "is open to the network"),
                (not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), "has the engine's socket"),
            )
            if not holds
        ]
    sharing = {
        name for name, service in compose["services"].items() if any(v.startswith("keys:") for v in service.get("volumes", []))
    }
    if sharing != {"setup", "sidecar"}:
        found.append("the master key is shared with others")
    redis = " ".join(compose["services"]["redis"]["command"])
    if "--appendonly yes" not in redis or "--maxmemory-policy noeviction" not in redis:
        found.append("redis may lose what it holds")
    return found


def test_it_is_hardened() -> None:
    assert unsafe(COMPOSE) == []


@pytest.mark.parametrize(
    ("service", "field", "value", "seen"),
    [
        ("envoy", "user", "0:0", "envoy runs as root"),
        ("envoy", "read_only", False, "envoy may write its root"),
        ("envoy", "cap_drop", [], "envoy keeps capabilities"),
        ("envoy", "security_opt", [], "envoy may gain privileges"),
        ("envoy", "privileged", True, "envoy is privileged"),
        ("envoy", "image", "envoyproxy/envoy:v1.40-latest", "envoy is not pinned"),
        ("envoy", "image", "docker.example/envoy:v1.40.0", "envoy names a registry's host"),
        ("envoy", "ports", ["10000:10000"], "envoy is open to the network"),
        ("envoy", "volumes", ["/var/run/docker.sock:/docker.sock"], "envoy has the engine's socket"),
        ("load", "volumes", ["keys:/keys"], "the master key is shared with others"),
        ("redis", "command", ["redis-server", "--appendonly", "no"], "redis may lose what it holds"),
    ],
)
def test_each_broken_promise_is_seen(service: str, field: str, value: object, seen: str) -> None:
    broken = deepcopy(COMPOSE)
    broken["services"][service][field] = value
    assert unsafe(broken) == [seen]


def test_every_mounted_file_is_there_and_every_command_is_ours() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), (name, volume)
    assert COMPOSE["services"]["sidecar"]["command"][0] in COMMANDS
    flags = dict(zip(COMPOSE["services"]["sidecar"]["command"][1::2], COMPOSE["services"]["sidecar"]["command"][2::2], strict=True))
    assert set(flags) == {"--config", "--listen", "--workers", "--health", "--metrics"}


def test_the_providers_are_on_envoys_loopback_at_the_addresses_of_the_gateway_file() -> None:
    providers = {
        name: int(service["command"][service["command"].index("--port") + 1])
        for name, service in COMPOSE["services"].items()
        if service.get("network_mode") == "service:envoy"
    }
    assert {name: (each.host, each.port) for name, each in load(GATEWAY).providers.items()} == {
        name: ("127.0.0.1", port) for name, port in providers.items()
    }


def test_what_is_rendered_for_it_is_safe_and_envoy_takes_it(tmp_path: Path) -> None:
    listens = [own for mine in worker_listens([parse_listen("unix:/run/extauthz/extauthz.sock")], 2) for own in mine]
    text = render(load(GATEWAY), listens)
    assert check_text(text, "envoy.yaml") == []
    (tmp_path / "envoy.yaml").write_text(text)
    ran = subprocess.run(
        [str(binary()), "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-800:]


def test_the_setup_makes_everything_once(tmp_path: Path, redis_url: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "EXTAUTHZ_REDIS_URL": redis_url,
        "EXTAUTHZ_MASTER_KEY_FILE": str(tmp_path / "master.key"),
        "CONFIG": str(GATEWAY),
        "KEY_FILE": str(tmp_path / "demo.json"),
    }
    seen = []
    for _ in range(2):
        ran = subprocess.run(
            ["sh", str(ROOT / "docker" / "setup.sh")], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stderr
        seen.append(((tmp_path / "master.key").read_text(), json.loads((tmp_path / "demo.json").read_text())))
    assert seen[0] == seen[1]
    assert seen[0][1]["key"].startswith("xa_")
    assert (tmp_path / "master.key").stat().st_mode & 0o077 == 0
    listed = subprocess.run(
        [str(BIN / "extauthz"), "key", "list", "demo", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert [each["scopes"] for each in json.loads(listed.stdout)] == [["chat"]]
