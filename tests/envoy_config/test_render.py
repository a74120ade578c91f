"""Every rendered configuration is one that Envoy takes, and the example in `envoy/` is what the command writes today."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from demo.envoy_server import binary
from extauthz.cli.main import run
from extauthz.envoy_config.check import check_text
from extauthz.envoy_config.clusters import chains
from extauthz.envoy_config.render import bootstrap, render
from extauthz.gateway.load import load
from extauthz.gateway.model import Gateway, Provider, Route
from extauthz.settings import Listen
from tests.envoy_config import gateways

EXAMPLE = Path("envoy/gateway.yaml")
EXAMPLE_LISTEN = "unix:/run/extauthz/extauthz.sock"
UNIX = [Listen("/run/x.sock.0"), Listen("/run/x.sock.1")]


def validate(configuration: str, folder: Path) -> None:
    """Envoy takes it and has nothing to say against any field, and `envoy-check` finds nothing unsafe."""
    file = folder / "envoy.yaml"
    file.write_text(configuration)
    done = subprocess.run([binary(), "--mode", "validate", "-c", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stderr.splitlines() if "][warning]" in line] == []
    assert check_text(configuration, str(file)) == []


def test_the_example_is_what_the_command_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["envoy-config", "--config", str(EXAMPLE), "--listen", EXAMPLE_LISTEN]) == 0
    written = capsys.readouterr().out
    again = f"extauthz envoy-config --config {EXAMPLE} --listen {EXAMPLE_LISTEN} > envoy/envoy.yaml"
    assert written == Path("envoy/envoy.yaml").read_text(), again
    validate(written, tmp_path)


SHAPES: dict[str, tuple[Sequence[Provider], Sequence[Route], Sequence[Listen]]] = {
    "one": ([gateways.provider("a")], [gateways.route("r", "/v1", "a")], UNIX),
    "names that YAML takes for something else": (
        [gateways.provider(name, 80 + i, host=f"h{i}.test") for i, name in enumerate(("n", "1e5", "0x1", "null"))],
        [gateways.route("y", "/y", "n", "1e5", "0x1", "null"), gateways.route("1", "/1/{model}:no", "n")],
        UNIX,
    ),
    "tls, two of two": (
        [
            gateways.provider("a", 443, host="a.test", tls=True),
            gateways.provider("b", 8443, host="10.0.0.1", tls=True, base_path="/b"),
        ],
        [gateways.route("r", "/", "a", "b", hosts=("h.test", "i.test"))],
        [Listen(host="127.0.0.1", port=9000)],
    ),
    "tls and not": (
        [gateways.provider("a", 443, host="a.test", tls=True), gateways.provider("b", host="b.test", credential_header="x-k")],
        [gateways.route("r", "/v1/{a}/{b}.x", "b", "a", methods=("GET", "POST"))],
        [Listen(host="localhost", port=9000), *UNIX],
    ),
    "internal": (
        [gateways.internal("a", base_path="/x"), gateways.internal("b", 443, tls=True, host="b.test"), gateways.internal("c")],
        [gateways.route("r", "/{x}", "a", "b", "c")],
        [Listen(host="::1", port=9000)],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_envoy_takes_it(shape: str, tmp_path: Path) -> None:
    providers, routes, listens = SHAPES[shape]
    validate(render(gateways.gateway(providers, *routes), listens), tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_envoy_takes_any_gateway(seed: int, tmp_path: Path) -> None:
    """Seeded gateways of up to eight providers and twelve routes."""
    choose = random.Random(seed)
    providers: list[Provider] = []
    for number in range(choose.randint(1, 8)):
        fields: dict[str, object] = {"tls": choose.random() < 0.5, "base_path": choose.choice(("", "/base", "/a/b"))}
        fields["host"] = choose.choice(("10.1.2.3", f"p{number}.test", "localhost"))
        fields["credential_header"] = choose.choice(("authorization", "x-api-key", "x-goog-api-key", "xi-api-key", ""))
        providers.append(gateways.provider(f"p{number}", choose.choice((80, 443, 9999)), **fields))
    routes: list[Route] = []
    for number in range(choose.randint(1, 12)):
        kind = choose.choice([one for one in (True, False) if any(provider.is_internal is one for provider in providers)])
        of_kind = [provider.name for provider in providers if provider.is_internal is kind]
        names = choose.sample(of_kind, choose.randint(1, min(4, len(of_kind))))
        path = choose.choice((f"/r{number}", f"/r{number}/{{x}}", f"/r{number}/{{model}}:go"))
        hosts = choose.choice((("*",), ("a.test",), ("a.test", "b.test")))
        routes.append(gateways.route(f"r{number}", path, *names, hosts=hosts, methods=choose.choice((("GET",), ("POST", "PUT")))))
    validate(render(gateways.gateway(providers, *routes), UNIX), tmp_path)


def test_a_cluster_for_each_ordered_subset_and_no_other() -> None:
    gateway = gateways.gateway(
        [gateways.provider(name) for name in "abcd"], gateways.route("r", "/", *"abcd"), gateways.route("s", "/s", "c", "a")
    )
    found = {"+".join(provider.name for provider in chain) for chain in chains(gateway)}
    assert found == {
        "a", "b", "c", "d",
        "a+b", "a+c", "a+d", "b+c", "b+d", "c+d", "c+a",
        "a+b+c", "a+b+d", "a+c+d", "b+c+d", "a+b+c+d",
    }  # fmt: skip


def example() -> Gateway:
    return load(EXAMPLE)


def test_the_first_filter_takes_what_is_ours_and_every_check_fails_closed() -> None:
    document = yaml.safe_load(render(example(), UNIX))
    assert document == bootstrap(example(), UNIX)
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = [one["name"] for one in manager["http_filters"]]
    assert filters == ["strip", "note", "body", "decision", "keep", "router"]
    decision = manager["http_filters"][3]["typed_config"]
    assert (decision["failure_mode_allow"], decision["status_on_error"]) == (False, {"code": "ServiceUnavailable"})
    retries = decision["grpc_service"]["retry_policy"]
    assert (retries["retry_on"], retries["num_retries"]) == ("connect-failure", 1)
    assert retries["retry_back_off"] == {"base_interval": "0.005s", "max_interval": decision["grpc_service"]["timeout"]}
    assert retries["host_selection_retry_max_attempts"] == 100
    assert document["static_resources"]["clusters"][0]["common_lb_config"] == {"update_merge_window": "0s"}
    hosts = manager["route_config"]["virtual_hosts"]
    for host in hosts:
        *routes, last = host["routes"]
        assert last["direct_response"]["status"] == 404
        assert all(route["match"]["headers"][0] == {"name": "x-extauthz-chain", "present_match": True} for route in routes)
    assert "*" in [domain for host in hosts for domain in host["domains"]]
