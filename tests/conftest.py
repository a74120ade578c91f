"""Fixtures that every test folder shares: real servers, and waiting without sleeping."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from demo.redis_server import RedisServer, binaries


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--prove-row", default="all", help="run the tests marked prove(row) at their full number")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under `make prove ROW=n` only the tests of that row are run; else all, at their seeded slice."""
    row = os.environ.get("EXTAUTHZ_PROVE")
    if row is None:
        return
    wanted = [item for item in items if (mark := item.get_closest_marker("prove")) and row in ("all", str(mark.args[0]))]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def proving() -> bool:
    """Whether this is `make prove`: full numbers, not the slice."""
    return "EXTAUTHZ_PROVE" in os.environ


_BINARIES = dict(binaries())


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real server for the session; `redis_url` empties it for each test."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a real, empty Redis. Do not stop this server: start one of your own for that."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.script_flush()
    return redis_server.url


@pytest.fixture(scope="session", params=sorted(_BINARIES))
def each_redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Every server this machine has, one after the other: the floor (Redis 6.2), Valkey 9, and what is on PATH."""
    server = RedisServer(tmp_path_factory.mktemp(f"redis-{request.param}"), _BINARIES[request.param])
    yield server
    server.stop()


@pytest.fixture
def each_redis_url(each_redis_server: RedisServer) -> str:
    """The URL of a real, empty server of each kind."""
    with redis.Redis.from_url(each_redis_server.url) as client:
        client.flushall()
        client.script_flush()
    return each_redis_server.url


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return once the condition holds; fail when it does not within the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {timeout_s} s: {condition}")
        time.sleep(0.005)


async def eventually_async(condition: Callable[[], Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """The same for a condition that waits."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {timeout_s} s: {condition}")
        await asyncio.sleep(0.005)


@pytest.fixture
def socket_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a Unix socket (107 bytes)."""
    folder = tmp_path_factory.mktemp("s", numbered=True)
    assert len(str(folder)) < 80, folder
    return folder
