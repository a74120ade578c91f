import asyncio
import gc
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from extauthz import keyspace
from extauthz.errors import Missing, Unavailable
from extauthz.record.server import Server
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from extauthz.tenants import api_key
from extauthz.tenants.cache import ALARMS_LOGGED_PER_S, UNKNOWN_MAX, UNKNOWN_S, Identities
from extauthz.tenants.documents import decode_key, decode_tenant, encode_key, encode_tenant
from extauthz.tenants.epochs import epoch_of
from tests.conftest import eventually_async
from tests.harness.record import MadeKey, Record, opened_record


class Counted:
    """The real connection; it counts what is asked of it, and can keep an answer back."""

    def __init__(self, real: Connection) -> None:
        self._real = real
        self.commands = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def execute(self, *args: bytes | str | int, deadline: float | None = None) -> Any:
        self.commands += 1
        answer = await self._real.execute(*args, deadline=deadline)
        await self.gate.wait()
        return answer


class World:
    """Identities on a real Redis, and the hands that change what is published there."""

    def __init__(self, redis: Counted, record: Record, held_max: int = 1_000) -> None:
        self.redis = redis
        self.record = record
        self.now = 1_000.0
        self.identities = Identities(redis, lambda: self.now, held_max)

    async def made(self, tenant: str = "acme") -> MadeKey:
        await self.record.tenant(tenant)
        return await self.record.key(tenant)

    async def execute(self, *args: bytes | str | int) -> Any:
        server: Server = self.record.server
        return await server.execute(*args)


@pytest.fixture
async def world(redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    connection = Connection(RedisUrl.parse(redis_url), timeout_s=2.0)
    await connection.start()
    async with opened_record(redis_url, tmp_path) as record:
        yield World(Counted(connection), record)
    await connection.close()


async def test_what_was_read_is_in_memory_by_the_whole_digest(world: World) -> None:
    key = await world.made()
    assert world.identities.cached(key.digest) is None
    identity = await world.identities.load(key.digest, key.key_id)
    assert (identity.tenant.tenant_id, identity.key.key_id, identity.confirmed_at) == ("acme", key.key_id, 1_000.0)
    assert world.identities.cached(key.digest) is identity
    for bit in range(256):
        other = bytearray(key.digest)
        other[bit // 8] ^= 1 << bit % 8
        assert world.identities.cached(bytes(other)) is None


async def test_all_who_ask_at_one_time_share_one_reading(world: World) -> None:
    key = await world.made()
    found = await asyncio.gather(*(world.identities.load(key.digest, key.key_id) for _ in range(50)))
    assert world.redis.commands == 2
    assert len({id(identity) for identity in found}) == 1


async def test_the_reading_outlives_the_caller_that_began_it(world: World) -> None:
    key = await world.made()
    world.redis.gate.clear()
    first = asyncio.ensure_future(world.identities.load(key.digest, key.key_id))
    second = asyncio.ensure_future(world.identities.load(key.digest, key.key_id))
    await asyncio.sleep(0)
    first.cancel()
    world.redis.gate.set()
    assert (await second).key.key_id == key.key_id
    assert first.cancelled()
    assert world.redis.commands == 2


async def test_an_error_is_everybodys_and_is_not_remembered(world: World) -> None:
    key = await world.made()
    document = await world.execute("GET", keyspace.tenant_document("acme"))
    await world.execute("SET", keyspace.tenant_document("acme"), b"junk")
    failed = await asyncio.gather(*(world.identities.load(key.digest, key.key_id) for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in failed] == [Unavailable] * 5
    await world.execute("SET", keyspace.tenant_document("acme"), document)
    assert (await world.identities.load(key.digest, key.key_id)).key.key_id == key.key_id


async def test_an_unknown_key_is_not_asked_for_again_within_a_second_and_then_is(world: World) -> None:
    await world.made()
    text, key_id, digest = api_key.mint("test")
    assert text
    for _ in range(3):
        with pytest.raises(Missing):
            await world.identities.load(digest, key_id)
    assert world.redis.commands == 1
    world.now += UNKNOWN_S - 0.001
    with pytest.raises(Missing):
        await world.identities.load(digest, key_id)
    assert world.redis.commands == 1
    world.now += 0.001
    with pytest.raises(Missing):
        await world.identities.load(digest, key_id)
    assert world.redis.commands == 2


async def test_a_key_that_was_unknown_is_found_a_second_after_it_was_made(world: World) -> None:
    key = await world.made()
    index = await world.execute("GETDEL", keyspace.key_index(key.digest))
    with pytest.raises(Missing):
        await world.identities.load(key.digest, key.key_id)
    await world.execute("SET", keyspace.key_index(key.digest), index)
    world.now += UNKNOWN_S
    assert (await world.identities.load(key.digest, key.key_id)).key.key_id == key.key_id


async def test_what_is_remembered_of_unknown_keys_is_bounded(world: World) -> None:
    await world.made()
    world.identities._unknown.update({number.to_bytes(32, "big"): world.now + 1 for number in range(UNKNOWN_MAX)})
    _, key_id, digest = api_key.mint("test")
    with pytest.raises(Missing):
        await world.identities.load(digest, key_id)
    assert len(world.identities._unknown) == UNKNOWN_MAX
    assert digest in world.identities._unknown


async def test_at_the_bound_the_identity_read_longest_ago_makes_room(world: World) -> None:
    world.identities = Identities(world.redis, lambda: world.now, 3)
    made = [await world.made(f"tenant-{number}") for number in range(4)]
    for key in made:
        await world.identities.load(key.digest, key.key_id)
    assert len(world.identities) == 3
    assert [world.identities.cached(key.digest) is None for key in made] == [True, False, False, False]
    await world.identities.load(made[1].digest, made[1].key_id)
    assert len(world.identities) == 3


async def test_a_known_key_that_is_gone_is_forgotten(world: World) -> None:
    key = await world.made()
    await world.identities.load(key.digest, key.key_id)
    await world.execute("DEL", keyspace.key_index(key.digest))
    with pytest.raises(Missing):
        await world.identities.load(key.digest, key.key_id)
    assert world.identities.cached(key.digest) is None


@pytest.mark.parametrize("of", ["tenant", "key"])
async def test_a_version_that_goes_back_is_unavailable_and_told(world: World, of: str, caplog: pytest.LogCaptureFixture) -> None:
    """As after a failover that lost a write: what was revoked is active again. Nothing may be decided on it."""
    key = await world.made()
    names = {
        "tenant": (keyspace.tenant_document("acme"), keyspace.tenant_epoch("acme")),
        "key": (keyspace.key_document("acme", key.key_id), keyspace.key_epoch("acme", key.key_id)),
    }[of]
    older = await world.execute("MGET", *names)
    await world.record.change("acme", is_active=False)
    await world.record.revoke(key.key_id)
    newer = await world.identities.load(key.digest, key.key_id)
    assert not newer.key.is_active
    await world.execute("MSET", names[0], older[0], names[1], older[1])
    for _ in range(20):
        with pytest.raises(Unavailable, match="older version"):
            await world.identities.load(key.digest, key.key_id)
    assert len(caplog.records) == ALARMS_LOGGED_PER_S, "an alarm, and not a line for every request"
    assert world.identities.cached(key.digest) is newer
    assert not await world.identities.is_in_force(newer, 1e9)
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert "failover" in caplog.records[0].getMessage()


async def test_an_emptied_redis_is_unavailable_and_no_unknown_key(world: World) -> None:
    key = await world.made()
    await world.identities.load(key.digest, key.key_id)
    await world.execute("FLUSHALL")
    _, stranger_id, stranger = api_key.mint("test")
    for digest, key_id in ((key.digest, key.key_id), (stranger, stranger_id)):
        with pytest.raises(Unavailable, match="emptied"):
            await world.identities.load(digest, key_id)
    assert not world.identities._unknown


@pytest.mark.parametrize("missing", ["tenant document", "tenant epoch", "key document", "key epoch"])
async def test_half_of_a_key_is_unavailable(world: World, missing: str) -> None:
    key = await world.made()
    name = {
        "tenant document": keyspace.tenant_document("acme"),
        "tenant epoch": keyspace.tenant_epoch("acme"),
        "key document": keyspace.key_document("acme", key.key_id),
        "key epoch": keyspace.key_epoch("acme", key.key_id),
    }[missing]
    await world.execute("DEL", name)
    with pytest.raises(Unavailable, match="in part"):
        await world.identities.load(key.digest, key.key_id)


async def test_documents_under_another_epoch_are_unavailable(world: World) -> None:
    """Between the two writes of a publication, or after one of them was lost."""
    key = await world.made()
    await world.execute("SET", keyspace.key_epoch("acme", key.key_id), epoch_of(2, b"another"))
    with pytest.raises(Unavailable, match="not theirs"):
        await world.identities.load(key.digest, key.key_id)


async def test_documents_that_name_another_are_unavailable(world: World) -> None:
    key, other = await world.made(), await world.made("other")
    tenant = decode_tenant(await world.execute("GET", keyspace.tenant_document("other")))
    other_key = decode_key(await world.execute("GET", keyspace.key_document("other", other.key_id)))
    for document_name, epoch_name, data, version in (
        (keyspace.tenant_document("acme"), keyspace.tenant_epoch("acme"), encode_tenant(tenant), tenant.version),
        (
            keyspace.key_document("acme", key.key_id),
            keyspace.key_epoch("acme", key.key_id),
            encode_key(other_key),
            other_key.version,
        ),
    ):
        was = await world.execute("MGET", document_name, epoch_name)
        await world.execute("MSET", document_name, data, epoch_name, epoch_of(version, data))
        with pytest.raises(Unavailable, match="not theirs"):
            await world.identities.load(key.digest, key.key_id)
        await world.execute("MSET", document_name, was[0], epoch_name, was[1])
    assert (await world.identities.load(key.digest, key.key_id)).tenant.tenant_id == "acme"


async def test_a_key_whose_index_names_another_id_is_unknown(world: World) -> None:
    key, other = await world.made(), await world.made("other")
    with pytest.raises(Missing, match="another"):
        await world.identities.load(key.digest, other.key_id)


async def test_epochs_are_confirmed_until_either_document_changes(world: World) -> None:
    key = await world.made()
    identity = await world.identities.load(key.digest, key.key_id)
    world.now += 5
    assert await world.identities.is_in_force(identity, 1e9)
    assert identity.confirmed_at == 1_005.0
    world.now += 5
    await world.record.change("acme", plan="pro")
    assert not await world.identities.is_in_force(identity, 1e9)
    identity = await world.identities.load(key.digest, key.key_id)
    assert await world.identities.is_in_force(identity, 1e9)
    await world.record.revoke(key.key_id)
    assert not await world.identities.is_in_force(identity, 1e9)
    assert identity.confirmed_at == -math.inf, "known to be out of force: no local share rests on it"


async def test_a_changed_document_is_a_new_identity_without_what_was_remembered(world: World) -> None:
    key = await world.made()
    before = await world.identities.load(key.digest, key.key_id)
    before.passages["anything"] = "compiled"
    await world.record.change("acme", is_active=False)
    after = await world.identities.load(key.digest, key.key_id)
    assert (before.tenant.is_active, after.tenant.is_active, after.passages) == (True, False, {})
    assert world.identities.cached(key.digest) is after


async def test_a_reading_that_fails_when_nobody_waits_any_more_is_no_traceback(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    _, key_id, digest = api_key.mint("test")
    await world.made()
    world.redis.gate.clear()
    asking = asyncio.ensure_future(world.identities.load(digest, key_id))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    world.redis.gate.set()

    async def is_over() -> bool:
        return not world.identities._loading

    await eventually_async(is_over)
    del asking  # its frames hold the reading
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
