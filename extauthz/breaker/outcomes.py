"""What became of a request to a provider, told to the breaker that all sidecars share."""

import math
from typing import cast

from extauthz import keyspace
from extauthz.breaker.script import OUTCOME
from extauthz.breaker.states import FAILURES_TO_OPEN, KEPT_MS, OPEN_MS, OPEN_MS_MAX
from extauthz.redisio.connection import Connection
from extauthz.redisio.pipeline import pack


async def record_outcome(connection: Connection, provider: str, success: bool, deadline: float = math.inf) -> int:  # noqa: FBT001  an outcome is a yes or a no
    """Tell the breaker one outcome, once. Returns the state it left: CLOSED or OPEN.

    Args:
        connection: made with breaker.script.SCRIPTS.
        success: False for what says that the provider is in trouble: connect failure, timeout, 5xx; not for a client's error.

    Raises NotSent, ServerBusy: not counted. OutcomeUnknown: counted or not; a failure more or less, never sent again.
    """
    keys = keyspace.breaker(provider), keyspace.breaker_probe(provider)
    command = pack("EVALSHA", OUTCOME.sha, 2, *keys, int(success), FAILURES_TO_OPEN, OPEN_MS, OPEN_MS_MAX, KEPT_MS)
    return cast("int", await connection.run(OUTCOME, command, deadline))
