"""A load client that costs little: HTTP/2 frames encoded beforehand, N connections with M calls in flight each.

It checks every answer: grpc-status 0, a message that is not empty, and in it what the caller expects. `python -m bench.h2_client
--help`.
"""

import argparse
import asyncio
import json
import random
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import hpack
import uvloop
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_FRAME = struct.Struct(">IBI")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 2**31 - 1
#: HEADER_TABLE_SIZE 0 (every block we get stands for itself), INITIAL_WINDOW_SIZE as large as can be.
_SETTINGS = struct.pack(">HIHI", 1, 0, 4, _WINDOW)
_TRACEPARENTS = 2_048
#: Huffman codes of RFC 7541, appendix B, as text.
_CODES = {
    chr(octet): f"{code:0{bits}b}"
    for octet, (code, bits) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
    if octet < 0x80
}
#: Of a gRPC message: compressed flag and length.
_PREFIX_BYTES = 5


@dataclass(frozen=True, slots=True)
class Result:
    """Calls that were answered well, those that were not by what they got, and the time of all."""

    count: int
    elapsed_s: float
    failures: dict[str, int]


async def load(
    address: str,
    path: str,
    messages: bytes | Sequence[bytes],
    *,
    total: int,
    connections: int = 2,
    in_flight: int = 32,
    has_traceparent: bool = False,
    grpc_timeout: str = "5S",
    authority: str = "extauthz",
    expected: Sequence[tuple[bytes, ...]] = ((),),
) -> Result:
    """Send `total` calls and wait for their answers.

    Args:
        address: `unix:PATH` or `HOST:PORT`.
        messages: sent in turn; the connections begin at different ones.
        in_flight: on each connection.
        expected: what must stand in the answer to each message, piece after piece; the last for all messages that follow.
    """
    loop = asyncio.get_running_loop()
    if isinstance(messages, bytes):
        messages = (messages,)
    block = _block(path, grpc_timeout, authority)
    bodies = [struct.pack(">BI", 0, len(message)) + message for message in messages]
    wanted = [expected[min(index, len(expected) - 1)] for index in range(len(bodies))]
    shares = [total // connections + (index < total % connections) for index in range(connections)]
    clients = [
        _Client(
            loop.create_future(),
            (_traced(block, share) if has_traceparent else [block], bodies, wanted),
            share,
            in_flight,
            index * len(bodies) // connections,
        )
        for index, share in enumerate(shares)
        if share
    ]
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


def _block(path: str, timeout: str, authority: str) -> bytes:
    """A header block as Envoy sends it: POST, te, timeout, content-type, its own."""
    start = b"\x83\x86" + b"\x04" + bytes((len(path),)) + path.encode() + b"\x01" + bytes((len(authority),)) + authority.encode()
    start += _literal(b"te", b"trailers") + _literal(b"grpc-timeout", timeout.encode())
    start += b"\x0f\x10\x10application/grpc"
    return start + _literal(b"x-envoy-internal", b"true") + _literal(b"x-forwarded-for", b"10.0.0.1")


def _traced(block: bytes, count: int) -> list[bytes]:
    """Blocks of which no two are the same: with tracing on, each call of Envoy carries a `traceparent` of its own. So many that no
    memory of whole blocks would hold them, and so few that the load does not become slower by them.
    """
    block += b"\0" + _huffman("traceparent")
    values = (f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01" for _ in range(min(count, _TRACEPARENTS)))
    return [block + _huffman(value) for value in values]


def _huffman(text: str) -> bytes:
    bits = "".join(map(_CODES.__getitem__, text))
    bits += "1" * (-len(bits) % 8)
    return bytes((0x80 | len(bits) >> 3,)) + int(bits, 2).to_bytes(len(bits) >> 3, "big")


class _Client(asyncio.Protocol):
    """One connection. Its n-th call has the n-th block and, counted from `first`, the n-th body; both begin anew at the end."""

    def __init__(
        self,
        is_done: asyncio.Future[None],
        calls: tuple[list[bytes], list[bytes], list[tuple[bytes, ...]]],
        share: int,
        in_flight: int,
        first: int,
    ) -> None:
        self.is_done = is_done
        self.good = 0
        self.failures: dict[str, int] = {}
        self._blocks, self._bodies, self._expected = calls
        self._first = first
        self._to_send = share
        self._to_come = share
        self._in_flight = in_flight
        self._next_id = 1
        self._rest = b""
        self._answers: dict[int, bytes] = {}
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
                self._answers[stream_id] = self._answers.get(stream_id, b"") + data[position + 9 : stop]
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
        answer = self._answers.pop(stream_id, b"")
        if status != "0":
            self._fail(f"grpc-status {status}", 1)
        elif len(answer) <= _PREFIX_BYTES:
            self._fail("no message", 1)
        else:
            position = _PREFIX_BYTES
            for part in self._expected[(self._first + (stream_id >> 1)) % len(self._expected)]:
                position = answer.find(part, position)
                if position < 0:
                    self._fail(f"another answer: {answer[:200]!r}", 1)
                    return
            self.good += 1

    def _fail(self, what: str, count: int) -> None:
        self.failures[what] = self.failures.get(what, 0) + count

    def _next(self, count: int) -> bytes:
        """The frames of the next calls."""
        frames: list[bytes] = []
        blocks, bodies = self._blocks, self._bodies
        for _ in range(count):
            stream_id = self._next_id
            self._next_id = stream_id + 2
            block, data = blocks[(stream_id >> 1) % len(blocks)], bodies[(self._first + (stream_id >> 1)) % len(bodies)]
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
