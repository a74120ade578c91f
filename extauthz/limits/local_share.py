"""What one worker admits on its own while Redis does not answer, for plans that ask for it.

Each worker has `floor(share x limit / sidecars)` of every limit per window, in fixed windows of its own clock. So while Redis is
away all workers together admit at most share x limit in a window, and what Redis counted before it went plus this is at most
limit x (1 + share), as long as an outage touches one local window; every further local window that one window of Redis overlaps
adds a share. When it decides to ask this and not Redis is not this module's business: it knows no failure, only numbers.
"""

from collections.abc import Sequence
from typing import Final

from extauthz.limits.rules import Rule

#: Counters kept, 200 bytes each: 4 MB. At the bound ended windows go; when none has ended, what has no counter yet is refused.
COUNTERS_MAX: Final = 20_000
#: Redis may be back before a window is over, so nobody is told to wait for longer.
RETRY_MS_MAX: Final = 1_000
#: A share is taken to this precision, so that 0.29 of 100 is 29 and not what floats make of it.
_PRECISION: Final = 1_000_000

_ADMITTED: Final = 0
_DENIED: Final = 1


class LocalShare:
    """The counters of one worker. They stay over several outages: a Redis that comes and goes does not renew a share."""

    __slots__ = ("_counters_max", "_purge_at", "_windows")

    def __init__(self, counters_max: int = COUNTERS_MAX) -> None:
        self._counters_max = counters_max
        # Counter key to when its window ends and what it has admitted.
        self._windows: dict[bytes, tuple[float, int]] = {}
        # No window ends before: until then there is nothing to forget.
        self._purge_at = 0.0

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, rules: Sequence[Rule], share: float, sidecars: int, now_s: float) -> list[int]:
        """Count one request under every rule, or under none. Without rules there is no limit to share, as in Redis.

        Args:
            share: 0.0 to 1.0, of the plan's failure mode.
            sidecars: workers that share each limit, 1 or more.
            now_s: a clock that only goes forward.

        Returns a reply in the form of admission/reply.py: [0, rule, remaining, reset_ms], numbers of the local share, or
        [1, rule, remaining, reset_ms, retry_ms].
        """
        if not rules:
            return [_ADMITTED if share > 0 else _DENIED, -1, 0, 0, 0]
        parts = round(share * _PRECISION)
        states = [self._state(rule, now_s) for rule in rules]
        free = [rule.limit * parts // (_PRECISION * sidecars) - used for rule, (_, used) in zip(rules, states, strict=True)]
        over = [index for index, rule in enumerate(rules) if rule.cost > free[index]]
        if over or not self._has_room(rules, now_s):
            index = max(over, key=lambda index: states[index][0], default=0)
            reset_ms = _ms(states[index][0] - now_s)
            return [_DENIED, index, max(0, free[index]) if over else 0, reset_ms, min(reset_ms, RETRY_MS_MAX)]
        for rule, (ends, used) in zip(rules, states, strict=True):
            self._windows[rule.key] = (ends, used + rule.cost)
        index = min(range(len(rules)), key=lambda index: (free[index] - rules[index].cost, -states[index][0]))
        return [_ADMITTED, index, free[index] - rules[index].cost, _ms(states[index][0] - now_s)]

    def _state(self, rule: Rule, now_s: float) -> tuple[float, int]:
        found = self._windows.get(rule.key)
        return found if found is not None and now_s < found[0] else (now_s + rule.window_ms / 1000, 0)

    def _has_room(self, rules: Sequence[Rule], now_s: float) -> bool:
        """Whether counters of these rules fit; forgets windows that have ended when they do not."""
        new = sum(rule.key not in self._windows for rule in rules)
        if len(self._windows) + new > self._counters_max and now_s >= self._purge_at:
            self._windows = {key: window for key, window in self._windows.items() if now_s < window[0]}
            self._purge_at = min((ends for ends, _ in self._windows.values()), default=0.0)
            new = sum(rule.key not in self._windows for rule in rules)
        return len(self._windows) + new <= self._counters_max


def _ms(seconds: float) -> int:
    """Rounded up, at least 1."""
    return max(1, int(-(-seconds * 1000 // 1)))
