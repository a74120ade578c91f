"""The documents of tenants and keys, held in memory and read from Redis when they are not. Never an allow by itself.

A document is looked up by the whole SHA-256 digest of the key that was sent; there is no bucket and no shortened hash that two keys
could share. What is cached may be old: every admission compares its epochs with Redis, and a refusal that rests on it is confirmed
first, so the cache needs no expiry to be right, only a bound to be small.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from extauthz import keyspace
from extauthz.errors import ExtauthzError, Malformed, Missing, Unavailable
from extauthz.telemetry.logs import Sampler
from extauthz.tenants.documents import KeyDocument, TenantDocument, decode_key, decode_tenant

#: Keys whose documents are held; about 5 KiB each with the credential and one passage on a plan of four limits (`make bench` prints
#: it): 500 MiB at the bound.
IDENTITIES_MAX = 100_000
#: Digests that are known to be no key's, for a second each: junk that carries a right checksum costs one look-up a second.
UNKNOWN_MAX = 10_000
UNKNOWN_S = 1.0
#: Every request with a key whose document went back finds it so.
ALARMS_LOGGED_PER_S = 5

_log = logging.getLogger("extauthz.tenants")


class Reads(Protocol):
    """What this room needs of a Redis connection."""

    async def execute(self, *args: bytes | str | int, deadline: float | None = None) -> Any:
        """One command; raises Unavailable when it did not answer."""


class Identity:
    """A key and its tenant as they were published, whole, and what was compiled from exactly these.

    Attributes:
        confirmed_at: the time of the loop when Redis last said that both epochs are in force; -inf once it said that they are not.
        passages: the decision's memory for this identity; gone with it when a document changes.
    """

    __slots__ = ("confirmed_at", "key", "passages", "tenant")

    def __init__(self, tenant: TenantDocument, key: KeyDocument, confirmed_at: float) -> None:
        self.tenant = tenant
        self.key = key
        self.confirmed_at = confirmed_at
        self.passages: dict[object, Any] = {}


class Identities:
    """Digest to identity.

    Args:
        redis: where the documents are read.
        now: the loop's time in seconds.
        held_max: identities in memory; the one read longest ago makes room.
    """

    def __init__(self, redis: Reads, now: Callable[[], float], held_max: int = IDENTITIES_MAX) -> None:
        self._redis = redis
        self._now = now
        self._held_max = held_max
        self._held: dict[bytes, Identity] = {}
        self._unknown: dict[bytes, float] = {}
        self._loading: dict[bytes, asyncio.Task[Identity | ExtauthzError]] = {}
        self._alarms = Sampler(ALARMS_LOGGED_PER_S)
        self.cached = self._held.get  # the hot path's look-up, a dict's own method: 50 ns less than a method of ours

    def __len__(self) -> int:
        return len(self._held)

    def held(self) -> list[Identity]:
        """All identities in memory, as they are now."""
        return list(self._held.values())

    async def load(self, digest: bytes, key_id: str) -> Identity:
        """Read both documents, once for all who ask at the same time; the reading outlives a caller that is cancelled.

        Raises:
            Missing: no key has this digest. Remembered for a second.
            Unavailable: Redis did not answer, was emptied, holds half of a key, or went back to an older version of a document.
        """
        until = self._unknown.get(digest)
        if until is not None:
            if self._now() < until:
                raise Missing("no key has this digest")
            del self._unknown[digest]
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(digest, key_id))
            self._loading[digest] = task
            task.add_done_callback(partial(self._loading.pop, digest))
        outcome = await asyncio.shield(task)
        if isinstance(outcome, ExtauthzError):
            raise outcome.with_traceback(None)
        return outcome

    async def _load(self, digest: bytes, key_id: str) -> Identity | ExtauthzError:
        """Read and remember; what is not remembered is not answered either. An error is returned: when all who asked were cancelled
        nobody fetches it, and asyncio would log a traceback.
        """
        try:
            identity = await self._read(digest, key_id)
        except Missing as missing:
            self._held.pop(digest, None)
            if len(self._unknown) >= UNKNOWN_MAX:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[digest] = self._now() + UNKNOWN_S
            return missing
        except ExtauthzError as error:
            return error
        if len(self._held) >= self._held_max and digest not in self._held:
            del self._held[next(iter(self._held))]
        self._held[digest] = identity
        return identity

    async def _read(self, digest: bytes, key_id: str) -> Identity:
        index, marker = await self._redis.execute(
            "MGET",
            keyspace.key_index(digest),
            keyspace.marker(keyspace.key_index_partition(digest)),
        )
        if index is None:
            if marker is None:
                raise Unavailable("the partition of a key's digest has no marker: Redis was emptied, publish the record again")
            raise Missing("no key has this digest")
        tenant_id, _, indexed_key_id = index.decode().partition("/")
        if indexed_key_id != key_id:
            raise Missing(f"the index names key {indexed_key_id}, the key that was sent names another")
        asked_at = self._now()
        documents = await self._redis.execute(
            "MGET",
            keyspace.tenant_document(tenant_id),
            keyspace.tenant_epoch(tenant_id),
            keyspace.key_document(tenant_id, key_id),
            keyspace.key_epoch(tenant_id, key_id),
        )
        if None in documents:
            raise Unavailable(f"tenant {tenant_id} or key {key_id} is indexed but not published: Redis was emptied in part")
        identity = _identity(digest, tenant_id, key_id, documents, asked_at)
        self._refuse_older(digest, identity)
        return identity

    def _refuse_older(self, digest: bytes, found: Identity) -> None:
        """A version that goes back means that a failover lost a write: nothing may be decided on it."""
        held = self._held.get(digest)
        if held is None:
            return
        for was, is_ in ((held.tenant, found.tenant), (held.key, found.key)):
            if is_.version < was.version:
                if self._alarms.allows(self._now()):
                    extra = {"tenant": found.tenant.tenant_id, "key_id": found.key.key_id, "was": was.version, "is": is_.version}
                    _log.error(
                        "a document went back in version: a failover lost a write, publish the record again",
                        extra={**extra, "suppressed": self._alarms.take_suppressed()},
                    )
                raise Unavailable("a published document went back to an older version")

    async def is_in_force(self, identity: Identity, deadline: float) -> bool:
        """Whether Redis still holds the epochs of both documents. Raises Unavailable when it does not answer."""
        asked_at = self._now()
        tenant, key = identity.tenant, identity.key
        epochs = await self._redis.execute(
            "MGET",
            keyspace.tenant_epoch(tenant.tenant_id),
            keyspace.key_epoch(tenant.tenant_id, key.key_id),
            deadline=deadline,
        )
        if type(epochs) is not list or len(epochs) != 2:
            raise Unavailable("the reply to MGET has not its form")
        if epochs != [tenant.epoch, key.epoch]:
            identity.confirmed_at = -math.inf
            return False
        identity.confirmed_at = asked_at
        return True


def _identity(digest: bytes, tenant_id: str, key_id: str, documents: list[bytes], asked_at: float) -> Identity:
    tenant_data, tenant_epoch, key_data, key_epoch = documents
    try:
        tenant, key = decode_tenant(tenant_data), decode_key(key_data)
    except Malformed as error:
        raise Unavailable(f"a document of tenant {tenant_id} does not parse: {error}") from error
    names = (tenant.tenant_id, key.tenant_id, key.key_id, key.digest)
    if names != (tenant_id, tenant_id, key_id, digest) or (tenant.epoch, key.epoch) != (tenant_epoch, key_epoch):
        raise Unavailable(f"the documents found for tenant {tenant_id}, key {key_id} are not theirs")
    return Identity(tenant, key, asked_at)
