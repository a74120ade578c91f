"""Both event loops that ever run this code, a server to be mistreated, and connections that are closed whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from demo.redis_server import RedisServer
from extauthz.redisio.connection import Connection
from extauthz.redisio.script import Script
from extauthz.redisio.url import RedisUrl

Connect = Callable[..., Awaitable[Connection]]
Serve = Callable[..., RedisServer]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("asyncio_loop_only"):
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(port=…, options=…)`: a server of this test alone, that may be stopped, killed and restarted."""
    started: list[RedisServer] = []

    def serve(binary: Path | None = None, port: int = 0, options: tuple[str, ...] = ()) -> RedisServer:
        started.append(RedisServer(tmp_path / f"redis-{len(started)}", binary, port, options))
        return started[-1]

    yield serve
    for server in started:
        server.stop()


@pytest.fixture
def own_server(serve: Serve) -> RedisServer:
    """One of those."""
    return serve()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(url, scripts, timeout_s)`: a started connection."""
    started: list[Connection] = []

    async def connect(url: str, scripts: Sequence[Script] = (), timeout_s: float = 0.25) -> Connection:
        connection = Connection(RedisUrl.parse(url), scripts, timeout_s=timeout_s)
        started.append(connection)
        await connection.start()
        return connection

    yield connect
    for connection in started:
        await connection.close()
