"""Admission over the worker's own connection: the packed command, the reply, and what is counted when something goes wrong."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import pytest

from demo.redis_server import RedisServer
from extauthz import keyspace
from extauthz.admission.admit import Admission, prepare
from extauthz.admission.reply import ADMITTED, DENIED, STALE
from extauthz.admission.script import ADMIT
from extauthz.errors import Unavailable
from extauthz.redisio.connection import Connection
from extauthz.redisio.errors import CommandFailed, NotSent, OutcomeUnknown, ServerBusy
from extauthz.redisio.url import RedisUrl
from tests.oracles.admission import KEY, KEY_EPOCH_KEY, PROVIDER, TENANT, TENANT_EPOCH_KEY, rule
from tests.redisio.proxy import Proxy

HOUR = 3_600_000
RULES = (rule("a", 100, HOUR), rule("b", 50, HOUR, algorithm="sliding", level="global"))
PREPARED = prepare(TENANT, b"1.a", KEY, b"1.b", PROVIDER, RULES)


async def connected(url: str) -> Connection:
    connection = Connection(RedisUrl.parse(url), (ADMIT,), timeout_s=5.0)
    await connection.start()
    await connection.execute("MSET", TENANT_EPOCH_KEY, "1.a", KEY_EPOCH_KEY, "1.b")
    return connection


@pytest.fixture
async def connection(each_redis_url: str) -> AsyncIterator[Connection]:
    connection = await connected(each_redis_url)
    yield connection
    await connection.close()


def test_the_command_is_packed_once_and_whole() -> None:
    reader = hiredis.Reader()
    reader.feed(PREPARED.command)
    name, sha, count, *words = reader.gets()
    assert (name, sha, count) == (b"EVALSHA", ADMIT.sha.encode(), b"5")
    assert words[:3] == [TENANT_EPOCH_KEY, KEY_EPOCH_KEY, keyspace.tenant_breaker(TENANT, PROVIDER)]
    assert words[3:7] == [RULES[0].key, RULES[1].key, b"1.a", b"1.b"]
    assert len(words[7]) == 2 * 25
    assert (PREPARED.rules, PREPARED.providers) == (RULES, (PROVIDER,))


async def test_a_reply_is_a_short_list_of_numbers(connection: Connection) -> None:
    admission = Admission(connection)
    assert await admission.admit(PREPARED, math.inf) == [ADMITTED, 1, 49, 2 * HOUR]
    await connection.execute("SET", KEY_EPOCH_KEY, "2.b")
    assert await admission.admit(PREPARED, math.inf) == [STALE]


async def test_a_flushed_script_is_loaded_again_and_counts_once(connection: Connection) -> None:
    await connection.execute("SCRIPT", "FLUSH")
    assert await Admission(connection).admit(PREPARED, math.inf) == [ADMITTED, 1, 49, 2 * HOUR]


async def test_a_broken_counter_is_an_error_and_counts_nothing(connection: Connection) -> None:
    await connection.execute("SET", RULES[1].key, "x")
    with pytest.raises(CommandFailed):
        await Admission(connection).admit(PREPARED, math.inf)
    assert await connection.execute("EXISTS", RULES[0].key) == 0


async def test_a_full_redis_is_an_error_and_counts_nothing(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    connection = await connected(server.url)
    admission = Admission(connection)
    assert (await admission.admit(PREPARED, math.inf))[0] == ADMITTED
    await connection.execute("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ServerBusy) as caught:
        await admission.admit(PREPARED, math.inf)
    assert caught.value.code == "OOM"
    await connection.execute("CONFIG", "SET", "maxmemory", "0")
    assert await connection.execute("GETRANGE", RULES[0].key, 14, -1) == b"1"
    await connection.close()
    server.stop()


async def test_a_replica_admits_nothing(each_redis_url: str) -> None:
    connection = await connected(each_redis_url)
    await connection.execute("REPLICAOF", "127.0.0.1", "1")
    try:
        for prepared in (PREPARED, prepare(TENANT, b"1.a", KEY, b"1.b", PROVIDER, ())):
            with pytest.raises(ServerBusy) as caught:
                await Admission(connection).admit(prepared, math.inf)
            assert caught.value.code in {"READONLY", "MASTERDOWN"}
            await connection.close()
            connection = Connection(RedisUrl.parse(each_redis_url), (ADMIT,), timeout_s=5.0)
            await connection.start()
    finally:
        await connection.execute("REPLICAOF", "NO", "ONE")
        await connection.close()


async def test_a_redis_that_is_gone_is_unavailable_and_nothing_was_sent(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    connection = await connected(server.url)
    server.stop()
    with pytest.raises(Unavailable):
        await Admission(connection).admit(PREPARED, math.inf)
    with pytest.raises(NotSent):
        await Admission(connection).admit(PREPARED, math.inf)
    await connection.close()


async def test_an_emptied_redis_admits_nothing(connection: Connection) -> None:
    await connection.execute("FLUSHALL")
    assert await Admission(connection).admit(PREPARED, math.inf) == [STALE]


async def test_a_cancelled_request_is_counted_at_most_once_and_moves_no_reply(connection: Connection) -> None:
    admission = Admission(connection)
    tasks = [asyncio.ensure_future(admission.admit(PREPARED, math.inf)) for _ in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer[2] for answer in answers if isinstance(answer, list)] == list(range(48, 9, -2))
    assert await connection.execute("GETRANGE", RULES[0].key, 14, -1) == b"40"


async def test_a_lost_reply_is_unknown_and_its_request_was_counted_once_and_is_not_sent_again(each_redis_url: str) -> None:
    direct = await connected(each_redis_url)
    async with Proxy(RedisUrl.parse(each_redis_url).port) as proxy:
        lossy = await connected(proxy.url)
        proxy.swallow = True
        deadline = asyncio.get_running_loop().time() + 0.2
        lost = await asyncio.gather(*(Admission(lossy).admit(PREPARED, deadline) for _ in range(30)), return_exceptions=True)
        assert [type(each) for each in lost] == [OutcomeUnknown] * 30
        proxy.swallow = False
        proxy.cut()
        assert await direct.execute("GETRANGE", RULES[0].key, 14, -1) == b"30"
        await lossy.close()
    assert (await Admission(direct).admit(PREPARED, math.inf))[:3] == [ADMITTED, 1, 19]
    await direct.close()


@pytest.mark.prove(33)
async def test_after_a_revoke_has_returned_no_request_with_the_old_documents_is_counted(each_redis_url: str, proving: bool) -> None:
    """Four workers under load; the epoch changes; whatever is sent from then on is stale."""
    workers = [await connected(each_redis_url) for _ in range(4)]
    operator = await connected(each_redis_url)
    roomy = prepare(TENANT, b"1.a", KEY, b"1.b", PROVIDER, (rule("a", 2**31, HOUR),))
    under_load, revoked = asyncio.Event(), asyncio.Event()
    after: list[list[int]] = []
    count = 0

    async def load(worker: Connection) -> None:
        nonlocal count
        while len(after) < (10_000 if proving else 2_000):
            is_revoked = revoked.is_set()
            reply = await Admission(worker).admit(roomy, math.inf)
            count += reply[0] == ADMITTED
            if count == 1_000:
                under_load.set()
            if is_revoked:
                after.append(reply)

    tasks = [asyncio.ensure_future(load(worker)) for worker in workers for _ in range(16)]
    await under_load.wait()
    await operator.execute("DEL", KEY_EPOCH_KEY)
    revoked.set()
    await asyncio.gather(*tasks)
    assert [reply for reply in after if reply != [STALE]] == []
    print(f"revocation: {count} admitted before, 0 of {len(after)} after")
    for each in (*workers, operator):
        await each.close()


async def test_a_denial_tells_the_rule_the_room_and_the_waits(connection: Connection) -> None:
    admission = Admission(connection)
    replies = [await admission.admit(PREPARED, math.inf) for _ in range(51)]
    assert [reply[:3] for reply in replies[:50]] == [[ADMITTED, 1, room] for room in range(49, -1, -1)]
    status, index, remaining, reset_ms, retry_ms = replies[50]
    assert (status, index, remaining) == (DENIED, 1, 0)
    # The fifty weigh forty-nine a fiftieth into the next window.
    assert HOUR < retry_ms <= HOUR + HOUR // 50 + 60 < reset_ms <= 2 * HOUR
