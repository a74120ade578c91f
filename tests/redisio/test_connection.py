"""The connection against real servers: commands, scripts, access, and what it says of itself."""

import asyncio
from collections.abc import AsyncIterator
from math import inf

import pytest
import pytest_asyncio

from extauthz.redisio.connection import Connection
from extauthz.redisio.errors import CommandFailed, NotSent
from extauthz.redisio.pipeline import pack
from extauthz.redisio.script import Script
from extauthz.redisio.url import RedisUrl

ECHO = Script("echo", "return {KEYS[1], ARGV[1], 7}")


@pytest_asyncio.fixture
async def connection(each_redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(RedisUrl.parse(each_redis_url), [ECHO])
    await connection.start()
    yield connection
    await connection.close()


async def test_replies_have_the_types_that_are_promised(connection: Connection) -> None:
    assert [
        await connection.execute("SET", "a", 1),
        await connection.execute(b"GET", "a"),
        await connection.execute("INCR", "a"),
        await connection.execute("GET", "absent"),
        await connection.execute("MGET", "a", "absent"),
    ] == [b"OK", b"1", 2, None, [b"2", None]]


async def test_script_is_known_from_the_first_command_on(connection: Connection) -> None:
    command = pack("EVALSHA", ECHO.sha, 1, "k", "v")
    assert await connection.submit(command, inf) == [b"k", b"v", 7]


async def test_script_survives_script_flush_under_load(connection: Connection) -> None:
    await connection.execute("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(connection.run(ECHO, pack("EVALSHA", ECHO.sha, 1, "k", n), inf) for n in range(64)))
    assert [[b"k", str(n).encode(), 7] for n in range(64)] == replies


async def test_error_of_one_command_is_not_the_next_ones(connection: Connection) -> None:
    wrong = connection.submit(pack("NOSUCH", "canary"), inf)
    right = connection.submit(pack("PING"), inf)
    with pytest.raises(CommandFailed) as caught:
        await wrong
    assert caught.value.code == "ERR"
    assert "canary" not in str(caught.value)
    assert await right == b"PONG"


async def test_nothing_is_sent_before_start_or_after_close(redis_url: str) -> None:
    connection = Connection(RedisUrl.parse(redis_url))
    with pytest.raises(NotSent, match="not started"):
        connection.submit(pack("PING"), inf)
    await connection.start()
    assert await connection.execute("PING") == b"PONG"
    await connection.close()
    with pytest.raises(NotSent, match="closed"):
        connection.submit(pack("PING"), inf)
