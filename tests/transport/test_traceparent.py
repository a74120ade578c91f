"""A handler that asks for it is given the traceparent of its own call, on both transports; nobody else is given anything."""

import asyncio
from typing import Any

import pytest

from extauthz.transport.h2.request import Kind, Route, request_of
from extauthz.transport.seam import Services, takes_traceparent
from tests.transport.conftest import Serve, Served

TRACED, PLAIN = "/test.Service/Traced", "/test.Service/Plain"


class Traced:
    """Answers with what it was given."""

    takes_traceparent = True

    async def __call__(self, message: bytes, _deadline: float, traceparent: str = "") -> bytes:
        await asyncio.sleep(0)
        return message + b"|" + traceparent.encode()


async def plain(message: bytes, _deadline: float) -> bytes:
    return message + b"|plain"


async def served(serve: Serve, transport: str, address: str) -> Served:
    return await serve(transport, Services(unary={TRACED: Traced(), PLAIN: plain}), address)


def traceparent(number: int) -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


async def test_each_call_gets_its_own_in_turn_and_at_once(serve: Serve, transport: str, unix_address: str) -> None:
    channel = (await served(serve, transport, unix_address)).channel()
    traced, other = channel.unary_unary(TRACED), channel.unary_unary(PLAIN)

    async def ask(number: int) -> None:
        told = (("traceparent", traceparent(number)), ("tracestate", f"vendor={number}"))
        assert await traced(b"%d" % number, metadata=told) == b"%d|%s" % (number, traceparent(number).encode())
        assert await other(b"%d" % number, metadata=told) == b"%d|plain" % number

    for number in range(20):
        await ask(number)
    await asyncio.gather(*(ask(number) for number in range(20, 220)))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ((), ""),
        ((("traceparent", "junk"),), "junk"),
        ((("tracestate", "vendor=1"),), ""),
    ],
    ids=["none", "junk", "another"],
)
async def test_one_that_is_not_there_is_empty(
    serve: Serve, transport: str, unix_address: str, metadata: Any, expected: str
) -> None:
    traced = (await served(serve, transport, unix_address)).channel().unary_unary(TRACED)
    for _ in range(3):
        assert await traced(b"x", metadata=metadata) == b"x|" + expected.encode()


async def test_two_are_none() -> None:
    """The core's own rule: grpcio's client sends the last of two."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", TRACED.encode()), (b"content-type", b"application/grpc")]
    sent = [(b"traceparent", traceparent(number).encode()) for number in range(2)]
    routes = {TRACED.encode(): Route(TRACED, Kind.UNARY, Traced())}
    for count, expected in ((0, b""), (1, sent[0][1]), (2, b"")):
        request = request_of([*fields, *sent[:count]], routes)
        assert (await request.handler(b"x", 0.0), request.is_of_one_call) == (b"x|" + expected, True)


def test_only_who_says_so_takes_it() -> None:
    assert takes_traceparent(Traced())
    assert not takes_traceparent(plain)
