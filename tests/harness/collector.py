"""A collector of traces: a real OTLP/HTTP receiver on loopback, decoded with the protocol's own messages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What was sent to it, span by span, and all its bytes."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.bodies = b""
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = b"".join(self._chunks()) if "chunked" in self.headers.get("transfer-encoding", "") else self._sized()
                collector.paths.add(self.path)
                collector.bodies += body
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def _sized(self) -> bytes:
                return self.rfile.read(int(self.headers["content-length"]))

            def _chunks(self) -> Iterator[bytes]:
                while length := int(self.rfile.readline(), 16):
                    yield self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self, service: str = "extauthz") -> list[Any]:
        """The spans that this service has sent."""
        return [
            span
            for request in self.requests
            for sent in request.resource_spans
            if service in {pair.value.string_value for pair in sent.resource.attributes if pair.key == "service.name"}
            for scope in sent.scope_spans
            for span in scope.spans
        ]


def attributes(span: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the end of the block."""
    collector = Collector()
    serving = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        serving.join()
        collector.server.server_close()
