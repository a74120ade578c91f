"""API keys in the record."""

import msgspec

from extauthz import keyspace
from extauthz.errors import Malformed, Missing
from extauthz.record.publish import Published, change, create, key_place, read_all, set_once
from extauthz.record.server import Server
from extauthz.record.tenants import read_tenant
from extauthz.tenants.api_key import is_key_id
from extauthz.tenants.documents import KeyDocument


async def create_key(server: Server, document: KeyDocument) -> Published[KeyDocument]:
    """Publish a new key of a tenant that exists. Raises Missing, Conflict, Malformed.

    The index, by which a request finds the key, is written last: until then the key is no key, though it can be listed and revoked.
    """
    place = key_place(document.tenant_id, document.key_id)
    place.encode(document)
    await read_tenant(server, document.tenant_id)
    owner = keyspace.key_owner(document.key_id)
    await set_once(server, keyspace.partition(document.key_id), owner, document.tenant_id)
    published = await create(server, place, document)
    index = keyspace.key_index(document.digest)
    await set_once(server, keyspace.key_index_partition(document.digest), index, f"{document.tenant_id}/{document.key_id}")
    return published


async def revoke_key(server: Server, key_id: str) -> Published[KeyDocument]:
    """Publish the key as revoked, for ever. Raises Missing; a key that is revoked already stays so, unchanged."""
    if not is_key_id(key_id):
        raise Malformed("a key's id is 16 of a-z and 2-7: the part between the second and the third _ of the key")
    owner = await server.execute("GET", keyspace.key_owner(key_id))
    if owner is None:
        raise Missing(f"there is no key {key_id}")
    return await change(server, key_place(owner.decode(), key_id), lambda key: msgspec.structs.replace(key, is_active=False))


async def list_keys(server: Server, tenant_id: str) -> list[KeyDocument]:
    """The tenant's keys, the oldest first. Raises Missing when there is no such tenant."""
    await read_tenant(server, tenant_id)
    members = await server.execute("SMEMBERS", keyspace.tenant_keys(tenant_id))
    keys = await read_all(server, [key_place(tenant_id, member.decode()) for member in members])
    return sorted(keys, key=lambda key: (key.created_at_ms, key.key_id))
