"""What admission promises, spelled out slowly: one dictionary, no Redis. And the real script with a clock that a test sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from extauthz import keyspace
from extauthz.admission import reply
from extauthz.admission.admit import records
from extauthz.admission.script import joined
from extauthz.limits.algorithms import CODES, fixed, sliding
from extauthz.limits.algorithms.outcome import Outcome
from extauthz.limits.rules import Rule

TENANT, KEY, PROVIDER = "acme", "k1", "openai"
TENANT_EPOCH_KEY = keyspace.tenant_epoch(TENANT)
KEY_EPOCH_KEY = keyspace.key_epoch(TENANT, KEY)
BREAKER_KEY = keyspace.tenant_breaker(TENANT, PROVIDER)

#: Stands in for lua/clock.lua: the rest of the script is the one that runs in production.
GIVEN_CLOCK = "local now = tonumber(ARGV[4])\n"


def rule(name: str, limit: int, window_ms: int, cost: int = 1, algorithm: str = "fixed", level: str = "tenant") -> Rule:
    key = keyspace.shared_counter(name, "w") if level == "global" else keyspace.counter(TENANT, name, "w")
    return Rule(name, level, key, CODES[algorithm], limit, window_ms, cost)


@dataclass
class Oracle:
    """Every counter, breaker and epoch in the open."""

    tenant_epoch: bytes | None = b"1.a"
    key_epoch: bytes | None = b"1.b"
    open_until_ms: int | None = None
    states: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    #: A counter is kept for two windows and a second from when its window opened or moved.
    expires_ms: dict[bytes, int] = field(default_factory=dict)

    def expire(self, now_ms: int) -> list[bytes]:
        """What Redis forgets at this moment; a clock that steps back later does not bring it back."""
        ended = [key for key, ends in self.expires_ms.items() if now_ms > ends]
        for key in ended:
            del self.states[key], self.expires_ms[key]
        return ended

    def _put(self, rule: Rule, state: tuple[int, ...], now_ms: int) -> None:
        if rule.key not in self.states or self.states[rule.key][0] != state[0]:
            self.expires_ms[rule.key] = now_ms + 2 * rule.window_ms + 1_000
        self.states[rule.key] = state

    def outcome(self, rule: Rule, now_ms: int) -> Outcome:
        definition = fixed.outcome if rule.algorithm == CODES["fixed"] else sliding.outcome
        state = self.states.get(rule.key)
        return definition(state, now_ms, rule.limit, rule.window_ms, rule.cost)  # type: ignore[arg-type]

    def admit(self, now_ms: int, rules: Sequence[Rule], tenant_epoch: bytes = b"1.a", key_epoch: bytes = b"1.b") -> list[int]:
        if self.tenant_epoch != tenant_epoch or self.key_epoch != key_epoch:
            return [reply.STALE]
        if self.open_until_ms is not None and self.open_until_ms > now_ms:
            return [reply.BREAKER_OPEN, self.open_until_ms - now_ms]
        outcomes = [self.outcome(rule, now_ms) for rule in rules]
        if all(outcome.fits for outcome in outcomes):
            for rule, outcome in zip(rules, outcomes, strict=True):
                self._put(rule, outcome.counted, now_ms)
            if not rules:
                return [reply.ADMITTED, -1, 0, 0]
            tightest = min(range(len(rules)), key=lambda index: (outcomes[index].remaining, -outcomes[index].reset_ms))
            return [reply.ADMITTED, tightest, outcomes[tightest].remaining, outcomes[tightest].reset_ms]
        refusing = [index for index, outcome in enumerate(outcomes) if not outcome.fits]
        for index in refusing:
            self._move(rules[index], outcomes[index], now_ms)
        waits = {index: float("inf") if (wait := outcomes[index].retry_ms) is None else wait for index in refusing}
        longest = max(refusing, key=lambda index: (waits[index], -index))
        outcome = outcomes[longest]
        wait = reply.NEVER if outcome.retry_ms is None else outcome.retry_ms
        return [reply.DENIED, longest, max(0, outcome.remaining), outcome.reset_ms, wait]

    def _move(self, rule: Rule, outcome: Outcome, now_ms: int) -> None:
        """A denial counts nothing, but a window that lies ahead of the clock comes back to it."""
        if rule.key in self.states and self.states[rule.key][0] > now_ms:
            self._put(rule, outcome.uncounted, now_ms)

    def values(self) -> dict[bytes, bytes]:
        """What Redis must hold for the counters."""
        return {key: b":".join([b"%013d" % state[0], *(b"%d" % part for part in state[1:])]) for key, state in self.states.items()}


def arguments(rules: Sequence[Rule], tenant_epoch: bytes = b"1.a", key_epoch: bytes = b"1.b") -> tuple[list[bytes], list[bytes]]:
    """KEYS and ARGV of one run."""
    return (
        [TENANT_EPOCH_KEY, KEY_EPOCH_KEY, BREAKER_KEY, *(rule.key for rule in rules)],
        [tenant_epoch, key_epoch, records(rules)],
    )


class RealScript:
    """The script on a real server, with a given clock. `source` is for a test that breaks it."""

    expires_by_given_clock = False

    def __init__(self, url: str, source: str | None = None) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self._sha = self.client.script_load(source or joined(GIVEN_CLOCK))
        self.now_ms = 0
        self.publish(b"1.a", b"1.b")

    def close(self) -> None:
        self.client.close()

    def publish(self, tenant_epoch: bytes | None, key_epoch: bytes | None) -> None:
        self.set(TENANT_EPOCH_KEY, tenant_epoch)
        self.set(KEY_EPOCH_KEY, key_epoch)

    def admit(self, now_ms: int, rules: Sequence[Rule], tenant_epoch: bytes = b"1.a", key_epoch: bytes = b"1.b") -> list[int]:
        self.now_ms = now_ms
        return self.run(*arguments(rules, tenant_epoch, key_epoch))

    def run(self, keys: list[bytes], argv: list[bytes]) -> list[int]:
        """EVALSHA at `now_ms`."""
        answer: list[int] = self.client.evalsha(self._sha, len(keys), *keys, *argv, self.now_ms)
        return answer

    def set(self, key: bytes, value: bytes | None, ttl_ms: int | None = None) -> None:
        """SET, with PX when given; DEL when None."""
        if value is None:
            self.client.delete(key)
        else:
            self.client.set(key, value, px=ttl_ms and max(1, ttl_ms))

    def values(self) -> dict[bytes, bytes]:
        """Every counter that is there."""
        found = {key: self.client.get(key) for key in self.client.keys("*") if b":n:" in key}
        return {key: value for key, value in found.items() if value is not None}

    def ttls_ms(self) -> dict[bytes, int]:
        """-1: for ever."""
        return {key: self.client.pttl(key) for key in self.values()}
