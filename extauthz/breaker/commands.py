"""Opening and closing by hand. Each takes what runs a command, so that redis-py or our own connection can."""

from collections.abc import Callable
from typing import Any, TypeVar

from extauthz import keyspace
from extauthz.breaker.script import OPEN_BY_HAND
from extauthz.breaker.states import KEPT_MS

Answer = TypeVar("Answer")


def open_by_hand(execute: Callable[..., Answer], provider: str, for_ms: int | None = None) -> Answer:
    """Open the provider's breaker for the whole fleet, whatever its state. Every sidecar obeys within a poll.

    Args:
        execute: runs one command, given as its words; what it returns is returned: the unix ms of Redis' clock at which the
            breaker becomes half open, 0 for never.
        for_ms: 1 to 366 days; None: until it is closed by hand.

    Raises ValueError for a time out of range.
    """
    if for_ms is not None and not 1 <= for_ms <= 366 * 86_400_000:
        raise ValueError(f"a breaker is opened for 1 ms to 366 days, not {for_ms} ms")
    keys = keyspace.breaker(provider), keyspace.breaker_probe(provider)
    return execute("EVAL", OPEN_BY_HAND.source, 2, *keys, for_ms or 0, KEPT_MS)


def close_by_hand(execute: Callable[..., Answer], provider: str) -> Answer:
    """Close it, whatever its state, and forget its failures."""
    return execute("DEL", keyspace.breaker(provider), keyspace.breaker_probe(provider))


def read(execute: Callable[..., Any], provider: str) -> Any:
    """Its value, for `states.state_of`."""
    return execute("GET", keyspace.breaker(provider))
