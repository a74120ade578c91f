"""A client of the sans-IO core: frames in, frames out, no sockets, and time as a number."""

from typing import Any

import hpack

from extauthz.transport.h2 import frames
from extauthz.transport.h2.connection import Connection
from extauthz.transport.h2.limits import Limits
from extauthz.transport.h2.request import Kind, Route
from extauthz.transport.h2.streams import Message, Stream

CHECK = "/test.Service/Check"
COLLECT = "/test.Service/Collect"
WATCH = "/test.Service/Watch"
ROUTES = {
    CHECK.encode(): Route(CHECK, Kind.UNARY, None),
    COLLECT.encode(): Route(COLLECT, Kind.CLIENT_STREAM, None),
    WATCH.encode(): Route(WATCH, Kind.SERVER_STREAM, None),
}
HELLO = frames.PREFACE + frames.settings({})
SETTINGS_ACK = frames.SETTINGS_ACK


def fields(path: str = CHECK, *more: tuple[str, str], method: str = "POST") -> list[tuple[str, str]]:
    """The header list of a call, as Envoy orders it."""
    start = [(":method", method), (":path", path), (":authority", "x"), (":scheme", "http"), ("te", "trailers")]
    return [*start, ("content-type", "application/grpc"), *more]


def literal_block(pairs: list[tuple[str, str]]) -> bytes:
    """A block of literals that are never indexed: it means the same in any state."""
    return hpack.Encoder().encode([(name, value, True) for name, value in pairs], huffman=True)


def headers(stream_id: int, *more: tuple[str, str], path: str = CHECK, flags: int = frames.END_HEADERS) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream_id, literal_block(fields(path, *more)))


def message(stream_id: int, data: bytes = b"ping", flags: int = frames.END_STREAM) -> bytes:
    return frames.frame(frames.DATA, flags, stream_id, b"\0" + len(data).to_bytes(4, "big") + data)


def call(stream_id: int, data: bytes = b"ping") -> bytes:
    """A whole unary call."""
    return headers(stream_id) + message(stream_id, data)


def parse(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of every frame; the data must end with one."""
    found, position = [], 0
    while position < len(data):
        word, flags, stream_id = frames.FRAME_HEADER.unpack_from(data, position)
        stop = position + 9 + (word >> 8)
        assert stop <= len(data), "a frame is cut off"
        found.append((word & 0xFF, flags, stream_id, data[position + 9 : stop]))
        position = stop
    return found


class Core:
    """A connection and a record of what it called.

    Args:
        reply: what a unary handler answers at once; None: it works until `answer` is called.
        is_stubborn: whether a cancelled handler goes on working until `release` is called.
    """

    new_stream = Stream

    def __init__(self, reply: bytes | None = b"pong", *, is_stubborn: bool = False, **limits: Any) -> None:
        self.reply = reply
        self.is_stubborn = is_stubborn
        self.started: list[tuple[int, bytes]] = []
        self.received: list[tuple[int, bytes]] = []
        self.taken: list[tuple[Stream, Message]] = []
        self.opened: list[Stream] = []
        self.ended: list[int] = []
        self.cancelled: list[Stream] = []
        self.running: dict[int, Stream] = {}
        self.now = 0.0
        self._decoder = hpack.Decoder()
        self.connection: Connection[Stream] = Connection(self, ROUTES, Limits(**limits), 0.0)

    # -- what the connection calls

    def start(self, stream: Stream, data: bytes) -> None:
        self.started.append((stream.id, data))
        if self.reply is None or stream.request.kind is not Kind.UNARY:
            self.running[stream.id] = stream
        else:
            self.connection.answer(stream, self.reply)

    def open(self, stream: Stream) -> None:
        self.opened.append(stream)
        self.running[stream.id] = stream

    def receive(self, stream: Stream, data: Message) -> None:
        self.received.append((stream.id, data.data))
        self.taken.append((stream, data))

    def end(self, stream: Stream) -> None:
        self.ended.append(stream.id)

    def cancel(self, stream: Stream) -> None:
        self.cancelled.append(stream)
        self.running.pop(stream.id, None)
        if not self.is_stubborn:
            self.connection.release(stream)

    def writable(self, stream: Stream) -> None:
        pass

    # -- what a test does

    def feed(self, *data: bytes, after_s: float = 0.0) -> list[tuple[int, int, int, bytes]]:
        """Hand bytes over and take the frames that come back."""
        self.now += after_s
        for piece in data:
            self.connection.receive(piece, self.now)
        return self.output()

    def output(self) -> list[tuple[int, int, int, bytes]]:
        return parse(self.connection.take_output())

    def shaken(self) -> "Core":
        """Past the greeting, one call done and our empty header table acknowledged: as a connection mostly is."""
        self.feed(HELLO + SETTINGS_ACK)
        reply, self.reply = self.reply, b"pong"
        self.feed(call(1))
        self.feed(SETTINGS_ACK)
        self.reply = reply
        self.started.clear()
        return self

    def fields_of(self, payload: bytes) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(payload)}

    def statuses(self, found: list[tuple[int, int, int, bytes]]) -> dict[int, str]:
        """grpc-status by stream, of the header blocks that end one."""
        ends = [(stream_id, payload) for kind, flags, stream_id, payload in found if kind == 1 and flags & frames.END_STREAM]
        return {stream_id: self.fields_of(payload).get("grpc-status", "none") for stream_id, payload in ends}

    def resets(self, found: list[tuple[int, int, int, bytes]]) -> dict[int, int]:
        return {stream_id: int.from_bytes(payload, "big") for kind, _, stream_id, payload in found if kind == frames.RST_STREAM}


def goaway_code(found: list[tuple[int, int, int, bytes]]) -> int | None:
    """The code of a GOAWAY among the frames."""
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in found if kind == frames.GOAWAY]
    return codes[-1] if codes else None
