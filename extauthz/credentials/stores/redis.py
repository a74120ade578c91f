"""Secrets in Redis, sealed before they leave this process. docs/formats/envelope.md has the bytes, keyspace.py the keys."""

from typing import Any, Protocol
from urllib.parse import quote, unquote

from extauthz import keyspace
from extauthz.credentials.envelope import seal, unseal
from extauthz.credentials.keyring import Keyring
from extauthz.credentials.store import SecretRef
from extauthz.errors import Malformed, Missing, Unavailable
from extauthz.secret import Secret

#: How many versions `put` passes over that exist above the counter (a counter that was lost); then it gives up.
_VERSIONS_PASSED_MAX = 1_000


class Redis(Protocol):
    """Anything that runs one command and raises the errors of this project: `redisio.Connection`, or redis-py behind a shell."""

    async def execute(self, *args: bytes | str | int) -> Any:
        """The reply. Raises Unavailable when there is none."""


class RedisStore:
    """A CredentialStore. One `get` is one round trip.

    A `put` is five commands. Each may be sent twice, and an interruption after any of them leaves no wrong secret.

    Args:
        redis: the data plane's connection, or the control plane's.
        keyring: opens what it reads, seals with its first KEK.
    """

    __slots__ = ("_keyring", "_redis")

    def __init__(self, redis: Redis, keyring: Keyring) -> None:
        self._redis = redis
        self._keyring = keyring

    async def get(self, ref: SecretRef) -> Secret:
        """See CredentialSource. A Redis that was emptied is Unavailable, not Missing: its marker says which it is."""
        marker = keyspace.marker(keyspace.partition(ref.tenant_id)) if ref.tenant_id else keyspace.server_identity()
        data, is_set_up = await self._redis.execute("MGET", keyspace.secret(*ref), marker)
        if data is not None:
            return await unseal(self._keyring, ref.context(), data)
        if is_set_up is None:
            raise Unavailable("Redis has no marker where a secret is looked up: it was emptied")
        raise Missing(f"Redis has no version {ref.version} of {ref.tenant_id or 'the platform'}'s {ref.provider}/{ref.name}")

    async def put(self, tenant_id: str, provider: str, name: str, value: Secret) -> SecretRef:
        """See CredentialStore. Raises KekExhausted. The order: count the seal, take a version, name it in the index, write it."""
        kek = self._keyring.primary
        seals = await self._redis.execute("INCR", keyspace.kek_seals(kek.id))
        for _ in range(_VERSIONS_PASSED_MAX):
            version = await self._redis.execute("INCR", keyspace.secret_latest(tenant_id, provider, name))
            ref = SecretRef(tenant_id, provider, name, version)
            if not await self._redis.execute("EXISTS", keyspace.secret(*ref)):
                break
        else:
            raise Unavailable(f"the version counter of {provider}/{name} is behind by more than {_VERSIONS_PASSED_MAX}")
        envelope = await seal(kek, ref.context(), value, seals)
        await self._redis.execute("SADD", keyspace.secrets(tenant_id), _member(ref))
        # NX: a version is written once. Without it a counter that was lost meanwhile could put two values under one version.
        is_new = await self._redis.execute("SET", keyspace.secret(*ref), envelope, "NX") is not None
        # A client that sent it again after a lost reply finds its own envelope there, which no other is equal to.
        if not is_new and await self._redis.execute("GET", keyspace.secret(*ref)) != envelope:
            raise Unavailable(f"version {version} of {provider}/{name} was written by somebody else meanwhile")
        return ref

    async def delete(self, ref: SecretRef) -> None:
        """See CredentialStore. The value goes first: what remains of an interruption is a name in the index, which `list` skips."""
        await self._redis.execute("DEL", keyspace.secret(*ref))
        await self._redis.execute("SREM", keyspace.secrets(ref.tenant_id), _member(ref))

    async def list(self, tenant_id: str) -> tuple[SecretRef, ...]:
        """See CredentialStore."""
        members = await self._redis.execute("SMEMBERS", keyspace.secrets(tenant_id))
        refs = sorted(_ref(tenant_id, member) for member in members)
        return tuple([ref for ref in refs if await self._redis.execute("EXISTS", keyspace.secret(*ref))])

    async def health(self) -> None:
        """See CredentialStore."""
        await self._redis.execute("PING")


def _member(ref: SecretRef) -> str:
    return f"{quote(ref.provider, safe='')}/{quote(ref.name, safe='')}/{ref.version}"


def _ref(tenant_id: str, member: bytes) -> SecretRef:
    try:
        provider, name, version = member.decode("ascii").split("/")
        return SecretRef(tenant_id, unquote(provider), unquote(name), int(version))
    except ValueError as error:
        raise Malformed("the index of secrets holds a name of another form") from error
