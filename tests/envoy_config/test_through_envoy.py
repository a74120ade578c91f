"""What a real Envoy does with the rendered configuration, under a sidecar that says what each test wants."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from demo.envoy_server import EnvoyServer
from demo.provider import Provider
from extauthz.envoy_config.render import render
from extauthz.gateway.model import Gateway
from extauthz.settings import Listen
from tests.conftest import eventually
from tests.end_to_end.background import Background
from tests.end_to_end.wire import Answer, http1, http1_headers, http2
from tests.envoy_config import gateways
from tests.envoy_config.fake_sidecar import FakeSidecar, Unanswered, allowed, denied

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": []}).encode()
KEY = "x-extauthz-credential-"
BODY_BYTES_MAX = 262_144


@dataclass
class World:
    gateway: Gateway
    envoy: EnvoyServer
    sidecar: FakeSidecar
    providers: dict[str, Provider]

    @property
    def port(self) -> int:
        return self.gateway.listener.port

    def seen(self) -> list[dict[str, Any]]:
        """What the providers saw, in the order of their names."""
        return [entry for name in sorted(self.providers) for entry in self.providers[name].seen]

    def post(self, path: str = CHAT, body: bytes = BODY, *headers: tuple[str, str], content: str = "application/json") -> Answer:
        return http1(self.port, "POST", path, http1_headers("gw.test", body, [("content-type", content), *headers]), body)

    def get(self, path: str) -> Answer:
        return http1(self.port, "GET", path, http1_headers("gw.test", b""))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("e")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(stranger)
    with ExitStack() as ending:
        yield start(folder, ending, context, stranger)


def start(folder: Path, ending: ExitStack, context: ssl.SSLContext, stranger: ssl.SSLContext) -> World:
    back = Background()
    ending.callback(back.stop)
    sidecar = FakeSidecar(f"unix:{folder}/x.sock")
    ending.callback(sidecar.stop)
    plain = {name: back.provider(name) for name in ("a", "b", "c", "svc", "svc2")}
    tls = {"t": back.provider("t", tls=context), "u": back.provider("u", tls=stranger)}
    servers = {**plain, **tls}
    ca_file = str(folder / "ca.pem")
    providers = [
        gateways.provider("a", servers["a"].port),
        gateways.provider("b", servers["b"].port, base_path="/base/b", credential_header="x-api-key", credential_format="{}"),
        gateways.provider("c", servers["c"].port, base_path="/c", credential_header="x-custom-key", credential_format="{}"),
        gateways.provider("t", servers["t"].port, host="localhost", tls=True, ca_file=ca_file),
        gateways.provider("u", servers["u"].port, host="localhost", tls=True, ca_file=ca_file),
        gateways.internal("svc", servers["svc"].port),
        gateways.internal("svc2", servers["svc2"].port, base_path="/two"),
    ]
    gateway = gateways.gateway(
        providers,
        gateways.route("chat", CHAT, "a", "b", "c"),
        gateways.route("mixed", "/v1/mixed", "a", "t", "u"),
        gateways.route("agents", "/agents/{name}/run", "svc", "svc2", methods=("GET", "POST")),
        gateways.route("hosted", "/v1/hosted", "a", hosts=("only.test",)),
        body_bytes_max=BODY_BYTES_MAX,
    )
    envoy = EnvoyServer(folder, render(gateway, [Listen(f"{folder}/x.sock")]))
    ending.callback(envoy.stop)
    return World(gateway, envoy, sidecar, servers)


@pytest.fixture
def world(running: World) -> World:
    running.sidecar.decide = lambda _: denied()
    running.sidecar.asked.clear()
    for server in running.providers.values():
        server.failing = 0
        server.answers_with = ()
        server.seen.clear()
    return running


def names(entry: dict[str, Any]) -> set[str]:
    return {name for name, _ in entry["headers"]}


def test_an_allowed_request_reaches_the_chosen_provider_with_what_the_decision_set(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", authorization="Bearer ours")
    answer = world.post()
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hello from a."
    (entry,) = world.seen()
    assert (entry["provider"], entry["credentials"], entry["path"]) == ("a", {"authorization": "Bearer ours"}, CHAT)
    assert entry["host"] == f"127.0.0.1:{world.providers['a'].port}"
    assert names(entry) == {"host", "content-type", "content-length", "authorization", "x-request-id"}


def test_a_denial_is_the_sidecars_answer(world: World) -> None:
    world.sidecar.decide = lambda _: denied(401, '{"error":{}}')
    answer = world.post()
    assert (answer.status, answer.body) == (401, b'{"error":{}}')
    assert world.seen() == []


def test_an_empty_answer_reaches_nobody(world: World) -> None:
    """Envoy takes it for an allow; no route leads anywhere without a chain."""
    world.sidecar.decide = lambda _: type(denied())()
    forged = (("x-extauthz-chain", "chain:a"), ("authorization", "Bearer theirs"))
    assert world.post(CHAT, BODY, *forged).status == 404
    assert world.seen() == []


def test_an_allow_without_a_chain_reaches_nobody(world: World) -> None:
    world.sidecar.decide = lambda _: allowed(authorization="Bearer ours")
    answer = world.post(CHAT, BODY, ("x-extauthz-chain", "chain:a"))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "not_found")
    assert world.seen() == []


def says_try_again(answer: Answer) -> bool:
    """Whether it is the 503 that clients' libraries know, and nothing of Envoy's own in it."""
    error = {
        "message": "The service is temporarily unavailable.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "server_is_overloaded",
    }
    assert (answer.status, answer.header("content-type"), json.loads(answer.body)) == (503, "application/json", {"error": error})
    return [value for name, value in answer.headers if name == "retry-after"] == ["1"]


def test_a_chain_that_is_not_rendered_is_a_503(world: World) -> None:
    """Envoy and the sidecar have read different gateway files, as they do for a moment when one is changed."""
    world.sidecar.decide = lambda _: allowed("a", "svc")
    assert says_try_again(world.post())
    assert world.seen() == []


def test_a_503_of_the_sidecars_own_keeps_its_words(world: World) -> None:
    def refuse(_: Any) -> Any:
        answer = denied(503, '{"error":"ours"}')
        option = answer.denied_response.headers.add()
        option.header.key, option.header.value = "retry-after", "7"
        return answer

    world.sidecar.decide = refuse
    answer = world.post()
    assert (answer.status, answer.body, answer.header("retry-after")) == (503, b'{"error":"ours"}', "7")


def test_unknown_paths_hosts_and_methods_end_in_the_refusal_even_when_allowed(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", authorization="Bearer ours")
    assert [world.post(path).status for path in ("/", "/v1", CHAT + "/", CHAT.upper(), "/v1/hosted")] == [404] * 5
    assert world.get(CHAT).status == 404
    headers = http1_headers("only.test:8080", BODY, [("content-type", "application/json")])
    assert http1(world.port, "POST", "/v1/hosted", headers, BODY).status == 200
    assert len(world.seen()) == 1


def test_each_attempt_has_the_credential_host_and_path_of_its_provider(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", "b", "c", **{KEY + "a": "Bearer key-a", KEY + "b": "key-b", KEY + "c": "key-c"})
    world.providers["a"].failing = 503
    world.providers["b"].failing = -1
    answer = world.post(CHAT + "?x=1")
    assert answer.status == 200
    assert json.loads(answer.body)["extauthz_demo"]["provider"] == "c"
    first, second, third = world.seen()
    assert (first["credentials"], first["path"]) == ({"authorization": "Bearer key-a"}, CHAT + "?x=1")
    assert (second["credentials"], second["path"]) == ({"x-api-key": "key-b"}, "/base/b" + CHAT + "?x=1")
    assert (third["credentials"], third["path"]) == ({}, "/c" + CHAT + "?x=1")
    assert dict(third["headers"])["x-custom-key"] == "key-c"
    assert [entry["host"] for entry in world.seen()] == [f"127.0.0.1:{world.providers[name].port}" for name in "abc"]
    common = {"host", "content-type", "content-length", "x-request-id"}
    assert [names(entry) - common for entry in world.seen()] == [{"authorization"}, {"x-api-key"}, {"x-custom-key"}]
    assert len({dict(entry["headers"])["x-request-id"] for entry in world.seen()}) == 1
    assert [entry["body_bytes"] for entry in world.seen()] == [len(BODY)] * 3
    assert len(world.sidecar.asked) == 1


def test_a_chain_is_tried_once_per_provider_and_only_its_own_providers(world: World) -> None:
    for server in world.providers.values():
        server.failing = 500
    world.sidecar.decide = lambda _: allowed("a", "c", **{KEY + "a": "Bearer key-a", KEY + "c": "key-c"})
    assert world.post().status == 500
    assert [entry["provider"] for entry in world.seen()] == ["a", "c"]
    world.sidecar.decide = lambda _: allowed("b", **{"x-api-key": "key-b"})
    assert world.post().status == 500
    assert [entry["provider"] for entry in world.seen()] == ["a", "b", "c"]


def test_a_provider_without_its_credential_gets_none(world: World) -> None:
    """The sidecar would not name it; if it did, no other provider's key may fill the gap."""
    world.sidecar.decide = lambda _: allowed("a", "b", **{KEY + "a": "Bearer key-a"})
    world.providers["a"].failing = 503
    world.post(CHAT, BODY, ("x-api-key", "theirs"), ("authorization", "Bearer theirs"))
    assert [entry["credentials"] for entry in world.seen()] == [{"authorization": "Bearer key-a"}, {}]


def test_a_large_body_is_sent_again_and_a_larger_one_refused(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", "b", **{KEY + "a": "Bearer key-a", KEY + "b": "key-b"})
    world.providers["a"].failing = 503
    fill = BODY_BYTES_MAX - len('{"model":"m","x":""}')
    body = b'{"model":"m","x":"%s"}' % (b"x" * fill)
    assert len(body) == BODY_BYTES_MAX
    headers = [("content-type", "application/json")]
    assert http1(world.port, "POST", CHAT, http1_headers("h", body, headers), body).status == 200
    assert http2(world.port, "POST", CHAT, "h", headers, body).status == 200
    assert [entry["body_bytes"] for entry in world.seen()] == [len(body)] * 4
    larger = body + b" " * 65_536
    assert http1(world.port, "POST", CHAT, http1_headers("h", larger, headers), larger).status == 413
    assert http2(world.port, "POST", CHAT, "h", headers, larger).status == 413
    assert len(world.sidecar.asked) == 2


def test_streamed_answers_pass(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", authorization="Bearer ours")
    answer = world.post(CHAT, json.dumps({"model": "m", "stream": True}).encode())
    assert answer.header("content-type") == "text/event-stream"
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_tls_is_verified_and_each_attempt_has_its_own(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("t", authorization="Bearer t")
    assert world.post("/v1/mixed").status == 200
    assert world.seen()[0]["host"] == f"localhost:{world.providers['t'].port}"
    world.sidecar.decide = lambda _: allowed("u", authorization="Bearer u")
    refused = world.post("/v1/mixed")
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (503, "no_answer")
    keys = {KEY + name: f"Bearer key-{name}" for name in "atu"}
    world.sidecar.decide = lambda _: allowed("a", "t", **keys)
    world.providers["a"].failing = 500
    assert world.post("/v1/mixed").status == 200
    assert [entry["credentials"]["authorization"] for entry in world.seen()[1:]] == ["Bearer key-a", "Bearer key-t"] or world.seen()
    assert world.providers["u"].seen == []


def test_an_internal_service_gets_the_identity_and_nothing_else_of_ours(world: World) -> None:
    identity = {"x-extauthz-tenant": "acme", "x-extauthz-key-id": "k1", "x-extauthz-scope": "s"}
    world.sidecar.decide = lambda _: allowed("svc", "svc2", **identity)
    world.providers["svc"].failing = 503
    answer = world.post("/agents/one/run", BODY, ("x-api-key", "theirs"), ("x-extauthz-tenant", "other"), ("cookie", "a=b"))
    assert answer.status == 200
    for entry, path in zip(world.seen(), ("/agents/one/run", "/two/agents/one/run"), strict=True):
        ours = {name: value for name, value in entry["headers"] if name.startswith("x-extauthz-")}
        assert (ours, entry["credentials"], entry["path"]) == (identity, {}, path)


def test_the_sidecar_is_asked_with_the_model_the_chain_extension_and_few_headers(world: World) -> None:
    world.post(CHAT + "?k=v", BODY, ("x-api-key", "xa_1"), ("x-extauthz-tenant", "forged"), ("user-agent", "curl"))
    (request,) = world.sidecar.asked
    attributes = request.attributes
    assert dict(attributes.context_extensions) == {"extauthz.chain": "v1"}
    assert attributes.request.http.path == CHAT + "?k=v"
    assert attributes.request.http.method == "POST"
    assert attributes.request.http.host == "gw.test"
    assert set(attributes.request.http.headers) - {"x-request-id"} == {"x-api-key"}
    assert attributes.request.http.headers["x-api-key"] == "xa_1"
    assert dict(attributes.metadata_context.filter_metadata["llm"]) == {"model": "gpt-4o"}
    assert attributes.source.address.socket_address.address == "127.0.0.1"


BODIES = [
    ("plain", "application/json", b'{"model":"m","stream":true,"max_tokens":7}', {"model": "m", "stream": True, "max_tokens": 7.0}),
    ("charset", "application/json; charset=utf-8", b'{"model":"m"}', {"model": "m"}),
    ("quoted charset", 'application/json ; charset="utf-8"', b'{"model":"m"}', {"model": "m"}),
    ("other charset", "application/json; charset=utf-7", b'{"model":"m"}', {"problem": "error"}),
    ("byte order mark", "application/json", b'\xef\xbb\xbf{"model":"m"}', {"model": "m"}),
    ("UTF-16", "application/json", '{"model":"m"}'.encode("utf-16"), {"problem": "error"}),
    ("escaped key", "application/json", b'{"\\u004dodel":"o1","mod\\u0065l":"m"}', {"model": "m", "other_spelling": "o1"}),
    ("twice", "application/json", b'{"model":"m","model":"o1"}', {"model": "o1"}),
    ("not a number", "application/json", b'{"model":"m","x":NaN}', {"problem": "error"}),
    ("too deep", "application/json", b'{"model":"m","x":' + b"[" * 5000 + b"]" * 5000 + b"}", {"problem": "error"}),
    ("upper-case type", "APPLICATION/JSON;charset=UTF-8", b'{"model":"m"}', {"model": "m"}),
    ("other spelling", "application/json", b'{"model":"m","Model":"o1"}', {"model": "m", "other_spelling": "o1"}),
    ("shouted", "application/json", b'{"MODEL":"o1"}', {"problem": "missing", "other_spelling": "o1"}),
    ("mixed", "application/json", b'{"mOdEl":"o1"}', {"problem": "missing", "other_spelling": "o1"}),
    ("empty other", "application/json", b'{"model":"m","Model":""}', {"model": "m", "other_spelling": ""}),
    ("none", "application/json", b'{"messages":[]}', {"problem": "missing"}),
    ("null", "application/json", b'{"model":null}', {"problem": "missing"}),
    ("number", "application/json", b'{"model":7}', {"model": 7.0}),
    ("object", "application/json", b'{"model":{"a":1}}', {"problem": "missing"}),
    ("list", "application/json", b"[]", {"problem": "missing"}),
    ("empty", "application/json", b"", {"problem": "missing"}),
    ("truncated", "application/json", b'{"model":"m"', {"problem": "error"}),
    ("trailing", "application/json", b'{"model":"m"}{}', {"problem": "error"}),
    ("other type", "text/plain", b'{"model":"m"}', {"problem": "error"}),
    ("form", "multipart/form-data; boundary=x", b"--x--", {"problem": "error"}),
]


@pytest.mark.parametrize(("content_type", "body", "expected"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_the_bodys_model_reaches_the_sidecar(world: World, content_type: str, body: bytes, expected: dict[str, Any]) -> None:
    world.post(CHAT, body, content=content_type)
    (request,) = world.sidecar.asked
    assert dict(request.attributes.metadata_context.filter_metadata["llm"]) == expected


def test_a_sidecar_in_trouble_is_503_and_asked_once(world: World) -> None:
    def fail(_: Any) -> Any:
        raise Unanswered

    world.sidecar.decide = fail
    assert says_try_again(world.post())
    assert len(world.sidecar.asked) == 1
    assert world.seen() == []


def test_a_slow_sidecar_is_503_after_its_time(world: World) -> None:
    done = threading.Event()

    def wait(_: Any) -> Any:
        done.wait(10)
        return allowed("a", authorization="Bearer ours")

    world.sidecar.decide = wait
    began = time.monotonic()
    assert says_try_again(world.post())
    assert 0.9 < time.monotonic() - began < 5
    done.set()
    assert (len(world.sidecar.asked), world.seen()) == (1, [])


def test_nothing_of_a_credential_is_in_envoys_output_or_in_the_response(world: World) -> None:
    secrets = {KEY + "a": "Bearer CANARY-a", KEY + "b": "CANARY-b"}
    world.sidecar.decide = lambda _: allowed("a", "b", **secrets)
    world.providers["a"].failing = 503
    world.providers["b"].answers_with = ("set-cookie: CANARY", "x-extauthz-tenant: CANARY")
    answer = world.post(CHAT + "?key=CANARY-query", BODY, ("x-api-key", "CANARY-client"), ("x-request-id", "forged"))
    assert {name for name, _ in answer.headers} == {"content-type", "content-length", "date", "server", "connection"}
    request_id = dict(world.seen()[0]["headers"])["x-request-id"]
    eventually(lambda: request_id in world.envoy.process.output())
    (line,) = [json.loads(line) for line in world.envoy.process.output().splitlines() if request_id in line]
    assert (line["host"], line["path"], line["route"]) == ("gw.test", CHAT, "chat")
    assert (line["status"], line["attempts"], line["chain"], line["tenant"]) == (200, 2, "chain:a+b", "some-tenant")
    assert "CANARY" not in world.envoy.process.output()
    assert "forged" not in world.envoy.process.output()


def test_clients_cannot_order_envoy_about(world: World) -> None:
    orders = [
        ("x-envoy-max-retries", "5"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-original-path", "/other"),
        ("x-envoy-decorator-operation", "x"),
        ("x-envoy-force-trace", "1"),
        ("x-forwarded-for", "10.1.1.1"),
    ]
    world.sidecar.decide = lambda _: allowed("a", authorization="Bearer ours")
    world.providers["a"].failing = 503
    assert world.post(CHAT, BODY, *orders).status == 503
    (entry,) = world.seen()
    assert not [name for name in names(entry) if name.startswith(("x-envoy", "x-forwarded"))]


def test_upgrades_connect_and_http10_are_refused(world: World) -> None:
    world.sidecar.decide = lambda _: allowed("a", authorization="Bearer ours")
    upgrade = [("host", "h"), ("connection", "upgrade"), ("upgrade", "websocket")]
    assert http1(world.port, "GET", CHAT, upgrade).status in (403, 404)
    assert http1(world.port, "CONNECT", "h:443", [("host", "h:443")]).status in (403, 404)
    assert http1(world.port, "POST", CHAT, http1_headers("h", b""), version="1.0").status == 426
    underscored = world.post(CHAT, BODY, ("x_api_key", "x"))
    assert underscored.status in (0, 400)
    assert world.seen() == []


def test_envoy_reports_no_deprecated_field(world: World) -> None:
    assert "eprecated" not in world.envoy.process.output()


def test_every_worker_gets_its_share(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("w")
    gateway = gateways.gateway([gateways.provider("a")], gateways.route("r", CHAT, "a"))
    workers = [FakeSidecar(f"unix:{folder}/x.sock.{number}") for number in range(2)]
    envoy = EnvoyServer(folder, render(gateway, [Listen(f"{folder}/x.sock.{number}") for number in range(2)]))
    try:
        for _ in range(60):
            assert http1(gateway.listener.port, "GET", "/", http1_headers("h", b"")).status == 403
        assert min(len(worker.asked) for worker in workers) >= 10
        workers[0].stop()
        # Before any health check has noticed.
        assert {http1(gateway.listener.port, "GET", "/", http1_headers("h", b"")).status for _ in range(20)} == {403}
        eventually(lambda: "::health_flags::/failed_active_hc" in envoy.admin("/clusters")[1], 5)
        before = len(workers[1].asked)
        assert {http1(gateway.listener.port, "GET", "/", http1_headers("h", b"")).status for _ in range(20)} == {403}
        assert len(workers[1].asked) == before + 20
    finally:
        envoy.stop()
        for worker in workers:
            worker.stop()


def test_a_sidecar_that_starts_after_envoy_is_found_without_traffic(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("l")
    gateway = gateways.gateway([gateways.provider("a")], gateways.route("r", CHAT, "a"))
    with ExitStack() as ending:
        envoy = EnvoyServer(folder, render(gateway, [Listen(f"{folder}/x.sock")]))
        ending.callback(envoy.stop)
        eventually(lambda: "/failed_active_hc" in envoy.admin("/clusters")[1])
        assert says_try_again(http1(gateway.listener.port, "POST", CHAT, http1_headers("h", BODY), BODY))
        ending.callback(FakeSidecar(f"unix:{folder}/x.sock").stop)
        eventually(lambda: "x.sock::health_flags::healthy" in envoy.admin("/clusters")[1], 4)
        assert http1(gateway.listener.port, "GET", "/", http1_headers("h", b"")).status == 403


def test_the_sidecar_and_the_log_name_a_request_alike(world: World) -> None:
    """`attributes.request.http.id` is a number of Envoy's own, which stands in no log."""
    world.post()
    (request,) = world.sidecar.asked
    request_id = request.attributes.request.http.headers["x-request-id"]
    assert request_id != request.attributes.request.http.id
    eventually(lambda: f'"request_id":"{request_id}"' in world.envoy.process.output())
