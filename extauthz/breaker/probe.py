"""The one request at a time that a half-open breaker lets through."""

import secrets
from typing import Final

from extauthz import keyspace
from extauthz.breaker.script import ACQUIRE, RELEASE
from extauthz.redisio.connection import Connection
from extauthz.redisio.pipeline import pack

#: A probe whose outcome is lost is no outcome: after this time the next request probes.
LEASE_MS: Final = 30_000


class Probes:
    """Leases of the fleet's probes, in Redis.

    Args:
        connection: made with breaker.script.SCRIPTS.
        lease_ms: how long a probe is its taker's.
    """

    def __init__(self, connection: Connection, lease_ms: int = LEASE_MS) -> None:
        self._connection = connection
        self._lease_ms = lease_ms

    async def acquire(self, provider: str, deadline: float) -> bytes | None:
        """Take the probe. Returns its token; None when another has it, or when the breaker is not half open by now.

        Raises NotSent, ServerBusy: not taken. OutcomeUnknown, or cancelled: it may be taken, and ends with its lease.
        """
        token = secrets.token_hex(16).encode()
        keys = keyspace.breaker(provider), keyspace.breaker_probe(provider)
        command = pack("EVALSHA", ACQUIRE.sha, 2, *keys, token, self._lease_ms)
        return token if await self._connection.run(ACQUIRE, command, deadline) == 1 else None

    async def release(self, provider: str, token: bytes, deadline: float) -> None:
        """Give back a probe that was not made, so that the next request can. Nothing happens when the token's lease is over.

        Raises as `acquire`; then it ends with its lease.
        """
        command = pack("EVALSHA", RELEASE.sha, 1, keyspace.breaker_probe(provider), token)
        await self._connection.run(RELEASE, command, deadline)
