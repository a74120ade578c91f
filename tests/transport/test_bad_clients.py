"""Promise 13: the fourteen kinds of byte strings of gRPC's bad-client programs, written anew, over a real socket.

Each is sent whole, octet by octet, and cut off at its end by a closed connection. The server serves no call that was not one, says
what the case expects, and afterwards serves a good client as before.
"""

import asyncio
from typing import NamedTuple

import pytest

from extauthz.transport.h2 import frames
from extauthz.transport.seam import Services
from tests.transport.conftest import Serve
from tests.transport.core import (
    CHECK,
    COLLECT,
    HELLO,
    SETTINGS_ACK,
    call,
    fields,
    goaway_code,
    headers,
    literal_block,
    message,
    parse,
)

FAR = "/".join(["/test.Service", "x" * 60_000])


class Case(NamedTuple):
    """What is sent, how many calls it makes, and how the server ends the connection (None: it does not)."""

    sent: bytes
    calls: int = 0
    goaway: int | None = None


def block(stream_id: int, data: bytes, flags: int = 4) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream_id, data)


#: By the programs' names.
CASES = {
    "badreq: HTTP/1.1": Case(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", goaway=frames.PROTOCOL_ERROR),
    "badreq: no scheme": Case(HELLO + block(1, literal_block([pair for pair in fields() if pair[0] != ":scheme"]))),
    "bad_streaming_id: an id twice": Case(HELLO + call(1) + headers(1), calls=1, goaway=frames.STREAM_CLOSED),
    "connection_prefix: cut and wrong": Case(frames.PREFACE[:-4] + b"XX\r\n", goaway=frames.PROTOCOL_ERROR),
    "duplicate_header: content-length twice": Case(
        HELLO + headers(1, ("content-length", "9"), ("content-length", "8")) + message(1)
    ),
    "headers: broken block": Case(HELLO + block(1, b"\x00\x7f\xff\xff\xff\xff\xff\xff"), goaway=frames.COMPRESSION_ERROR),
    "headers: an index of no field": Case(HELLO + block(1, b"\xff\x80\x01"), goaway=frames.COMPRESSION_ERROR),
    "head_of_line_blocking: a message never whole": Case(
        HELLO + headers(1) + frames.frame(frames.DATA, 0, 1, b"\0\0\0\xff\xff" + b"x" * 1_000) + call(3) + call(5), calls=2
    ),
    "initial_settings_frame: bad values": Case(frames.PREFACE + frames.settings({5: 1}), goaway=frames.PROTOCOL_ERROR),
    "initial_settings_frame: bad size": Case(frames.PREFACE + frames.frame(4, 0, 0, b"12345"), goaway=frames.FRAME_SIZE_ERROR),
    "initial_settings_frame: none": Case(frames.PREFACE + call(1), goaway=frames.PROTOCOL_ERROR),
    "large_metadata": Case(HELLO + block(1, literal_block(fields(CHECK, ("x-long", "~" * 9_000)))[:16_000], flags=5)),
    "out_of_bounds: a frame larger than allowed": Case(HELLO + b"\xff\xff\xff\0\0\0\0\0\1", goaway=frames.FRAME_SIZE_ERROR),
    "server_registered_method: a path beyond every bound": Case(
        HELLO + block(1, b"\x83\x86\x04\x7f\xe1\xd3\x03" + b"x" * 16_000, flags=5), goaway=frames.COMPRESSION_ERROR
    ),
    "simple_request: good, padded, prioritised": Case(
        HELLO
        + block(1, b"\x02" + b"\0\0\0\0\x10" + literal_block(fields()) + b"\0\0", flags=4 | 8 | 32)
        + frames.frame(frames.DATA, 1 | 8, 1, b"\x03\0\0\0\0\4ping\0\0\0"),
        calls=1,
    ),
    "simple_request: DATA beyond its END_STREAM": Case(HELLO + call(1) + frames.rst_stream(1, 8), calls=1),
    "unknown_frame": Case(HELLO + frames.frame(77, 255, 1, b"anything") + call(1), calls=1),
    "window_overflow": Case(
        HELLO + headers(1, path=COLLECT) + b"".join(frames.frame(0, 0, 1, b"\0\0\4\0\0" + b"x" * 16_000) for _ in range(20))
    ),
}


class Counting:
    """A service that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def check(self, message: bytes, _deadline: float) -> bytes:
        self.calls += 1
        return b"pong:" + message

    async def collect(self, messages: object, _deadline: float) -> bytes:
        async for _ in messages:  # type: ignore[attr-defined]
            pass
        return b"done"

    def services(self) -> Services:
        return Services(unary={CHECK: self.check}, client_stream={COLLECT: self.collect})


async def exchange(address: str, pieces: list[bytes]) -> bytes:
    """Send the pieces, then end, and read until the server ends too."""
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    received = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        received = await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        pass
    finally:
        writer.close()
    return received


@pytest.mark.prove(13)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cut", ["whole", "octets"])
async def test_a_bad_client_is_told_and_others_are_served(serve: Serve, unix_address: str, case: str, cut: str) -> None:
    service = Counting()
    served = await serve("fast", service.services(), unix_address)
    sent, calls, goaway = CASES[case]
    pieces = [sent] if cut == "whole" else [sent[at : at + 1] for at in range(min(len(sent), 3_000))] + [sent[3_000:]]
    received = await exchange(unix_address, pieces)
    assert service.calls == calls
    if goaway is not None and received:
        assert goaway_code(parse(received)) == goaway
    assert served.bugs == []
    good = await exchange(unix_address, [HELLO + SETTINGS_ACK + call(1, b"still")])
    assert b"pong:still" in good


def test_there_are_at_least_fourteen_cases() -> None:
    assert len(CASES) >= 14
    assert len({name.partition(":")[0] for name in CASES}) >= 12
