"""What the tests of the record start from, and a connection that breaks at a chosen command."""

from collections.abc import Sequence
from typing import Any

from extauthz.errors import Unavailable
from extauthz.record.server import Command, Server
from extauthz.secret import Secret
from extauthz.tenants.api_key import mint
from extauthz.tenants.documents import KeyDocument, TenantDocument


def server_at(url: str) -> Server:
    return Server(Secret(url.encode()))


class BreakingServer(Server):
    """A connection that breaks at the n-th command: before it was sent, or after it was executed and before its reply came."""

    def __init__(self, url: str, commands: int, *, is_sent: bool) -> None:
        super().__init__(Secret(url.encode()))
        self._left = commands
        self._is_sent = is_sent
        self.has_broken = False

    async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) <= self._left:
            self._left -= len(commands)
            return await super().execute_all(commands)
        self.has_broken = True
        await super().execute_all(commands[: self._left + self._is_sent])
        self._left = 0
        raise Unavailable("the connection broke")


def tenant(tenant_id: str = "acme", **fields: Any) -> TenantDocument:
    return TenantDocument(**{"tenant_id": tenant_id, "version": 1, "is_active": True, "created_at_ms": 1_700_000_000_000, **fields})


def new_key(tenant_id: str = "acme", **fields: Any) -> tuple[Secret, KeyDocument]:
    key, key_id, digest = mint("test")
    return key, KeyDocument(
        **{
            "key_id": key_id,
            "tenant_id": tenant_id,
            "version": 1,
            "is_active": True,
            "digest": digest,
            "scopes": ("agents:voice",),
            "created_at_ms": 1_700_000_000_000,
            **fields,
        }
    )


async def contents(server: Server) -> dict[bytes, bytes]:
    """Every key of this Redis with its value as DUMP gives it."""
    names = sorted(await server.execute("KEYS", "*"))
    return dict(zip(names, await server.execute_all([("DUMP", name) for name in names]), strict=True))


async def values(server: Server) -> dict[bytes, bytes]:
    """Every key of this Redis with its value as bytes; unlike DUMP never compressed."""
    shown: dict[bytes, bytes] = {}
    for name in await server.execute("KEYS", "*"):
        kind = await server.execute("TYPE", name)
        command = {b"string": "GET", b"set": "SMEMBERS", b"hash": "HGETALL"}[kind]
        reply = await server.execute(command, name)
        parts = [reply] if isinstance(reply, bytes) else [*reply, *(reply.values() if isinstance(reply, dict) else ())]
        shown[name] = b"\n".join(parts)
    return shown
