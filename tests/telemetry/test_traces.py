"""Spans as a collector receives them: a real OTLP/HTTP receiver on loopback, decoded with the protocol's own messages."""

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from extauthz.cli.wiring import Core
from extauthz.errors import BadConfig, Malformed
from extauthz.services.check import CheckService
from extauthz.telemetry import traces
from tests.harness.collector import Collector, attributes, collecting
from tests.harness.deciding import serving_settings
from tests.harness.gateways import gateway
from tests.harness.messages import Answer, check_request
from tests.harness.record import MadeKey, Record, opened_record
from tests.harness.sidecar import serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


class Traced:
    """A decision whose answers are traced."""

    def __init__(self, core: Core, record: Record, key: MadeKey) -> None:
        self.core = core
        self.record = record
        self.key = key

    async def check(self, key: str, traceparent: str = SAMPLED, **fields: Any) -> Answer:
        headers = {"authorization": f"Bearer {key}", "x-request-id": "the-request"}
        if traceparent:
            headers["traceparent"] = traceparent
        message = check_request(headers=headers, **fields)
        return Answer(await self.core.answer(message, asyncio.get_running_loop().time() + 0.5))


@asynccontextmanager
async def traced(redis_url: str, folder: Path, endpoint: str) -> AsyncIterator[Traced]:
    async with opened_record(redis_url, folder) as record:
        await record.tenant("acme", "none")
        await record.secret("acme", "openai", "credential-of-acme-for-openai")
        key = await record.key("acme", ("chat",))
        core = Core(dataclasses.replace(serving_settings(redis_url, folder), traces_endpoint=endpoint))
        await core.start()
        core.install(gateway())
        try:
            yield Traced(core, record, key)
        finally:
            await core.close()


@pytest.mark.parametrize("raw", [False, True], ids=["headers", "header map"])
async def test_an_allow_is_a_span_of_envoys_trace(collector: Collector, redis_url: str, tmp_path: Path, raw: bool) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        assert (await system.check(system.key.text, raw=raw)).is_allow
    [span] = collector.spans()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.name, span.kind) == ("envoy.service.auth.v3.Authorization/Check", 2)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert attributes(span) == {
        "extauthz.route": "chat",
        "extauthz.decision": "allowed",
        "extauthz.reason": "ok",
        "extauthz.provider": "openai",
        "extauthz.tenant": "acme",
        "extauthz.request_id": "the-request",
    }
    assert collector.paths == {"/v1/traces"}
    resource = {pair.key: pair.value.string_value for pair in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "extauthz"


async def test_a_denial_names_its_code_and_its_route(collector: Collector, redis_url: str, tmp_path: Path) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        await system.check("junk")
        await system.check(system.key.text, path="/nowhere")
        await system.record.revoke(system.key.key_id)
        await system.check(system.key.text)
    told = [attributes(span) for span in sorted(collector.spans(), key=lambda span: int(span.start_time_unix_nano))]
    assert [(each["extauthz.decision"], each["extauthz.reason"], each.get("extauthz.route")) for each in told] == [
        ("denied", "key_malformed", "chat"),
        ("denied", "route_not_found", None),
        ("denied", "key_revoked", "chat"),
    ]
    assert {span.status.code for span in collector.spans()} == {0}


async def test_an_error_of_ours_is_a_span_with_its_kind_and_without_its_text(
    collector: Collector, redis_url: str, tmp_path: Path
) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        message = check_request(headers={"traceparent": SAMPLED})

        async def broken(_message: bytes, _deadline: float) -> bytes:
            raise RuntimeError("what a client sent")

        with pytest.raises(RuntimeError, match="what a client sent"):
            await system.core.traces.of(broken)(message, 0.0)
        waiting = asyncio.ensure_future(system.core.traces.of(_never)(message, 0.0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
    first, second = collector.spans()
    assert (attributes(first), first.status.code) == ({"extauthz.decision": "error", "error.type": "RuntimeError"}, 2)
    assert attributes(second)["error.type"] == "CancelledError"
    assert b"what a client sent" not in collector.bodies


async def _never(_message: bytes, _deadline: float) -> bytes:
    await asyncio.get_running_loop().create_future()
    return b""


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE}-{PARENT}-00",
        f"00-{TRACE}-{PARENT}-02",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"ff-{TRACE}-{PARENT}-01",
        "junk",
        f"00-{TRACE}-{PARENT}-01-x",
    ],
    ids=["none", "not sampled", "another flag", "upper case", "no trace", "version", "junk", "suffix"],
)
async def test_what_envoy_does_not_sample_is_no_span(
    collector: Collector, redis_url: str, tmp_path: Path, traceparent: str
) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        assert (await system.check(system.key.text, traceparent)).is_allow
    assert collector.spans() == []


async def test_what_does_not_parse_is_malformed_as_without_traces(collector: Collector, redis_url: str, tmp_path: Path) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        with pytest.raises(Malformed):
            await system.core.answer(b"\x0a\x05traceparent", asyncio.get_running_loop().time() + 1)


async def test_no_credential_reaches_the_collector(collector: Collector, redis_url: str, tmp_path: Path) -> None:
    async with traced(redis_url, tmp_path, collector.url) as system:
        for path in ("/v1/chat/completions", f"/v1/{system.key.text}", f"/v1/chat/completions?key={system.key.text}"):
            await system.check(system.key.text, path=path, host=system.key.text, model=system.key.text)
            await system.check(f"sk-{system.key.text}", path=path)
        key = system.key.text
    assert len(collector.spans()) == 6
    for canary in (key, key[-20:], "credential-of-acme", "sk-"):
        assert canary.encode() not in collector.bodies


async def test_a_collector_that_is_away_delays_neither_an_answer_nor_the_end(redis_url: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with traced(redis_url, tmp_path, "http://127.0.0.1:1") as system:
        began = loop.time()
        for _ in range(200):
            assert (await system.check(system.key.text)).is_allow
        assert loop.time() - began < 2
        began = loop.time()
    assert loop.time() - began < 4


async def test_off_serves_the_service_itself(redis_url: str, tmp_path: Path) -> None:
    async with traced(redis_url, tmp_path, "") as system:
        assert isinstance(system.core.check, CheckService)
        assert system.core.answer is system.core.check


def test_a_worker_without_traces_loads_no_sdk() -> None:
    program = "import sys, extauthz.cli.worker; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert ran.stdout.strip() == "[]"


def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "extauthz.telemetry.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadConfig, match=r"EXTAUTHZ_TRACES.*extauthz\[traces\]"):
        traces.start("http://127.0.0.1:4318")


@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_the_workers_of_a_sidecar_send_their_last_spans_when_it_ends(
    collector: Collector, redis_url: str, transport: str
) -> None:
    async with serving(redis_url, "--transport", transport, workers=2, EXTAUTHZ_TRACES=collector.url) as sidecar:
        async with opened_record(redis_url, sidecar.gateway.parent) as record:
            await record.tenant("acme", "open")
            await record.secret("acme", "openai", "credential-of-acme")
            key = (await record.key("acme", ("chat",))).text
        for number in range(20):
            headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{number + 1:032x}-{PARENT}-01"}
            assert (await sidecar.check(key, number % 2, headers=headers)).is_allow
    spans = collector.spans()
    assert sorted(int(span.trace_id.hex(), 16) for span in spans) == list(range(1, 21))
    assert {attributes(span)["extauthz.tenant"] for span in spans} == {"acme"}


async def test_a_collector_that_is_away_is_told_of_in_the_log_and_nothing_waits_for_it(redis_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(redis_url, EXTAUTHZ_TRACES="http://127.0.0.1:1/base") as sidecar:
        for number in range(50):
            headers = {"traceparent": f"00-{number + 1:032x}-{PARENT}-01"}
            assert (await sidecar.check(headers=headers)).refused_by == "key_missing"
        pids = sidecar.worker_pids()
        began = loop.time()
        await asyncio.to_thread(sidecar.process.stop)
        assert loop.time() - began < 6
        assert sidecar.process.exit_code == 0
        assert pids
        lines = sidecar.process.output().splitlines()
        assert [line for line in lines if not line.startswith("{")] == []
        assert any(line["logger"].startswith("opentelemetry.") for line in sidecar.log_lines())
