"""The states of a provider's breaker, one for the whole fleet, and how it goes from one to another.

Closed: requests go to the provider. Open: none do. Half open: one at a time does, the probe, and its outcome decides. There is no
breaker in Redis as long as nothing failed: absent is closed. Half open is not written anywhere: it is open whose time is over, by
Redis' clock. The table below is what lua/outcome.lua does and the tests hold it to; a pair that is not in it cannot happen.
"""

import re
from enum import Enum
from types import MappingProxyType
from typing import Final

CLOSED: Final = 0
OPEN: Final = 1
HALF_OPEN: Final = 2

#: Consecutive failures that open a closed breaker.
FAILURES_TO_OPEN: Final = 5
#: How long it is open: the first time; each time that a probe fails twice as long as before, up to the most.
OPEN_MS: Final = 30_000
OPEN_MS_MAX: Final = 600_000
#: A breaker that no outcome touches is forgotten, which is closed, a day after its time is over.
KEPT_MS: Final = 86_400_000


class Event(Enum):
    """What can happen to a breaker."""

    SUCCESS = "a request to the provider succeeded"
    FAILURE = "a request to the provider failed"
    LAST_FAILURE = "the failure that makes FAILURES_TO_OPEN in a row"
    TIME_OVER = "Redis' clock reached the end of the time it is open, or stepped back before its beginning"
    OPENED = "an operator opened it"
    CLOSED_BY_HAND = "an operator closed it"


TABLE: Final = MappingProxyType(
    {
        (CLOSED, Event.SUCCESS): CLOSED,
        (CLOSED, Event.FAILURE): CLOSED,
        (CLOSED, Event.LAST_FAILURE): OPEN,
        (CLOSED, Event.OPENED): OPEN,
        (CLOSED, Event.CLOSED_BY_HAND): CLOSED,
        # Outcomes of requests that were under way when it opened say nothing new.
        (OPEN, Event.SUCCESS): OPEN,
        (OPEN, Event.FAILURE): OPEN,
        (OPEN, Event.TIME_OVER): HALF_OPEN,
        (OPEN, Event.OPENED): OPEN,
        (OPEN, Event.CLOSED_BY_HAND): CLOSED,
        (HALF_OPEN, Event.SUCCESS): CLOSED,
        (HALF_OPEN, Event.FAILURE): OPEN,
        (HALF_OPEN, Event.OPENED): OPEN,
        (HALF_OPEN, Event.CLOSED_BY_HAND): CLOSED,
    }
)

_OPEN_VALUE: Final = re.compile(rb"open:(\d{1,15}):(\d{1,15})")


def state_of(value: bytes | None, now_ms: int) -> int:
    """The state that a breaker's value means, as lua/state.lua reads it.

    Args:
        value: what Redis holds. None, and what does not parse, is closed: a breaker protects a provider, it permits nothing.
        now_ms: Redis' clock.
    """
    found = _OPEN_VALUE.fullmatch(value) if value is not None else None
    if found is None:
        return CLOSED
    open_ms, left_ms = int(found[1]), int(found[2]) - now_ms
    return OPEN if left_ms > 0 and (open_ms == 0 or left_ms <= open_ms) else HALF_OPEN
