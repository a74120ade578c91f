"""An operator's hands for tests: tenants, keys and secrets written to a real Redis the way the commands write them."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from extauthz.credentials import keyring
from extauthz.record import keys, secrets, tenants
from extauthz.record.server import Server
from extauthz.secret import Secret
from extauthz.tenants import api_key
from extauthz.tenants.documents import KeyDocument, TenantDocument

MASTER_KEY = "5f" * 8 + "0123456789abcdef" * 3


@dataclasses.dataclass(frozen=True)
class MadeKey:
    """A key as its owner has it, and as the record names it."""

    text: str
    key_id: str
    digest: bytes


class Record:
    """The record in one Redis."""

    def __init__(self, server: Server, ring: keyring.Keyring) -> None:
        self.server = server
        self._ring = ring

    async def tenant(self, tenant_id: str, plan: str = "free", limits: tuple[tuple[str, int, int], ...] = ()) -> None:
        await tenants.create_tenant(self.server, tenant_document(tenant_id, plan, limits))

    async def change(self, tenant_id: str, **changes: object) -> None:
        await tenants.change_tenant(self.server, tenant_id, lambda document: msgspec.structs.replace(document, **changes))

    async def read(self, tenant_id: str) -> TenantDocument:
        return await tenants.read_tenant(self.server, tenant_id)

    async def key(self, tenant_id: str, scopes: tuple[str, ...] = ("agents:orchestration",), **fields: object) -> MadeKey:
        secret, key_id, digest = api_key.mint("test")
        await keys.create_key(self.server, key_document(tenant_id, key_id, digest, scopes, **fields))
        return MadeKey(secret.reveal().decode(), key_id, digest)

    async def change_key(self, tenant_id: str, key_id: str, edit: Callable[[KeyDocument], KeyDocument]) -> None:
        from extauthz.record.publish import change, key_place  # noqa: PLC0415

        await change(self.server, key_place(tenant_id, key_id), edit)

    async def revoke(self, key_id: str) -> None:
        await keys.revoke_key(self.server, key_id)

    async def secret(self, tenant_id: str, provider: str, value: str) -> None:
        await secrets.set_secret(self.server, self._ring, tenant_id, provider, Secret(value.encode()))


@asynccontextmanager
async def opened_record(redis_url: str, folder: Path) -> AsyncIterator[Record]:
    """A record on this Redis; its master key file is `folder/master.key`."""
    path = master_key_file(folder)
    async with Server(Secret(redis_url.encode())) as server:
        yield Record(server, keyring.load([path]))


def master_key_file(folder: Path) -> Path:
    path = folder / "master.key"
    if not path.exists():
        path.write_text(MASTER_KEY)
        path.chmod(0o600)
    return path


def tenant_document(tenant_id: str, plan: str, limits: tuple[tuple[str, int, int], ...]) -> TenantDocument:
    return TenantDocument(
        tenant_id=tenant_id,
        version=1,
        epoch=b"",
        is_active=True,
        plan=plan,
        subdomain=tenant_id,
        limits=limits,
        secrets=(),
        created_at_ms=1,
    )


def key_document(tenant_id: str, key_id: str, digest: bytes, scopes: tuple[str, ...], **fields: object) -> KeyDocument:
    plain: dict[str, object] = {
        "key_id": key_id,
        "tenant_id": tenant_id,
        "version": 1,
        "epoch": b"",
        "is_active": True,
        "digest": digest,
        "scopes": scopes,
        "providers": (),
        "models": (),
        "networks": (),
        "expires_at_ms": 0,
        "created_at_ms": 1,
        "name": "",
    }
    return KeyDocument(**{**plain, **fields})  # type: ignore[arg-type]
