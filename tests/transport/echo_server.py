"""A process that serves the fast transport on uvloop, to be attacked: `python -m tests.transport.echo_server ADDRESS`."""

import asyncio
import sys
from collections.abc import AsyncIterator

import uvloop

from extauthz.transport.fast import FastServer
from extauthz.transport.seam import Services
from tests.transport.core import CHECK, COLLECT


async def echo(message: bytes, _deadline: float) -> bytes:
    return b"echo:" + message


async def collect(messages: AsyncIterator[bytes], _deadline: float) -> bytes:
    return b"%d" % len([message async for message in messages])


def tell(path: str, error: BaseException) -> None:
    print(path, repr(error), flush=True)


async def serve(address: str) -> None:
    server = FastServer(Services(unary={CHECK: echo}, client_stream={COLLECT: collect}), on_bug=tell)
    await server.start(address)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
