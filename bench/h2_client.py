"""A load client that costs little: HTTP/2 frames encoded beforehand, N connections with M calls in flight each.

It checks every answer: grpc-status 0 and a message that is not empty. `python -m bench.h2_client --help`.
"""

import argparse
import asyncio
import json
import random
import struct
import time
from dataclasses import dataclass
from typing import cast

import hpack
import uvloop

_FRAME = struct.Struct(">IBI")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 2**31 - 1
#: HEADER_TABLE_SIZE 0 (every block we get stands for itself), INITIAL_WINDOW_SIZE as large as can be.
_SETTINGS = struct.pack(">HIHI", 1, 0, 4, _WINDOW)
_TRACEPARENTS = 8_192


@dataclass(frozen=True, slots=True)
class Result:
    """Calls that were answered well, those that were not by what they got, and the time of all."""

    count: int
    elapsed_s: float
    failures: dict[str, int]


async def load(
    address: str,
    path: str,
    message: bytes,
    *,
    total: int,
    connections: int = 2,
    in_flight: int = 32,
    has_traceparent: bool = False,
    grpc_timeout: str = "5S",
    authority: str = "extauthz",
) -> Result:
    """Send `total` calls and wait for their answers. `address` is `unix:PATH` or `HOST:PORT`."""
    loop = asyncio.get_running_loop()
    requests = _requests(path, message, grpc_timeout, authority, has_traceparent=has_traceparent)
    shares = [total // connections + (index < total % connections) for index in range(connections)]
    clients = [_Client(loop.create_future(), requests, share, in_flight) for share in shares if share]
    begun = time.perf_counter()
    for client in clients:
        if address.startswith("unix:"):
            await loop.create_unix_connection(lambda client=client: client, address.removeprefix("unix:"))  # type: ignore[misc]
        else:
            host, _, port = address.rpartition(":")
            await loop.create_connection(lambda client=client: client, host, int(port))  # type: ignore[misc]
    await asyncio.gather(*(client.is_done for client in clients))
    elapsed_s = time.perf_counter() - begun
    failures: dict[str, int] = {}
    for client in clients:
        client.close()
        for what, count in client.failures.items():
            failures[what] = failures.get(what, 0) + count
    return Result(sum(client.good for client in clients), elapsed_s, failures)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _huffman(text: bytes) -> bytes:
    encoder = hpack.hpack.Encoder().huffman_coder
    code: bytes = encoder.encode(text)
    return bytes((0x80 | len(code),)) + code


def _requests(path: str, message: bytes, timeout: str, authority: str, *, has_traceparent: bool) -> list[tuple[bytes, bytes]]:
    """Header blocks (as Envoy sends them: POST, te, timeout, content-type, its own), and the DATA payload."""
    start = b"\x83\x86" + b"\x04" + bytes((len(path),)) + path.encode() + b"\x01" + bytes((len(authority),)) + authority.encode()
    start += _literal(b"te", b"trailers") + _literal(b"grpc-timeout", timeout.encode())
    start += b"\x0f\x10\x10application/grpc"
    end = _literal(b"x-envoy-internal", b"true") + _literal(b"x-forwarded-for", b"10.0.0.1")
    data = struct.pack(">BI", 0, len(message)) + message
    if not has_traceparent:
        return [(start + end, data)]
    name = b"\0" + _huffman(b"traceparent")
    values = (f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01".encode() for _ in range(_TRACEPARENTS))
    return [(start + name + _huffman(value) + end, data) for value in values]


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, is_done: asyncio.Future[None], requests: list[tuple[bytes, bytes]], share: int, in_flight: int) -> None:
        self.is_done = is_done
        self.good = 0
        self.failures: dict[str, int] = {}
        self._requests = requests
        self._to_send = share
        self._to_come = share
        self._in_flight = in_flight
        self._next_id = 1
        self._rest = b""
        self._with_message: set[int] = set()
        self._statuses: dict[bytes, str] = {}
        self._decoder = hpack.Decoder()
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        hello = _PREFACE + _frame(4, 0, 0, _SETTINGS) + _frame(8, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        self._transport.write(hello + self._next(min(self._in_flight, self._to_send)))

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_done.done():
            self._fail(f"connection lost: {exc}", self._to_come)
            self.is_done.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position, end, ended, extra = 0, len(data), 0, []
        while end - position >= 9:
            word, flags, stream_id = _FRAME.unpack_from(data, position)
            stop = position + 9 + (word >> 8)
            if stop > end:
                break
            kind = word & 0xFF
            if kind == 0:
                self._received += stop - position - 9
                if stop - position > 9 + 5:
                    self._with_message.add(stream_id)
            elif kind == 1 and flags & 1:
                ended += 1
                self._judge(stream_id, data[position + 9 : stop])
            elif kind == 3:
                ended += 1
                self._fail(f"reset {data[stop - 1]}", 1)
            elif kind == 4 and not flags & 1:
                extra.append(_frame(4, 1, 0, b""))
            elif kind == 6 and not flags & 1:
                extra.append(_frame(6, 1, 0, data[position + 9 : stop]))
            elif kind == 7:
                self._fail(f"goaway {data[position + 17 : stop]!r}", 0)
            position = stop
        self._rest = data[position:]
        if self._received > 2**30:
            extra.append(_frame(8, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        out = b"".join(extra) + self._next(min(ended, self._to_send))
        if out:
            self._transport.write(out)
        self._to_come -= ended
        if self._to_come <= 0 and not self.is_done.done():
            self.is_done.set_result(None)

    def _judge(self, stream_id: int, block: bytes) -> None:
        status = self._statuses.get(block)
        if status is None:
            fields = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
            status = self._statuses[block] = fields.get(b"grpc-status", b"none").decode()
        if status == "0" and stream_id in self._with_message:
            self.good += 1
        else:
            self._fail(f"grpc-status {status}" if status != "0" else "no message", 1)
        self._with_message.discard(stream_id)

    def _fail(self, what: str, count: int) -> None:
        self.failures[what] = self.failures.get(what, 0) + count

    def _next(self, count: int) -> bytes:
        """The frames of the next calls."""
        frames: list[bytes] = []
        requests = self._requests
        for _ in range(count):
            stream_id = self._next_id
            self._next_id = stream_id + 2
            block, data = requests[(stream_id >> 1) % len(requests)]
            frames += (_FRAME.pack(len(block) << 8 | 1, 4, stream_id), block, _FRAME.pack(len(data) << 8, 1, stream_id), data)
        self._to_send -= count
        return b"".join(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="unix:PATH or HOST:PORT")
    parser.add_argument("--path", default="/envoy.service.auth.v3.Authorization/Check")
    parser.add_argument("--message-hex", default="00" * 64)
    parser.add_argument("--total", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--traceparent", action="store_true")
    given = parser.parse_args()
    result = uvloop.run(
        load(
            given.address,
            given.path,
            bytes.fromhex(given.message_hex),
            total=given.total,
            connections=given.connections,
            in_flight=given.in_flight,
            has_traceparent=given.traceparent,
        )
    )
    print(json.dumps({"count": result.count, "elapsed_s": result.elapsed_s, "failures": result.failures}))


if __name__ == "__main__":
    main()
