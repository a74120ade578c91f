"""Our spans in the traces of a real Envoy: the parent of each is Envoy's own span of the call to the sidecar."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from demo.envoy_server import EnvoyServer
from demo.processes import free_port
from demo.system import System, all_healthy
from extauthz.envoy_config.render import bootstrap
from extauthz.envoy_config.yaml_text import to_yaml
from extauthz.gateway.load import load
from extauthz.settings import parse_listen
from tests.conftest import eventually
from tests.end_to_end.background import Background
from tests.end_to_end.wire import http1, http1_headers
from tests.harness.collector import Collector, attributes, collecting

GATEWAY = """\
listener: {{address: 127.0.0.1, port: {port}, admin_port: {admin}}}
providers:
  openai: {{address: "http://127.0.0.1:{openai}", credential: {{header: authorization, format: "Bearer {{}}"}}}}
scopes:
  chat: {{providers: [openai]}}
routes:
  - {{name: chat, path: /v1/chat/completions, methods: [POST], scope: chat, providers: [openai]}}
plans:
  free: {{limits: {{requests: {{per: tenant, limit: 1000/minute}}}}}}
default_plan: free
"""
BODY = b'{"model":"m"}'


class Traced(NamedTuple):
    port: int
    key: str
    collector: Collector

    def ask(self, key: str, *headers: tuple[str, str]) -> int:
        lines = [("content-type", "application/json"), ("x-api-key", key), *headers]
        return http1(self.port, "POST", "/v1/chat/completions", http1_headers("h", BODY, lines), BODY).status


def tracing(document: dict[str, Any], collector_port: int) -> str:
    """The rendered configuration as an operator makes it trace: every request, to this collector, at once."""
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    uri = {"uri": f"http://127.0.0.1:{collector_port}/v1/traces", "cluster": "collector", "timeout": "1s"}
    manager["tracing"] = {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "envoy",
                "http_service": {"http_uri": uri},
            },
        }
    }
    socket = {"socket_address": {"address": "127.0.0.1", "port_value": collector_port}}
    document["static_resources"]["clusters"].append(
        {
            "name": "collector",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "collector",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket}}]}],
            },
        }
    )
    at_once = {"name": "tests", "static_layer": {"tracing.opentelemetry.min_flush_spans": 1}}
    document.setdefault("layered_runtime", {}).setdefault("layers", []).append(at_once)
    return to_yaml(document)


@pytest.fixture(params=["fast", "grpcio"])
def traced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Traced]:
    background = Background()
    port = free_port()
    text = GATEWAY.format(port=port, admin=free_port(), openai=background.provider("openai").port)
    system = System(tmp_path, text)
    try:
        with collecting() as collector:
            system.command("tenant", "create", "acme")
            key = json.loads(system.command("key", "create", "acme", "--scope", "chat", "--json"))["key"]
            system.command("secret", "set", "acme", "openai", stdin=b"credential-of-acme")
            system.environment["EXTAUTHZ_TRACES"] = collector.url
            system.serve("--transport", request.param)
            document = bootstrap(load(system.gateway_file), [parse_listen(system.listen)])
            envoy = EnvoyServer(tmp_path / "envoy", tracing(document, collector.server.server_port))
            try:
                envoy.process.wait_until(lambda: all_healthy(envoy, 1), 15)
                yield Traced(port, key, collector)
            finally:
                envoy.stop()
    finally:
        system.stop()
        background.stop()


def test_each_check_is_a_child_of_envoys_span_of_it(traced: Traced) -> None:
    client = "4bf92f3577b34da6a3ce929d0e0e4736"
    statuses = [
        traced.ask(traced.key),
        traced.ask("junk"),
        traced.ask(traced.key, ("traceparent", f"00-{client}-00f067aa0ba902b7-01")),
        traced.ask(traced.key, ("traceparent", f"00-{client}-00f067aa0ba902b7-00")),
    ]
    assert statuses == [200, 401, 200, 200]
    eventually(lambda: len(traced.collector.spans()) == 3 and len(traced.collector.spans("envoy")) >= 3 * 2, 8)
    of_envoy = {span.span_id: span for span in traced.collector.spans("envoy")}
    told = []
    for span in sorted(traced.collector.spans(), key=lambda span: int(span.start_time_unix_nano)):
        parent = of_envoy[span.parent_span_id]
        assert (parent.trace_id, attributes(parent)["upstream_cluster"]) == (span.trace_id, "extauthz")
        assert parent.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= parent.end_time_unix_nano
        told.append((attributes(span)["extauthz.reason"], span.trace_id.hex() == client))
    assert told == [("ok", False), ("key_malformed", False), ("ok", True)]
    for canary in (traced.key, "credential-of-acme"):
        assert canary.encode() not in traced.collector.bodies
