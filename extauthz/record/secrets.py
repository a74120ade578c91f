"""Credentials in the record: sealed first, then named by the tenant's document, so that no version is in force half written."""

import msgspec

from extauthz.credentials.keyring import Keyring
from extauthz.credentials.store import SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.record.publish import Published
from extauthz.record.server import Server
from extauthz.record.setup import prepare
from extauthz.record.tenants import change_tenant, read_tenant
from extauthz.secret import Secret
from extauthz.tenants.documents import TenantDocument

#: The name of a tenant's only credential at a provider.
DEFAULT_NAME = "default"


async def set_secret(
    server: Server, keyring: Keyring, tenant_id: str, provider: str, value: Secret
) -> tuple[SecretRef, Published[TenantDocument]]:
    """Keep the value as a new version and put it in force. Raises Missing when there is no such tenant, KekExhausted.

    A value that is replaced stays sealed in the record, since a request that was decided before may still fetch it.
    """
    await read_tenant(server, tenant_id)
    ref = await RedisStore(server, keyring).put(tenant_id, provider, DEFAULT_NAME, value)
    published = await change_tenant(server, tenant_id, lambda tenant: _naming(tenant, ref))
    return ref, published


async def set_platform_secret(server: Server, keyring: Keyring, provider: str, value: Secret) -> SecretRef:
    """Keep the value as a new version of the platform's own. No tenant's request is ever sent with it."""
    await prepare(server)
    return await RedisStore(server, keyring).put("", provider, DEFAULT_NAME, value)


def _naming(tenant: TenantDocument, ref: SecretRef) -> TenantDocument:
    """The tenant with this version in force, unless a later one is: two who set at once leave the later one."""
    in_force = {provider: (name, version) for provider, name, version in tenant.secrets}
    if in_force.get(ref.provider, ("", 0))[1] < ref.version:
        in_force[ref.provider] = (ref.name, ref.version)
    return msgspec.structs.replace(tenant, secrets=tuple((provider, *secret) for provider, secret in in_force.items()))
