"""A key is usable when its command returned it, revoked for ever, and stored nowhere."""

import hashlib

import pytest

from extauthz import keyspace
from extauthz.errors import Malformed, Missing, Unavailable
from extauthz.record.keys import create_key, list_keys, revoke_key
from extauthz.record.server import Conflict, Server
from extauthz.record.setup import prepare
from extauthz.record.tenants import create_tenant
from extauthz.tenants.documents import KeyDocument, decode_key
from tests.record.records import BreakingServer, contents, new_key, server_at, tenant


async def found_by(server: Server, digest: bytes) -> KeyDocument | None:
    """What a sidecar does with the digest of a key that was sent to it."""
    index = await server.execute("GET", keyspace.key_index(digest))
    if index is None:
        return None
    tenant_id, key_id = index.decode().split("/")
    data, epoch = await server.execute("MGET", keyspace.key_document(tenant_id, key_id), keyspace.key_epoch(tenant_id, key_id))
    document = decode_key(data)
    assert document.epoch == epoch
    assert (document.tenant_id, document.key_id, document.digest) == (tenant_id, key_id, digest)
    return document


async def test_a_new_key_is_found_by_the_digest_of_the_whole_key(server: Server) -> None:
    await create_tenant(server, tenant())
    key, document = new_key(models=("gpt-4o*",), networks=("10.0.0.0/8",))
    published = await create_key(server, document)
    assert await found_by(server, hashlib.sha256(key.reveal()).digest()) == published.document
    assert await list_keys(server, "acme") == [published.document]


async def test_every_server_kind_keeps_keys(each_redis_url: str) -> None:
    async with server_at(each_redis_url) as server:
        await create_tenant(server, tenant())
        _, document = new_key()
        await create_key(server, document)
        assert (await revoke_key(server, document.key_id)).document == await found_by(server, document.digest)


async def test_a_revoked_key_keeps_its_document_with_a_new_epoch(server: Server) -> None:
    await create_tenant(server, tenant())
    _, document = new_key()
    created = await create_key(server, document)
    revoked = await revoke_key(server, document.key_id)
    assert (revoked.is_changed, revoked.document.is_active, revoked.document.version) == (True, False, 2)
    assert revoked.document.epoch != created.document.epoch
    assert await found_by(server, document.digest) == revoked.document


async def test_revoking_twice_is_no_error_and_changes_nothing(server: Server) -> None:
    await create_tenant(server, tenant())
    _, document = new_key()
    await create_key(server, document)
    first = await revoke_key(server, document.key_id)
    before = await contents(server)
    second = await revoke_key(server, document.key_id)
    assert (second.is_changed, second.document) == (False, first.document)
    assert await contents(server) == before


async def test_only_a_key_that_exists_can_be_revoked(server: Server) -> None:
    await create_tenant(server, tenant())
    with pytest.raises(Missing, match="there is no key abcdefghij234567"):
        await revoke_key(server, "abcdefghij234567")
    with pytest.raises(Malformed, match="a key's id is 16 of a-z and 2-7"):
        await revoke_key(server, "acme")


async def test_a_key_needs_its_tenant(server: Server) -> None:
    await prepare(server)
    before = await contents(server)
    with pytest.raises(Missing, match="there is no tenant acme"):
        await create_key(server, new_key()[1])
    with pytest.raises(Missing, match="there is no tenant acme"):
        await list_keys(server, "acme")
    assert await contents(server) == before


async def test_an_id_is_never_given_to_two_keys(server: Server) -> None:
    for tenant_id in ("acme", "other"):
        await create_tenant(server, tenant(tenant_id))
    _, document = new_key()
    await create_key(server, document)
    before = await contents(server)
    for tenant_id in ("acme", "other"):
        with pytest.raises(Conflict):
            await create_key(server, new_key(tenant_id, key_id=document.key_id)[1])
    assert await contents(server) == before


async def test_keys_are_listed_by_tenant_the_oldest_first(server: Server) -> None:
    for tenant_id in ("acme", "other"):
        await create_tenant(server, tenant(tenant_id))
    created = [new_key(created_at_ms=at)[1] for at in (3, 1, 2)] + [new_key("other")[1]]
    for document in created:
        await create_key(server, document)
    assert [key.created_at_ms for key in await list_keys(server, "acme")] == [1, 2, 3]
    assert [key.key_id for key in await list_keys(server, "other")] == [created[3].key_id]


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_create_cut_off_anywhere_leaves_no_usable_half_key(redis_url: str, server: Server, is_sent: bool) -> None:
    """Cut off before the last command no sidecar finds the key; what is listed can be revoked, and the record stays whole."""
    commands = -1
    has_broken = True
    while has_broken:
        commands += 1
        await server.execute("FLUSHALL")
        await create_tenant(server, tenant())
        _, document = new_key()
        async with BreakingServer(redis_url, commands, is_sent=is_sent) as breaking:
            try:
                await create_key(breaking, document)
            except Unavailable:
                assert breaking.has_broken
            has_broken = breaking.has_broken
        found = await found_by(server, document.digest)
        assert (found is not None) == (not has_broken or (commands == 4 and is_sent)), commands
        for listed in await list_keys(server, "acme"):
            assert not (await revoke_key(server, listed.key_id)).document.is_active
        _, another = new_key()
        await create_key(server, another)
        assert await found_by(server, another.digest) is not None
    assert commands == 5


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_revoke_cut_off_anywhere_says_so_or_is_in_force(redis_url: str, server: Server, is_sent: bool) -> None:
    outcomes = []
    for commands in range(6):
        await server.execute("FLUSHALL")
        await create_tenant(server, tenant())
        _, document = new_key()
        await create_key(server, document)
        async with BreakingServer(redis_url, commands, is_sent=is_sent) as breaking:
            try:
                await revoke_key(breaking, document.key_id)
                has_returned = True
            except Unavailable:
                has_returned = False
        found = await found_by(server, document.digest)
        assert found is not None
        assert not (has_returned and found.is_active)
        outcomes.append(has_returned)
        assert not (await revoke_key(server, document.key_id)).document.is_active
    assert outcomes == [False] * 4 + [True] * 2
