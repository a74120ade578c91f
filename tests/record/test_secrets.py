"""A credential is in force whole or not at all, and readable nowhere."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from extauthz.credentials.keyring import Keyring
from extauthz.credentials.store import SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.errors import Missing, Unavailable
from extauthz.record.keys import create_key
from extauthz.record.secrets import set_platform_secret, set_secret
from extauthz.record.server import Command, Server
from extauthz.record.setup import prepare
from extauthz.record.tenants import create_tenant, read_tenant
from extauthz.secret import Secret
from tests.record.records import BreakingServer, contents, new_key, server_at, tenant, values

VALUE = Secret(b"sk-test-canary-0123456789")


async def in_force(server: Server, keyring: Keyring, provider: str) -> Secret:
    named = {one: (name, version) for one, name, version in (await read_tenant(server, "acme")).secrets}
    return await RedisStore(server, keyring).get(SecretRef("acme", provider, *named[provider]))


async def test_a_secret_is_in_force_once_set_and_replaced_once_set_again(server: Server, keyring: Keyring) -> None:
    await create_tenant(server, tenant())
    ref, published = await set_secret(server, keyring, "acme", "openai", VALUE)
    assert ref == SecretRef("acme", "openai", "default", 1)
    assert published.document.secrets == (("openai", "default", 1),)
    assert await in_force(server, keyring, "openai") == VALUE
    await set_secret(server, keyring, "acme", "anthropic", Secret(b"other"))
    await set_secret(server, keyring, "acme", "openai", Secret(b"new"))
    assert (await read_tenant(server, "acme")).secrets == (("openai", "default", 2), ("anthropic", "default", 1))
    assert await in_force(server, keyring, "openai") == Secret(b"new")
    assert await in_force(server, keyring, "anthropic") == Secret(b"other")


async def test_no_secret_for_a_tenant_that_is_not_there(server: Server, keyring: Keyring) -> None:
    await prepare(server)
    before = await contents(server)
    with pytest.raises(Missing, match="there is no tenant acme"):
        await set_secret(server, keyring, "acme", "openai", VALUE)
    assert await contents(server) == before


async def test_the_platforms_secret_is_in_no_tenants_document(server: Server, keyring: Keyring) -> None:
    ref = await set_platform_secret(server, keyring, "openai", VALUE)
    assert ref == SecretRef("", "openai", "default", 1)
    await create_tenant(server, tenant())
    assert (await read_tenant(server, "acme")).secrets == ()
    assert await RedisStore(server, keyring).get(ref) == VALUE


async def test_two_who_set_at_once_leave_the_later_version(redis_url: str, keyring: Keyring) -> None:
    async with server_at(redis_url) as one, server_at(redis_url) as two:
        await create_tenant(one, tenant())
        for round_number in range(1, 11):
            await asyncio.gather(
                set_secret(one, keyring, "acme", "openai", Secret(b"one")),
                set_secret(two, keyring, "acme", "openai", Secret(b"two")),
            )
            assert (await read_tenant(one, "acme")).secrets == (("openai", "default", 2 * round_number),)


async def test_a_set_that_is_overtaken_does_not_put_the_older_value_back(redis_url: str, server: Server, keyring: Keyring) -> None:
    await create_tenant(server, tenant())

    class Overtaken(Server):
        async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
            replies = await super().execute_all(commands)
            if commands[0][0] == "SET":
                await set_secret(server, keyring, "acme", "openai", Secret(b"later"))
            return replies

    async with Overtaken(Secret(redis_url.encode())) as overtaken:
        ref, published = await set_secret(overtaken, keyring, "acme", "openai", Secret(b"earlier"))
    assert ref.version == 1
    assert published.document.secrets == (("openai", "default", 2),)
    assert await in_force(server, keyring, "openai") == Secret(b"later")


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
async def test_a_set_cut_off_anywhere_leaves_the_old_value_or_the_new(
    redis_url: str, server: Server, keyring: Keyring, is_sent: bool
) -> None:
    commands = -1
    has_broken = True
    while has_broken:
        commands += 1
        await server.execute("FLUSHALL")
        await create_tenant(server, tenant())
        await set_secret(server, keyring, "acme", "openai", Secret(b"old"))
        async with BreakingServer(redis_url, commands, is_sent=is_sent) as breaking:
            try:
                await set_secret(breaking, keyring, "acme", "openai", VALUE)
            except Unavailable:
                assert breaking.has_broken
            has_broken = breaking.has_broken
        value = await in_force(server, keyring, "openai")
        assert value == VALUE if not has_broken else value in (VALUE, Secret(b"old"))
        await set_secret(server, keyring, "acme", "openai", Secret(b"again"))
        assert await in_force(server, keyring, "openai") == Secret(b"again")
    assert commands >= 8


async def test_neither_keys_nor_values_of_redis_show_a_key_or_a_secret(server: Server, keyring: Keyring) -> None:
    await create_tenant(server, tenant())
    key, document = new_key()
    await create_key(server, document)
    await set_secret(server, keyring, "acme", "openai", VALUE)
    await set_platform_secret(server, keyring, "openai", VALUE)
    whole = key.reveal()
    private = whole.split(b"_")[3]
    canaries = [whole, private, private[:32], VALUE.reveal()]
    forms = [form for canary in canaries for form in (canary, canary.hex().encode(), canary[::-1])]
    stored = await values(server)
    assert len(stored) > 260
    for name, value in stored.items():
        assert not any(form in name or form in value for form in forms), name
