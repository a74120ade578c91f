"""Tenants in the record."""

from collections.abc import Callable

from extauthz import keyspace
from extauthz.record.publish import Published, change, create, read, read_all, tenant_place
from extauthz.record.server import Server
from extauthz.record.setup import prepare
from extauthz.tenants.documents import TenantDocument, encode_tenant


async def create_tenant(server: Server, document: TenantDocument) -> Published[TenantDocument]:
    """Publish a new tenant; on an empty Redis, make it a record first. Raises Conflict when the tenant exists, Malformed."""
    encode_tenant(document)
    await prepare(server)
    return await create(server, tenant_place(document.tenant_id), document)


async def change_tenant(
    server: Server, tenant_id: str, edit: Callable[[TenantDocument], TenantDocument]
) -> Published[TenantDocument]:
    """Publish the edited tenant. Raises Missing; see `publish.change`."""
    return await change(server, tenant_place(tenant_id), edit)


async def read_tenant(server: Server, tenant_id: str) -> TenantDocument:
    """The tenant in force. Raises Missing."""
    return await read(server, tenant_place(tenant_id))


async def list_tenants(server: Server) -> list[TenantDocument]:
    """Every tenant, by id."""
    sets = await server.execute_all([("SMEMBERS", keyspace.tenants(number)) for number in range(keyspace.PARTITIONS)])
    names = sorted(member.decode() for members in sets for member in members)
    return await read_all(server, [tenant_place(name) for name in names])
