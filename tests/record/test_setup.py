"""A Redis becomes a record once, when it is empty; one with holes is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from demo.redis_server import RedisServer
from extauthz import keyspace
from extauthz.errors import BadConfig, Unavailable
from extauthz.record.keys import create_key
from extauthz.record.server import Command, Conflict, Emptied, Server
from extauthz.record.setup import prepare
from extauthz.record.tenants import change_tenant, create_tenant, list_tenants, read_tenant
from extauthz.secret import Secret
from tests.record.records import BreakingServer, contents, new_key, server_at, tenant

MARKERS = {keyspace.marker(number) for number in range(keyspace.PARTITIONS)}


async def test_an_empty_redis_gets_every_marker_and_an_identity(server: Server) -> None:
    await prepare(server)
    assert set(await contents(server)) == MARKERS | {keyspace.server_identity()}
    assert len(MARKERS) == 256


async def test_twice_changes_nothing(server: Server) -> None:
    await prepare(server)
    before = await contents(server)
    await prepare(server)
    assert await contents(server) == before


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_setup_cut_off_anywhere_is_finished_by_the_next(redis_url: str, server: Server, is_sent: bool) -> None:
    for commands in (0, 1, 2, 3, 4, 100, 258, 259):
        await server.execute("FLUSHALL")
        async with BreakingServer(redis_url, commands, is_sent=is_sent) as breaking:
            with pytest.raises(Unavailable, match="the connection broke"):
                await prepare(breaking)
        await prepare(server)
        assert set(await contents(server)) == MARKERS | {keyspace.server_identity()}


async def test_a_setup_that_another_overtakes_is_no_loss(redis_url: str, server: Server) -> None:
    """The other one finishes between the first question and the scan."""

    class Overtaken(Server):
        is_first = True

        async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
            replies = await super().execute_all(commands)
            if self.is_first:
                self.is_first = False
                await create_tenant(server, tenant("other"))
            return replies

    async with Overtaken(Secret(redis_url.encode())) as overtaken:
        await create_tenant(overtaken, tenant())
    assert [document.tenant_id for document in await list_tenants(server)] == ["acme", "other"]


async def test_what_sidecars_wrote_into_an_empty_redis_is_no_record(server: Server) -> None:
    for name in (keyspace.counter("acme", "requests", "fixed60000"), keyspace.breaker("openai"), keyspace.breaker_probe("openai")):
        await server.execute("SET", name, 1)
    await server.execute("SET", "somebody:else", 1)
    await prepare(server)
    assert await server.execute("EXISTS", keyspace.server_identity()) == 1


async def test_a_redis_that_lost_its_identity_is_refused_with_what_to_do(server: Server) -> None:
    await create_tenant(server, tenant())
    await server.execute("DEL", keyspace.server_identity())
    before = await contents(server)
    with pytest.raises(Emptied, match="Restore its backup"):
        await create_tenant(server, tenant("other"))
    assert await contents(server) == before


async def test_a_partition_that_lost_its_marker_takes_no_document(server: Server) -> None:
    await create_tenant(server, tenant())
    await server.execute("DEL", keyspace.marker(keyspace.partition("acme")))
    before = await contents(server)
    for attempt in (
        create_tenant(server, tenant()),
        change_tenant(server, "acme", lambda document: document),
        read_tenant(server, "acme"),
    ):
        with pytest.raises(Emptied):
            await attempt
    assert await contents(server) == before


async def test_a_partition_that_lost_its_marker_takes_no_key(server: Server) -> None:
    await create_tenant(server, tenant())
    _, key = new_key()
    place = keyspace.key_index_partition(key.digest)
    if place == keyspace.partition("acme"):
        _, key = new_key()
    await server.execute("DEL", keyspace.marker(place))
    with pytest.raises(Emptied):
        await create_key(server, key)
    assert not await server.execute("EXISTS", keyspace.key_index(key.digest))


@pytest.mark.parametrize("half", ["doc", "epoch"])
async def test_half_a_document_is_told_from_none(server: Server, half: str) -> None:
    await create_tenant(server, tenant())
    await server.execute("DEL", keyspace.tenant_document("acme") if half == "doc" else keyspace.tenant_epoch("acme"))
    with pytest.raises(Conflict):
        await create_tenant(server, tenant(plan="pro"))
    for attempt in (read_tenant(server, "acme"), list_tenants(server), change_tenant(server, "acme", lambda document: document)):
        with pytest.raises(Emptied, match="half of its document"):
            await attempt


async def test_a_server_that_may_evict_is_no_record(tmp_path: Path) -> None:
    evicting = RedisServer(tmp_path, options=("maxmemory-policy allkeys-lru",))
    try:
        async with server_at(evicting.url) as server:
            with pytest.raises(BadConfig, match=r"maxmemory-policy is allkeys-lru \(allowed: noeviction\)"):
                await prepare(server)
            assert await contents(server) == {}
    finally:
        evicting.stop()
