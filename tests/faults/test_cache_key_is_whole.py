"""The accident: a token cache keyed by `hash % 10000`: two of a few hundred keys share an entry, and so one of them a tenant."""

import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from extauthz import keyspace
from extauthz.record import keys
from extauthz.tenants import api_key
from extauthz.tenants.cache import Identity
from tests.harness.deciding import Deciding, deciding
from tests.harness.record import key_document

#: Keys to search among. Of so many about 12 pairs share 24 bits, and every bucket of 10,000 has two.
SEARCHED = 20_000
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: What a cache could be keyed by instead of the whole digest.
BUCKETS: dict[str, Callable[[bytes], object]] = {
    "modulo 10000": lambda digest: int.from_bytes(digest, "big") % 10_000,
    "the hash of the runtime modulo 10000": lambda digest: hash(digest) % 10_000,
    "3 bytes": lambda digest: digest[:3],
    "the last 2 bytes": lambda digest: digest[-2:],
}


def made_keys(seed: int) -> Iterable[str]:
    """Well-formed keys from a seed; the checksum is computed here, by the page on the format."""
    rng = random.Random(seed)
    for _ in range(SEARCHED):
        key_id = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=16))
        body = f"xa_test_{key_id}_{''.join(rng.choices(_DIGITS, k=32))}"
        crc, checksum = zlib.crc32(body.encode()), ""
        for _ in range(6):
            crc, digit = divmod(crc, 62)
            checksum = _DIGITS[digit] + checksum
        yield body + checksum


def colliding(seed: int) -> dict[str, list[str]]:
    """For each bucket function, the keys of its fullest bucket, two at least."""
    digests = {key: api_key.digest_of(key) for key in made_keys(seed)}
    found = {}
    for name, bucket_of in BUCKETS.items():
        buckets = defaultdict(list)
        for key, digest in digests.items():
            buckets[bucket_of(digest)].append(key)
        found[name] = max(buckets.values(), key=len)
        assert len(found[name]) > 1, (seed, name)
    return found


async def published(system: Deciding, owned: list[str]) -> dict[str, str]:
    """Each key with a tenant of its own, and the tenant with a credential of its own. From key to tenant."""
    tenants = {}
    for number, key in enumerate(owned):
        tenants[key] = f"tenant-{number}"
        await system.record.tenant(tenants[key], "none")
        await system.record.secret(tenants[key], "openai", f"credential-of-{tenants[key]}")
        document = key_document(tenants[key], api_key.key_id_of(key), api_key.digest_of(key), ("chat",))
        await keys.create_key(system.record.server, document)
    return tenants


async def confused(system: Deciding, tenants: dict[str, str], strangers: list[str]) -> list[str]:
    """Every key three times, in three orders, with keys between them that are nobody's: who got what is another's, or too much."""
    wrong = []
    for seed in range(3):
        order = [*tenants, *strangers]
        random.Random(seed).shuffle(order)
        for key in order:
            answer = await system.check(key)
            seen = (answer.status, answer.request_headers.get("authorization"))
            owner = tenants.get(key)
            expected = (200, f"Bearer credential-of-{owner}") if owner else (401, None)
            named = answer.message.dynamic_metadata.fields["tenant"].string_value
            if seen != expected or named != (owner or ""):
                wrong.append(f"{owner or 'nobody'} got {seen} as {named or 'nobody'}")
    return wrong


class BucketedIdentities:
    """The accident: the same cache, but an entry is found by a part of the digest."""

    def __init__(self, real: Any, bucket_of: Callable[[bytes], object]) -> None:
        self._real = real
        self._bucket_of = bucket_of
        self._held: dict[object, Identity] = {}
        self.is_in_force = real.is_in_force

    def cached(self, digest: bytes) -> Identity | None:
        return self._held.get(self._bucket_of(digest))

    async def load(self, digest: bytes, key_id: str) -> Identity:
        identity: Identity = await self._real.load(digest, key_id)
        self._held[self._bucket_of(digest)] = identity
        return identity


@pytest.mark.parametrize("seed", [1, 2])
async def test_keys_that_share_a_bucket_or_a_prefix_never_share_a_tenant(redis_url: str, tmp_path: Path, seed: int) -> None:
    found = colliding(seed)
    owned = list(dict.fromkeys(key for group in found.values() for key in group[:-1]))
    strangers = [key for group in found.values() for key in group[-1:] if key not in owned]
    async with deciding(redis_url, tmp_path) as system:
        tenants = await published(system, owned)
        assert await confused(system, tenants, strangers) == []


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("has_owner", [True, False], ids=["of another tenant", "of nobody"])
async def test_the_checker_sees_a_cache_with_a_truncated_key(redis_url: str, tmp_path: Path, bucket: str, has_owner: bool) -> None:
    group = colliding(1)[bucket]
    owned, strangers = (group, []) if has_owner else (group[:1], group[1:])
    async with deciding(redis_url, tmp_path) as system:
        tenants = await published(system, owned)
        naive: Any = BucketedIdentities(system.core.identities, BUCKETS[bucket])
        system.core.checker._identities = naive
        assert await confused(system, tenants, strangers)


def test_the_index_in_redis_is_spelled_by_every_bit_of_the_digest() -> None:
    digest = api_key.digest_of("any")
    spelled = {keyspace.key_index(digest)}
    for bit in range(256):
        flipped = bytearray(digest)
        flipped[bit // 8] ^= 1 << bit % 8
        spelled.add(keyspace.key_index(bytes(flipped)))
    assert len(spelled) == 257
