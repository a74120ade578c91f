"""HTTP clients that send exactly the bytes they are given: nothing is normalised, sorted, folded or refused on the way out."""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """Status 0: the connection or the stream was closed without an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


REFUSED = Answer(0, [], b"")


def http1(port: int, method: str, path: str, headers: Headers, body: bytes = b"", *, version: str = "1.1") -> Answer:
    """One request over a connection of its own. `host` and `content-length` are the caller's to give; see `http1_headers`."""
    return http1_bytes(port, _lines(f"{method} {path} HTTP/{version}", headers) + body)


def http1_chunked(port: int, method: str, path: str, headers: Headers, body: bytes, trailers: Headers) -> Answer:
    """The same with the body as one chunk, and trailers after it."""
    head = _lines(f"{method} {path} HTTP/1.1", [*headers, ("transfer-encoding", "chunked")])
    return http1_bytes(port, b"%s%x\r\n%s\r\n%s" % (head, len(body), body, _lines("0", trailers)))


def _lines(first: str, headers: Headers) -> bytes:
    return "\r\n".join((first, *(f"{name}: {value}" for name, value in headers), "", "")).encode("latin-1")


def http1_headers(host: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The headers a request cannot do without, then these."""
    return [("host", host), ("connection", "close"), ("content-length", str(len(body))), *headers]


def http1_bytes(port: int, data: bytes) -> Answer:
    """What the server answers to these bytes before it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        received = b""
        try:
            link.sendall(data)
            while part := link.recv(65536):
                received += part
                if _is_whole(received):
                    break
        except ConnectionError:
            pass
    return _parse(received)


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return body.endswith(b"0\r\n\r\n")
    _, found, length = lower.partition(b"content-length: ")
    return bool(found) and len(body) >= int(length.split(b"\r\n")[0])


def _parse(received: bytes) -> Answer:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return REFUSED
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    answer = Answer(int(first.split(" ")[1]), headers, body)
    if "chunked" in answer.header("transfer-encoding"):
        return Answer(answer.status, headers, _dechunked(body))
    return answer


def _dechunked(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        out, data = out + data[:length], data[length + 2 :]
        if not length:
            break
    return out


def http2(port: int, method: str, path: str, host: str, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> Answer:
    """One request over a connection of its own, prior knowledge, no TLS. Names go out as they are, upper case included."""
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
        normalize_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    pseudo = ((":method", method), (":path", path), (":scheme", "http"), (":authority", host))
    connection.send_headers(1, _block((*pseudo, *headers)), end_stream=not body)
    status, received, content = 0, list[tuple[str, str]](), b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        try:
            left = body
            while True:
                while left and (room := min(connection.local_flow_control_window(1), connection.max_outbound_frame_size)):
                    connection.send_data(1, left[:room], end_stream=room >= len(left) and not trailers)
                    left = left[room:]
                    if not left and trailers:
                        connection.send_headers(1, _block(trailers), end_stream=True)
                link.sendall(connection.data_to_send())
                data = link.recv(65536)
                if not data:
                    return Answer(status, received, content)
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        pairs = [(_text(name), _text(value)) for name, value in event.headers]
                        status, received = int(pairs[0][1]), pairs[1:]
                    elif isinstance(event, h2.events.DataReceived):
                        content += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, 1)
                    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return Answer(status, received, content)
        except ConnectionError:
            return Answer(status, received, content)


def _block(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
