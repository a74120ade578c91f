"""Both transports as one fixture, and what a client needs to reach them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio
import pytest
import uvloop

from demo.processes import free_port
from extauthz.transport.fast import FastServer
from extauthz.transport.grpcio_server import GrpcioServer
from extauthz.transport.seam import Services

#: The loops a file's tests run on: uvloop is what serves; the shell must keep its word on both.
_LOOPS: dict[str, tuple[str, ...]] = {
    "test_fast": ("asyncio", "uvloop"),
    "test_interop": ("uvloop",),
    "test_conformance": ("uvloop",),
}
_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    return {name: _FACTORIES[name] for name in _LOOPS.get(item.path.stem, ("asyncio",))}


TRANSPORTS: dict[str, Any] = {"fast": FastServer, "grpcio": GrpcioServer}


class Served:
    """A running server, where it listens, and the bugs it told of."""

    def __init__(self, server: Any, address: str, bugs: list[tuple[str, BaseException]]) -> None:
        self.server = server
        self.address = address
        self.bugs = bugs

    def channel(self, **options: Any) -> Any:
        """A channel of grpcio's client; close it with `async with`."""
        return grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)], **options)


Serve: TypeAlias = Callable[..., Awaitable[Served]]


@pytest.fixture(params=["fast", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, socket_folder: Path) -> str:
    """A Unix socket and a TCP port in turn."""
    return f"unix:{socket_folder}/x.sock" if request.param == "unix" else f"127.0.0.1:{free_port()}"


@pytest.fixture
def unix_address(socket_folder: Path) -> str:
    return f"unix:{socket_folder}/x.sock"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server: `await serve("fast", services, address)`. It is closed when the test ends."""
    running: list[Any] = []

    async def start(transport: str, services: Services, address: str, **options: Any) -> Served:
        bugs: list[tuple[str, BaseException]] = []
        server = TRANSPORTS[transport](services, on_bug=lambda path, error: bugs.append((path, error)), **options)
        running.append(server)
        await server.start(address)
        return Served(server, address, bugs)

    yield start
    for server in running:
        await server.close()
    await asyncio.sleep(0)
