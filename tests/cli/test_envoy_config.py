"""`extauthz envoy-config`: the flags of `serve`, and every mistake of the gateway file."""

from pathlib import Path

import pytest
import yaml

from extauthz.cli.main import run
from extauthz.settings import LISTEN_DEFAULT_SHOWN


def sockets(document: str) -> list[object]:
    sidecar = yaml.safe_load(document)["static_resources"]["clusters"][0]
    return [end["endpoint"]["address"] for end in sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"]]


def test_every_worker_of_every_listen_is_an_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--listen", "unix:/run/x.sock", "--listen", "127.0.0.1:9000", "--workers", "2"]
    assert run(["envoy-config", "--config", "envoy/gateway.yaml", *flags]) == 0
    assert sockets(capsys.readouterr().out) == [
        {"pipe": {"path": "/run/x.sock.0"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 9000}},
        {"pipe": {"path": "/run/x.sock.1"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 9001}},
    ]


def test_without_a_number_of_workers_there_is_one_at_the_address_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-config", "--config", "envoy/gateway.yaml", "--listen", "unix:/run/x.sock"]) == 0
    assert sockets(capsys.readouterr().out) == [{"pipe": {"path": "/run/x.sock"}}]


def test_a_bad_gateway_file_writes_nothing_and_names_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(Path("envoy/gateway.yaml").read_text().replace("providers: [openai]", "providers: [nobody]", 1))
    assert run(["envoy-config", "--config", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nobody" in captured.err
    assert f"{file}:" in captured.err


def test_a_bad_address_is_said_before_anything_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-config", "--config", "envoy/gateway.yaml", "--listen", "nonsense"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, "nonsense" in captured.err) == ("", True)


@pytest.mark.parametrize("command", ["serve", "envoy-config"])
def test_help_says_where_it_listens_when_nobody_says(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"[default: ({LISTEN_DEFAULT_SHOWN})]" in " ".join(capsys.readouterr().out.split())


def test_without_an_address_it_is_the_socket_in_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-config", "--config", "envoy/gateway.yaml"]) == 0
    assert sockets(capsys.readouterr().out) == [{"pipe": {"path": str(Path("extauthz.sock").absolute())}}]
