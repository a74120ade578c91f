"""A seeded life of one tenant: requests, limits that change, epochs, a clock that jumps, replies that get lost, a failover.

The script and the oracle live it side by side. After every step every reply, every counter and every TTL must agree.
"""

import copy
import random
from collections.abc import Callable
from typing import Protocol

from extauthz.admission import reply
from extauthz.limits.rules import Rule
from tests.oracles.admission import BREAKER_KEY, KEY_EPOCH_KEY, TENANT_EPOCH_KEY, Oracle, arguments, rule

T0 = 1_790_000_000_000
STEPS = 40
WINDOWS_MS = (60_000, 100_003)


class Server(Protocol):
    """What runs the script: simulated, or real with a given clock."""

    now_ms: int
    #: Whether keys expire by `now_ms`; else by the server's own clock.
    expires_by_given_clock: bool

    def run(self, keys: list[bytes], argv: list[bytes]) -> list[int]: ...

    def set(self, key: bytes, value: bytes | None, ttl_ms: int | None = None) -> None: ...

    def values(self) -> dict[bytes, bytes]: ...

    def ttls_ms(self) -> dict[bytes, int]: ...


class Life:
    """One seed."""

    def __init__(self, seed: int, server: Server) -> None:
        self._chance = random.Random(seed)
        self._server = server
        self._oracle = Oracle()
        self._replica = copy.deepcopy(self._oracle)
        self._now_ms = T0
        self.denied = self.admitted = 0
        server.set(TENANT_EPOCH_KEY, self._oracle.tenant_epoch)
        server.set(KEY_EPOCH_KEY, self._oracle.key_epoch)
        server.set(BREAKER_KEY, None)

    def live(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [
            (self._request, 12),
            (self._advance, 4),
            (self._step_back, 1),
            (self._publish, 1),
            (self._break, 1),
            (self._replicate, 1),
            (self._fail_over, 1),
        ]
        for step in self._chance.choices([step for step, _ in steps], [weight for _, weight in steps], k=STEPS):
            step()

    def _rules(self) -> list[Rule]:
        """Up to four, each with a limit and a cost that change from request to request, its window never."""
        rules = []
        for number in self._chance.sample(range(6), self._chance.choice((0, 1, 1, 2, 2, 3, 4))):
            algorithm = "fixed" if number % 2 else "sliding"
            level = "global" if number > 3 else "tenant"
            limit = self._chance.choice((1, 3, 3, 5, 9, 2**31))
            rules.append(
                rule(f"r{number}", limit, WINDOWS_MS[number % 3 % 2], self._chance.choice((0, 1, 1, 1, 1, 3)), algorithm, level)
            )
        return rules

    def _request(self) -> None:
        rules = self._rules()
        epochs = self._chance.choice(((b"1.a", b"1.b"),) * 9 + ((b"2.a", b"1.b"), (b"1.a", b"2.b")))
        expected = self._oracle.admit(self._now_ms, rules, *epochs)
        answer = self._server.run(*arguments(rules, *epochs))
        # A tenth of the replies is lost after the script has run: nobody sees it, nobody sends it again.
        if self._chance.randrange(10):
            self._agree(expected, answer, f"{rules}, {epochs}")
        self._agree(self._oracle.values(), self._server.values(), f"{rules} -> {answer}")
        self._compare_ttls()
        self.admitted += expected[0] == reply.ADMITTED
        self.denied += expected[0] == reply.DENIED

    def _agree(self, expected: object, actual: object, what: str) -> None:
        assert expected == actual, f"at {self._now_ms} {what}:\nexpected {expected}\nactual   {actual}"

    def _compare_ttls(self) -> None:
        ttls = self._server.ttls_ms()
        if self._server.expires_by_given_clock:
            self._agree({key: ends - self._now_ms for key, ends in self._oracle.expires_ms.items()}, ttls, "TTLs")
        # 0 is a key in its last millisecond, -1 one that would never go.
        assert all(ttl >= 0 for ttl in ttls.values()), ttls

    def _move_clock(self, now_ms: int) -> None:
        self._server.now_ms = self._now_ms = now_ms
        ended = self._oracle.expire(now_ms)
        self._server.values()
        for key in ended:
            self._server.set(key, None)

    def _advance(self) -> None:
        window_ms = self._chance.choice(WINDOWS_MS)
        edges = (1, window_ms - 1, window_ms, window_ms + 1, 2 * window_ms - 1, 2 * window_ms, 5 * window_ms)
        self._move_clock(self._now_ms + self._chance.choice((*edges, self._chance.randrange(2 * window_ms))))

    def _step_back(self) -> None:
        self._move_clock(self._now_ms - self._chance.choice((1, 59_999, 60_000, 60_001, self._chance.randrange(1, 400_000))))

    def _publish(self) -> None:
        self._oracle.tenant_epoch = self._chance.choice((*(b"1.a",) * 8, b"2.a", None))
        self._oracle.key_epoch = self._chance.choice((*(b"1.b",) * 8, b"2.b", None))
        self._server.set(TENANT_EPOCH_KEY, self._oracle.tenant_epoch)
        self._server.set(KEY_EPOCH_KEY, self._oracle.key_epoch)

    def _break(self) -> None:
        self._oracle.open_until_ms = self._chance.choice(
            (*(None,) * 6, self._now_ms - 1, self._now_ms, self._now_ms + 1, self._now_ms + 9_999)
        )
        until_ms = self._oracle.open_until_ms
        self._server.set(BREAKER_KEY, None if until_ms is None else b"%d" % until_ms)

    def _replicate(self) -> None:
        self._replica = copy.deepcopy(self._oracle)

    def _fail_over(self) -> None:
        """The replica takes over with what had reached it; the script itself is loaded again."""
        for key in self._oracle.states:
            self._server.set(key, None)
        self._oracle = copy.deepcopy(self._replica)
        self._oracle.expire(self._now_ms)
        self._publish()
        self._break()
        for key, value in self._oracle.values().items():
            self._server.set(key, value, self._oracle.expires_ms[key] - self._now_ms)
