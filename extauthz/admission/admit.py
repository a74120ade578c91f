"""One request, one command, one round trip: every rule counts it, or nothing does."""

import struct
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from extauthz import keyspace
from extauthz.admission.script import ADMIT
from extauthz.limits.rules import Rule
from extauthz.redisio.connection import Connection
from extauthz.redisio.pipeline import pack

#: One rule in the script's third argument: algorithm, limit, window in ms, cost. A record for all of them costs 2.5 us less inside
#: Redis, for four rules, than an argument for each number.
_RULE: Final = struct.Struct("<Bddd")


class Prepared:
    """What stays the same for all requests of one key on one route, until a document or the gateway file changes.

    Attributes:
        command: the whole EVALSHA as it is written to Redis.
        rules: what a reply's rule number points into.
        providers: whose breakers, of this tenant, the script reads.
    """

    __slots__ = ("command", "providers", "rules")

    def __init__(self, command: bytes, rules: tuple[Rule, ...], providers: tuple[str, ...]) -> None:
        self.command = command
        self.rules = rules
        self.providers = providers


def prepare(tenant_id: str, tenant_epoch: bytes, key_id: str, key_epoch: bytes, provider: str, rules: tuple[Rule, ...]) -> Prepared:
    """Pack the command for requests that rest on these two documents.

    Args:
        tenant_epoch: of the tenant's document that the decision rests on; another one in Redis answers STALE.
        key_epoch: the same for the key's.
        provider: the first of the chain.
        rules: at most RULES_MAX, from `rules_of`.
    """
    keys = (
        keyspace.tenant_epoch(tenant_id),
        keyspace.key_epoch(tenant_id, key_id),
        keyspace.tenant_breaker(tenant_id, provider),
        *(rule.key for rule in rules),
    )
    return Prepared(
        command=pack("EVALSHA", ADMIT.sha, len(keys), *keys, tenant_epoch, key_epoch, records(rules)),
        rules=rules,
        providers=(provider,),
    )


def records(rules: Sequence[Rule]) -> bytes:
    """The rules' numbers as the script reads them."""
    return b"".join(_RULE.pack(rule.algorithm, rule.limit, rule.window_ms, rule.cost) for rule in rules)


class Admission:
    """The last step that can refuse.

    Args:
        connection: made with `scripts` that hold ADMIT.
    """

    __slots__ = ("_run",)

    def __init__(self, connection: Connection) -> None:
        self._run = connection.run

    def admit(self, prepared: Prepared, deadline: float) -> Coroutine[Any, Any, list[int]]:
        """Count one request, once. HOT. The reply is as reply.py says, unpacked by the caller.

        Args:
            deadline: loop.time() after which the answer is of no use.

        Raises NotSent and ServerBusy: nothing was counted. OutcomeUnknown: it may have been counted, so the command is never sent
        again, and the tenant has at most that one request less until the window ends. CommandFailed: nothing was counted, a
        counter does not parse. Cancelled while it waits: as OutcomeUnknown.
        """
        return self._run(ADMIT, prepared.command, deadline)
