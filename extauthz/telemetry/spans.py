"""OpenTelemetry spans: one per Check, joined to the trace that Envoy began. Loaded by traces.py, and only when traces are on.

A span is made only for a call whose `traceparent` says that Envoy samples it: Envoy decides what is traced, not this. It names
the route, the decision, what decided, the provider, the tenant and Envoy's request id, all of them read from the answer or given by
Envoy; never a credential, a path, another header or an error's text.
"""

import asyncio
import re
import threading
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from extauthz import __version__, _pb
from extauthz.telemetry.traces import Handler

#: Spans that wait for the collector; further ones push the oldest out. 2 KiB each: 4 MiB.
QUEUE_MAX: Final = 2_048
#: What one export may take, and how often spans are sent.
EXPORT_S: Final = 5
SEND_EVERY_MS: Final = 1_000
#: How long the end of a worker waits for its last spans.
CLOSE_S: Final = 2.0

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOTHING: Final = Context()
SPAN: Final = "envoy.service.auth.v3.Authorization/Check"
#: A traceparent of the version Envoy writes, sampled. In the call's metadata Envoy names its own span of this call; only where it
#: does not trace itself, the header that the client sent is looked at. That one is found in the serialized CheckRequest, in the map
#: of headers or in the header map, by its octets: parsing the message costs 10 us, which requests that are not sampled would pay
#: as well. No header value that Envoy passes on has the octets between name and value, so nobody else can write this.
_SAMPLED_FORM: Final = rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]"
_sampled = re.compile(_SAMPLED_FORM).fullmatch
_sampled_in = re.compile(rb"\x0btraceparent[\x12\x1a]\x37" + _SAMPLED_FORM).search


class Spans:
    """The spans of one worker. Made after its process has begun.

    Args:
        endpoint: base URL of an OTLP/HTTP collector.
    """

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=EXPORT_S)
        self._provider = TracerProvider(
            sampler=ParentBased(root=ALWAYS_OFF),
            resource=Resource.create({"service.name": "extauthz", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        processor = BatchSpanProcessor(self._exporter, max_queue_size=QUEUE_MAX, schedule_delay_millis=SEND_EVERY_MS)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("extauthz", __version__)

    def of(self, handler: Handler) -> Handler:
        """The same handler with a span around each call that is sampled. Another costs one search in its message."""
        return TracedCheck(handler, self._tracer)

    async def close(self) -> None:
        """Send what is left, for at most CLOSE_S; a collector that is away does not keep a worker from its end."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)
        if closing.is_alive():
            # Ends the wait before the next attempt, and the thread with it.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class TracedCheck:
    """A Check's handler that makes spans.

    Args:
        handler: the service.
        tracer: where spans begin.
    """

    #: Asks the transport for the third argument; see transport/seam.py.
    takes_traceparent = True

    def __init__(self, handler: Handler, tracer: Tracer) -> None:
        self._handler = handler
        self._tracer = tracer

    async def __call__(self, message: bytes, deadline: float, traceparent: str = "") -> bytes:
        """What the handler returns or raises, unchanged.

        Args:
            traceparent: of the call's metadata; empty when it has none.
        """
        found = _sampled(traceparent.encode("ascii", "replace")) if traceparent else _sampled_in(message)
        parent = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=_SAMPLED) if found else None
        if parent is None or not parent.is_valid:
            return await self._handler(message, deadline)
        span = self._tracer.start_span(SPAN, set_span_in_context(NonRecordingSpan(parent), _NOTHING), SpanKind.SERVER)
        try:
            answer = await self._handler(message, deadline)
            span.set_attributes({**_attributes(answer), "extauthz.request_id": _request_id(message)})
        except BaseException as error:
            # The error's kind; its text may hold what a client sent.
            span.set_attributes({"extauthz.decision": "error", "error.type": type(error).__name__})
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
        return answer


def _request_id(message: bytes) -> str:
    """The id under which Envoy logs the request, as the refusals' log has it."""
    http = _pb.CheckRequest.FromString(message).attributes.request.http
    for pair in http.header_map.headers:
        if pair.key == "x-request-id":
            return str((pair.raw_value or pair.value.encode()).decode("ascii", "replace"))[:64]
    return str(http.headers.get("x-request-id", http.id))[:64]


def _attributes(answer: bytes) -> dict[str, str]:
    """Who, where to and why, as the answer's metadata says: names of the gateway file, codes, a tenant's id."""
    told = {name: value.string_value for name, value in _pb.CheckResponse.FromString(answer).dynamic_metadata.fields.items()}
    refused = told.get("refused", "")
    named = {f"extauthz.{name}": told[name] for name in ("route", "provider", "tenant") if name in told}
    return {"extauthz.decision": "denied" if refused else "allowed", "extauthz.reason": refused or "ok", **named}
