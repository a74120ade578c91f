"""The breaker's scripts on a real server, with a clock that a test sets."""

from typing import Any

import redis

from extauthz import keyspace
from extauthz.breaker.script import ACQUIRE, OPEN_BY_HAND, OUTCOME, RELEASE
from extauthz.breaker.states import FAILURES_TO_OPEN, KEPT_MS, OPEN_MS, OPEN_MS_MAX, state_of
from extauthz.redisio.script import Script

PROVIDER = "openai"
BREAKER_KEY = keyspace.breaker(PROVIDER)
PROBE_KEY = keyspace.breaker_probe(PROVIDER)

_CLOCK = "redis.call('TIME')"
_GIVEN_CLOCK = "{ARGV[#ARGV] / 1000, '0'}"


class RealBreaker:
    """One provider's breaker."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)

    def close(self) -> None:
        self.client.close()

    def _run(self, script: Script, keys: list[bytes], *argv: object) -> int:
        assert script.source.count(_CLOCK) == 1
        answer: int = self.client.eval(script.source.replace(_CLOCK, _GIVEN_CLOCK), len(keys), *keys, *argv)
        return answer

    def outcome(self, success: bool, now_ms: int) -> int:
        return self._run(OUTCOME, [BREAKER_KEY, PROBE_KEY], int(success), FAILURES_TO_OPEN, OPEN_MS, OPEN_MS_MAX, KEPT_MS, now_ms)

    def acquire(self, token: str, now_ms: int, lease_ms: int = 60_000) -> bool:
        return self._run(ACQUIRE, [BREAKER_KEY, PROBE_KEY], token, lease_ms, now_ms) == 1

    def release(self, token: str) -> bool:
        return bool(self.client.eval(RELEASE.source, 1, PROBE_KEY, token) == 1)

    def open_by_hand(self, for_ms: int, now_ms: int) -> int:
        return self._run(OPEN_BY_HAND, [BREAKER_KEY, PROBE_KEY], for_ms, KEPT_MS, now_ms)

    def close_by_hand(self) -> None:
        self.client.delete(BREAKER_KEY, PROBE_KEY)

    def state(self, now_ms: int) -> int:
        return state_of(self.client.get(BREAKER_KEY), now_ms)
