"""Document and epoch change together, one version at a time, whoever else publishes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from demo.redis_server import RedisServer, binaries
from extauthz import keyspace
from extauthz.errors import Malformed, Missing, Unavailable
from extauthz.record import publish
from extauthz.record.publish import Published, change, create, read, tenant_place
from extauthz.record.server import Command, Conflict, Damaged, Server
from extauthz.record.setup import prepare
from extauthz.record.tenants import change_tenant, create_tenant, list_tenants, read_tenant
from extauthz.secret import Secret
from extauthz.tenants.documents import TenantDocument, decode_tenant, encode_tenant
from extauthz.tenants.epochs import epoch_of, version_of
from tests.conftest import eventually_async
from tests.record.records import BreakingServer, contents, server_at, tenant


def suspended(document: TenantDocument) -> TenantDocument:
    return msgspec.structs.replace(document, is_active=False)


def with_limit(document: TenantDocument, name: str) -> TenantDocument:
    return msgspec.structs.replace(document, limits=(*document.limits, (name, 10, 60_000)))


@contextlib.asynccontextmanager
async def servers_of(url: str, count: int) -> AsyncIterator[list[Server]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(server_at(url)) for _ in range(count)]


async def test_what_was_created_is_what_a_sidecar_reads(server: Server) -> None:
    published = await create_tenant(server, tenant())
    data, epoch = await server.execute("MGET", keyspace.tenant_document("acme"), keyspace.tenant_epoch("acme"))
    assert data == encode_tenant(tenant())
    assert epoch == epoch_of(1, data)
    assert decode_tenant(data) == published.document == await read_tenant(server, "acme")
    assert (published.is_changed, published.replicas, published.replicas_with_it) == (True, 0, 0)
    assert await list_tenants(server) == [published.document]


async def test_a_tenant_that_exists_is_not_created_again(server: Server) -> None:
    await create_tenant(server, tenant(plan="pro"))
    before = await contents(server)
    with pytest.raises(Conflict, match="tenant acme exists already"):
        await create_tenant(server, tenant(plan="free"))
    assert await contents(server) == before


async def test_every_change_counts_the_version_up_by_one(server: Server) -> None:
    await create_tenant(server, tenant())
    for version in range(2, 6):
        published = await change_tenant(server, "acme", lambda document, name=f"l{version}": with_limit(document, name))  # type: ignore[misc]
        assert published.document.version == version
        assert published.document == await read_tenant(server, "acme")


async def test_an_edit_that_changes_nothing_publishes_nothing(server: Server) -> None:
    await create_tenant(server, tenant(is_active=False))
    before = await contents(server)
    published = await change_tenant(server, "acme", suspended)
    assert (published.is_changed, published.document.version) == (False, 1)
    assert await contents(server) == before


async def test_what_is_not_there_is_missing(server: Server) -> None:
    await prepare(server)
    with pytest.raises(Missing, match="there is no tenant acme"):
        await change_tenant(server, "acme", suspended)
    with pytest.raises(Missing, match="there is no tenant acme"):
        await read_tenant(server, "acme")
    assert await list_tenants(server) == []


async def test_a_document_that_sidecars_would_refuse_is_never_written(server: Server) -> None:
    await create_tenant(server, tenant())
    before = await contents(server)
    with pytest.raises(Malformed):
        await change_tenant(server, "acme", lambda document: msgspec.structs.replace(document, plan="No Plan"))
    with pytest.raises(Malformed):
        await create_tenant(server, tenant("No Tenant"))
    assert await contents(server) == before


async def test_two_publishers_that_race_both_survive_and_versions_only_grow(redis_url: str) -> None:
    """Eight connections add forty limits to one tenant while another watches the epoch."""
    names = [f"limit-{number}" for number in range(40)]
    seen: list[int] = []
    async with servers_of(redis_url, 9) as servers:
        await create_tenant(servers[0], tenant())

        async def add(server: Server, mine: list[str]) -> list[Published[TenantDocument]]:
            return [await change_tenant(server, "acme", lambda document, name=name: with_limit(document, name)) for name in mine]  # type: ignore[misc]

        async def watch(server: Server) -> None:
            while len(seen) == 0 or seen[-1] < 41:
                data, epoch = await server.execute("MGET", keyspace.tenant_document("acme"), keyspace.tenant_epoch("acme"))
                assert decode_tenant(data).epoch == epoch
                seen.append(version_of(epoch))

        watcher = asyncio.create_task(watch(servers[8]))
        rounds = await asyncio.gather(*(add(server, names[number::8]) for number, server in enumerate(servers[:8])))
        await asyncio.wait_for(watcher, 5)
        final = await read_tenant(servers[0], "acme")
    assert sorted(name for name, _, _ in final.limits) == sorted(names)
    assert sorted(one.document.version for one in itertools.chain(*rounds)) == list(range(2, 42))
    assert seen == sorted(seen)


async def test_two_creators_that_race_make_one_tenant(redis_url: str) -> None:
    async with servers_of(redis_url, 4) as servers:
        await prepare(servers[0])
        attempts = (create_tenant(server, tenant(plan=f"plan-{number}")) for number, server in enumerate(servers))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        winners = [result for result in results if not isinstance(result, BaseException)]
        assert [type(result) for result in results if isinstance(result, BaseException)] == [Conflict] * 3
        assert [winner.document for winner in winners] == [await read_tenant(servers[0], "acme")]


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_publisher_cut_off_anywhere_leaves_the_old_document_or_the_new(
    redis_url: str, server: Server, is_sent: bool
) -> None:
    for commands in range(10):
        await server.execute("FLUSHALL")
        await create_tenant(server, tenant())
        async with BreakingServer(redis_url, commands, is_sent=is_sent) as breaking:
            if commands < 3:
                with pytest.raises(Unavailable):
                    await change_tenant(breaking, "acme", suspended)
            else:
                await change_tenant(breaking, "acme", suspended)
            assert breaking.has_broken == (commands < 3)
        document = await read_tenant(server, "acme")
        is_new = commands > 2 or (commands == 2 and is_sent)
        assert (document.version, document.is_active) == ((2, False) if is_new else (1, True))


async def test_a_script_that_is_sent_twice_writes_once(server: Server) -> None:
    """What redis-py does when a connection breaks after the script ran and before its reply came."""
    await prepare(server)
    place = tenant_place("acme")
    first = await create(server, place, tenant())
    assert await create(server, place, tenant()) == first
    assert await read(server, place) == first.document


async def test_a_publisher_that_always_loses_gives_up(server: Server, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "ATTEMPTS_MAX", 3)
    await create_tenant(server, tenant())
    edits = 0

    class Overtaken(Server):
        async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
            nonlocal edits
            if commands[0][0] == "EVAL":
                edits += 1
                await change_tenant(server, "acme", lambda document: with_limit(document, f"other-{edits}"))
            return await super().execute_all(commands)

    async with Overtaken(Secret(redis_url.encode())) as overtaken:
        with pytest.raises(Conflict, match="is being changed by others all the time"):
            await change(overtaken, tenant_place("acme"), suspended)
    assert edits == 3
    assert (await read_tenant(server, "acme")).is_active


async def test_an_epoch_that_is_not_the_documents_is_not_published_over(server: Server) -> None:
    await create_tenant(server, tenant())
    await server.execute("SET", keyspace.tenant_epoch("acme"), epoch_of(9, b"another"))
    with pytest.raises(Damaged, match="an epoch that is not its document's"):
        await change_tenant(server, "acme", suspended)


async def test_bytes_that_are_no_document_are_not_published_over(server: Server) -> None:
    await create_tenant(server, tenant())
    await server.execute("SET", keyspace.tenant_document("acme"), b"junk")
    with pytest.raises(Damaged, match="tenant acme is stored as something else: a document does not parse"):
        await change_tenant(server, "acme", suspended)
    assert await server.execute("GET", keyspace.tenant_document("acme")) == b"junk"


@pytest.mark.parametrize("binary", [path for _, path in binaries()], ids=[name for name, _ in binaries()])
async def test_a_publish_says_how_many_replicas_have_it(tmp_path: Path, binary: Path) -> None:
    primary = RedisServer(tmp_path / "primary", binary, options=("repl-diskless-sync-delay 0",))
    replica = RedisServer(tmp_path / "replica", binary, options=(f"replicaof 127.0.0.1 {primary.port}",))
    try:
        async with server_at(primary.url) as server, server_at(replica.url) as copy:

            async def is_linked() -> bool:
                return bool((await copy.execute("INFO", "replication"))["master_link_status"] == "up")

            await eventually_async(is_linked, 8)
            published = await create_tenant(server, tenant())
            assert (published.replicas, published.replicas_with_it) == (1, 1)
            assert await read_tenant(copy, "acme") == published.document
            with pytest.raises(Unavailable, match="is a read-only replica"):
                await change_tenant(copy, "acme", suspended)
    finally:
        replica.stop()
        primary.stop()


async def test_every_server_kind_publishes(each_redis_url: str) -> None:
    async with server_at(each_redis_url) as server:
        await create_tenant(server, tenant())
        assert (await change_tenant(server, "acme", suspended)).document.version == 2
