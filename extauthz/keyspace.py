"""The only place where a Redis key is spelled. docs/formats/keyspace.md says of each who writes it and what its loss means.

Every key of a tenant carries the tag of the tenant's partition, `{p000}` to `{p255}`, so that all keys of one decision share a
slot. Which partition a tenant has follows from its id alone and never changes. A part that is not of a closed alphabet is
percent-encoded, so no two different tuples of parts spell the same key.
"""

import hashlib
from urllib.parse import quote

PARTITIONS = 256
#: The tag of what all tenants share: global counters, the providers' breakers, the platform's own secrets.
SHARED = "{shared}"


def partition(name: str) -> int:
    """The partition of a tenant id or a key id: the first byte of its SHA-256."""
    return hashlib.sha256(name.encode()).digest()[0]


def tag(number: int) -> str:
    """The hash tag of a partition, 0 to 255."""
    return f"{{p{number:03d}}}"


def _key(slot: str, *parts: str) -> bytes:
    return ":".join(("xa", slot, *(quote(part, safe="@") for part in parts))).encode()


def _of_tenant(tenant_id: str, *parts: str) -> bytes:
    return _key(tag(partition(tenant_id)), *parts)


def marker(number: int) -> bytes:
    """Present in every partition that has been set up; absent means Redis was emptied, and a miss means nothing."""
    return _key(tag(number), "marker")


def tenants(number: int) -> bytes:
    """The ids of the tenants of a partition, a set."""
    return _key(tag(number), "tenants")


def tenant_epoch(tenant_id: str) -> bytes:
    """The epoch of the tenant's document, compared by every admission."""
    return _of_tenant(tenant_id, "tenant", tenant_id, "epoch")


def tenant_document(tenant_id: str) -> bytes:
    """The tenant's published document."""
    return _of_tenant(tenant_id, "tenant", tenant_id, "doc")


def tenant_keys(tenant_id: str) -> bytes:
    """The ids of the tenant's keys, a set."""
    return _of_tenant(tenant_id, "tenant", tenant_id, "keys")


def key_epoch(tenant_id: str, key_id: str) -> bytes:
    """The epoch of the key's document, compared by every admission."""
    return _of_tenant(tenant_id, "key", tenant_id, key_id, "epoch")


def key_document(tenant_id: str, key_id: str) -> bytes:
    """The key's published document, in its tenant's slot."""
    return _of_tenant(tenant_id, "key", tenant_id, key_id, "doc")


def key_index_partition(digest: bytes) -> int:
    """The partition in which a key's digest is looked up: the digest's first byte."""
    return digest[0]


def key_index(digest: bytes) -> bytes:
    """From the whole SHA-256 digest of a key, 32 bytes, to `tenant/key id`. Written last on create, never changed."""
    return _key(tag(key_index_partition(digest)), "index", digest.hex())


def key_owner(key_id: str) -> bytes:
    """From a key id to its tenant, for commands that name only the key."""
    return _key(tag(partition(key_id)), "owner", key_id)


def secret(tenant_id: str, provider: str, name: str, version: int) -> bytes:
    """A sealed secret of a tenant; of the platform when the tenant id is empty."""
    slot = tag(partition(tenant_id)) if tenant_id else SHARED
    return _key(slot, "secret", tenant_id, provider, name, str(version))


def secret_latest(tenant_id: str, provider: str, name: str) -> bytes:
    """The highest version of a secret that was ever given out, a counter."""
    slot = tag(partition(tenant_id)) if tenant_id else SHARED
    return _key(slot, "secret", tenant_id, provider, name, "latest")


def secrets(tenant_id: str) -> bytes:
    """The names and versions of a tenant's sealed secrets, a set; of the platform's when the tenant id is empty."""
    return _key(tag(partition(tenant_id)), "secrets", tenant_id) if tenant_id else _key(SHARED, "secrets")


def kek_seals(kek_id: str) -> bytes:
    """How many times a key-encryption key has sealed, a counter that is never reset."""
    return _key(SHARED, "kek", kek_id, "seals")


def counter(tenant_id: str, limit: str, window: str, key_id: str = "", route: str = "") -> bytes:
    """The counter of a tenant's limit. Its window's start is in its value, and the limit's size is not part of its name.

    Args:
        limit: the limit's name.
        window: algorithm and length, such as `fixed60000`: another window is another counter.
        key_id: given when the limit is counted per key.
        route: given when the limit is counted per endpoint.
    """
    return _of_tenant(tenant_id, "n", tenant_id, limit, window, key_id, route)


def shared_counter(limit: str, window: str, route: str = "") -> bytes:
    """The counter of a global limit, in the shared slot."""
    return _key(SHARED, "n", limit, window, route)


def breaker(provider: str) -> bytes:
    """The breaker of a provider, for all tenants and all sidecars."""
    return _key(SHARED, "breaker", provider)


def breaker_probe(provider: str) -> bytes:
    """The lease of the one probe of a half-open breaker."""
    return _key(SHARED, "probe", provider)


def tenant_breaker(tenant_id: str, provider: str) -> bytes:
    """The breaker of one tenant at one provider, read inside the admission script."""
    return _of_tenant(tenant_id, "breaker", tenant_id, provider)


def server_identity() -> bytes:
    """Written once by the first command on an empty Redis: says that this Redis is a record of ours."""
    return _key(SHARED, "identity")
