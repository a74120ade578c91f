"""Secrets in a real Redis: what is written, what another reads, what an interruption leaves."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio import Redis

from extauthz import keyspace
from extauthz.credentials.errors import DoesNotOpen, KekExhausted
from extauthz.credentials.store import CredentialStore, SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.errors import Malformed, Missing, Unavailable
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from extauthz.secret import Secret
from tests.credentials.places import REF, RedisPy, keyring_of

VALUE = Secret(b"sk-canary-0123456789")
KEYRING = keyring_of(b"a")


@pytest.fixture
async def client(each_redis_url: str) -> AsyncIterator["Redis"]:
    """An empty Redis of each kind that was set up for the tenant and the platform."""
    async with redis.asyncio.Redis.from_url(each_redis_url) as connected:
        await connected.set(keyspace.marker(keyspace.partition("acme")), "1")
        await connected.set(keyspace.server_identity(), "1")
        yield connected


@pytest.fixture(params=["redis-py", "redisio"])
async def store(request: pytest.FixtureRequest, client: "Redis", each_redis_url: str) -> AsyncIterator[CredentialStore]:
    """Over the control plane's client and over the data plane's."""
    if request.param == "redis-py":
        yield RedisStore(RedisPy(client), KEYRING)
        return
    connection = Connection(RedisUrl.parse(each_redis_url), timeout_s=5.0)
    await connection.start()
    yield RedisStore(connection, KEYRING)
    await connection.close()


@pytest.mark.parametrize("tenant_id", ["acme", ""], ids=["tenant", "platform"])
async def test_what_is_put_is_got_listed_and_deleted(store: CredentialStore, tenant_id: str) -> None:
    assert await store.list(tenant_id) == ()
    refs = [await store.put(tenant_id, provider, name, VALUE) for provider, name in (("openai", "a"), ("openai", "b"), ("x", "a"))]
    refs.append(await store.put(tenant_id, "openai", "a", Secret(b"second")))
    assert refs[3] == SecretRef(tenant_id, "openai", "a", 2)
    assert await store.list(tenant_id) == tuple(sorted(refs))
    assert [await store.get(ref) for ref in refs] == [VALUE] * 3 + [Secret(b"second")]
    await store.delete(refs[0])
    await store.delete(refs[0])
    assert await store.list(tenant_id) == tuple(sorted(refs[1:]))
    with pytest.raises(Missing):
        await store.get(refs[0])
    assert await store.put(tenant_id, "openai", "a", VALUE) == refs[0]._replace(version=3)
    await store.health()


@pytest.mark.parametrize("part", ["a/b", "a:b", "ü", "{x}", "100%", "latest", "", "a\nb"])
async def test_any_name_is_a_name_of_its_own(store: CredentialStore, part: str) -> None:
    refs = [await store.put("acme", part, "n", VALUE), await store.put("acme", "n", part, Secret(b"other"))]
    assert await store.list("acme") == tuple(sorted(refs))
    assert [await store.get(ref) for ref in refs] == [VALUE, Secret(b"other")]


async def test_every_key_of_a_tenants_secret_is_in_the_tenants_slot(store: CredentialStore, client: "Redis") -> None:
    ref = await store.put("acme", "openai", "default", VALUE)
    slot = keyspace.tag(keyspace.partition("acme")).encode()
    kek = keyspace.kek_seals(KEYRING.primary.id)
    expected = {keyspace.secret(*ref), keyspace.secret_latest("acme", "openai", "default"), keyspace.secrets("acme")}
    assert all(slot in key for key in expected)
    assert set(await client.keys()) == expected | {kek, keyspace.marker(keyspace.partition("acme")), keyspace.server_identity()}
    assert await client.get(kek) == b"1"


async def test_an_emptied_redis_is_unavailable_and_not_missing(store: CredentialStore, client: "Redis") -> None:
    for tenant_id in ("acme", ""):
        with pytest.raises(Missing):
            await store.get(REF._replace(tenant_id=tenant_id))
    await client.flushall()
    for tenant_id in ("acme", ""):
        with pytest.raises(Unavailable, match="emptied"):
            await store.get(REF._replace(tenant_id=tenant_id))


async def test_an_envelope_moved_by_a_writer_of_redis_does_not_open(store: CredentialStore, client: "Redis") -> None:
    """To another tenant, provider, name, version, or to the platform."""
    ref = await store.put("acme", "openai", "default", VALUE)
    moved: list[dict[str, str]] = [{"tenant_id": "other"}, {"provider": "x"}, {"name": "x"}, {"tenant_id": ""}]
    for there in (*(ref._replace(**field) for field in moved), ref._replace(version=7)):  # type: ignore[arg-type]
        assert await client.copy(keyspace.secret(*ref).decode(), keyspace.secret(*there).decode())
        with pytest.raises(DoesNotOpen):
            await store.get(there)
    assert await store.get(ref) == VALUE


async def test_what_is_no_envelope_is_refused(store: CredentialStore, client: "Redis") -> None:
    for junk in (b"", b"\1", b"sk-plain", bytes(200)):
        await client.set(keyspace.secret(*REF), junk)
        with pytest.raises(Malformed):
            await store.get(REF)


async def test_an_envelope_of_another_keyring_does_not_open(store: CredentialStore, client: "Redis") -> None:
    ref = await store.put("acme", "openai", "default", VALUE)
    with pytest.raises(DoesNotOpen):
        await RedisStore(RedisPy(client), keyring_of(b"b")).get(ref)
    assert await RedisStore(RedisPy(client), keyring_of(b"b", b"a")).get(ref) == VALUE


@pytest.mark.prove(26)
async def test_the_counter_in_redis_bounds_the_seals_of_a_kek(store: CredentialStore, client: "Redis") -> None:
    await client.set(keyspace.kek_seals(KEYRING.primary.id), 3_865_470_565)
    ref = await store.put("acme", "openai", "default", VALUE)
    for _ in range(2):
        with pytest.raises(KekExhausted):
            await store.put("acme", "openai", "default", VALUE)
    assert await store.list("acme") == (ref,)
    assert await RedisStore(RedisPy(client), keyring_of(b"b", b"a")).put("acme", "openai", "default", VALUE)


async def test_a_lost_version_counter_never_puts_two_values_under_one_version(store: CredentialStore, client: "Redis") -> None:
    refs = [await store.put("acme", "openai", "default", VALUE) for _ in range(3)]
    await client.delete(keyspace.secret_latest("acme", "openai", "default"))
    assert await store.put("acme", "openai", "default", Secret(b"new")) == refs[2]._replace(version=4)
    assert [await store.get(ref) for ref in refs] == [VALUE] * 3


class _Overtaken(RedisPy):
    """Somebody writes the version that is being put, right before it is put."""

    async def execute(self, *args: bytes | str | int) -> Any:
        if args[0] == "SET":
            await self._client.set(args[1], b"theirs")  # type: ignore[arg-type]
        return await super().execute(*args)


async def test_a_version_that_somebody_else_wrote_is_left_as_it_is(client: "Redis") -> None:
    with pytest.raises(Unavailable, match="somebody else"):
        await RedisStore(_Overtaken(client), KEYRING).put("acme", "openai", "default", VALUE)
    assert await client.get(keyspace.secret("acme", "openai", "default", 1)) == b"theirs"


class _Twice(RedisPy):
    """Every command is executed twice, and the second reply is the one that arrives."""

    async def execute(self, *args: bytes | str | int) -> Any:
        await super().execute(*args)
        return await super().execute(*args)


async def test_a_put_whose_commands_are_all_sent_twice_is_one_value(client: "Redis") -> None:
    store = RedisStore(_Twice(client), KEYRING)
    refs = [await store.put("acme", "openai", "default", value) for value in (VALUE, Secret(b"second"))]
    assert await store.list("acme") == tuple(refs)
    assert [await store.get(ref) for ref in refs] == [VALUE, Secret(b"second")]


async def test_fifty_who_put_at_once_get_fifty_versions(store: CredentialStore) -> None:
    values = [Secret(b"value-%d" % number) for number in range(50)]
    refs = await asyncio.gather(*(store.put("acme", "openai", "default", value) for value in values))
    assert sorted(ref.version for ref in refs) == list(range(1, 51))
    assert [await store.get(ref) for ref in refs] == values


@pytest.mark.parametrize("runs", [False, True], ids=["not sent", "reply lost"])
async def test_a_put_that_fails_at_any_command_leaves_no_wrong_secret(client: "Redis", *, runs: bool) -> None:
    """What it leaves is nothing, or the whole value under a version that nobody was told; the next one works."""
    whole = RedisStore(RedisPy(client), KEYRING)
    before = await whole.put("acme", "openai", "default", VALUE)
    for fails_at in range(1, 6):
        store = RedisStore(RedisPy(client, fails_at, runs=runs), KEYRING)
        with pytest.raises(Unavailable):
            await store.put("acme", "openai", "default", Secret(b"interrupted"))
        found = {ref: await whole.get(ref) for ref in await whole.list("acme")}
        assert found.pop(before) == VALUE
        assert all(value == Secret(b"interrupted") for value in found.values())
        assert bool(found) == (runs and fails_at == 5)
    after = await whole.put("acme", "openai", "default", Secret(b"after"))
    assert after.version > before.version
    assert await whole.get(after) == Secret(b"after")


async def test_an_index_of_another_form_is_malformed(store: CredentialStore, client: "Redis") -> None:
    await client.sadd(keyspace.secrets("acme"), "two/parts")
    with pytest.raises(Malformed):
        await store.list("acme")


def _forms(value: bytes) -> list[bytes]:
    """As it is, hex, base64 at each of the three alignments, percent-encoded, UTF-16, backwards."""
    base64s = [base64.b64encode(b"x" * shift + value)[4 * bool(shift) : -4] for shift in range(3)]
    percent = "".join(f"%{byte:02X}" for byte in value).encode()
    return [value, value.hex().encode(), *base64s, percent, value.decode().encode("utf-16-le"), value[::-1]]


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_search_finds_a_value_in_base64_wherever_it_begins(shift: int) -> None:
    assert any(form in base64.b64encode(b"p" * shift + VALUE.reveal() + b"behind") for form in _forms(VALUE.reveal()))


@pytest.mark.prove(27)
async def test_a_dump_of_redis_shows_no_value(store: CredentialStore, client: "Redis") -> None:
    """12 canaries, whole and by halves; what a dump does show is on docs/security.md."""
    canaries = [f"sk-canary-{number:02d}-{random.Random(number).getrandbits(128):032x}".encode() for number in range(12)]
    for number, canary in enumerate(canaries):
        await store.put("acme" if number % 2 else "", f"provider-{number}", "default", Secret(canary))
    parts = [part for key in await client.keys() for part in (key, await client.dump(key))]
    dump = b"".join(part for part in parts if isinstance(part, bytes))
    for canary in canaries:
        for piece in (canary, canary[:20], canary[20:]):
            assert not [form for form in _forms(piece) if form in dump]
    assert b"provider-11" in dump
    assert KEYRING.primary.id.encode() in dump
