"""The script on a real server against the oracle, with examples that Hypothesis shrinks."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from extauthz.admission.reply import DENIED, NEVER
from extauthz.admission.script import joined
from tests.oracles import admission
from tests.oracles.admission import BREAKER_KEY, Oracle, RealScript

WINDOW_MS = 60_000
STEPS_MS = st.one_of(st.sampled_from([1, WINDOW_MS - 1, WINDOW_MS, WINDOW_MS + 1, 2 * WINDOW_MS]), st.integers(0, 3 * WINDOW_MS))


@st.composite
def some_rules(draw: st.DrawFn) -> list[Any]:
    """Rules over five counters, each of one algorithm and window; limit and cost are anything."""
    numbers = draw(st.lists(st.integers(0, 4), unique=True, max_size=4))
    return [
        admission.rule(
            f"r{number}",
            draw(st.sampled_from([1, 2, 3, 10, 2**31])),
            WINDOW_MS * (1 + number % 2),
            draw(st.integers(0, 3)),
            "sliding" if number % 2 else "fixed",
            "global" if number == 4 else "tenant",
        )
        for number in numbers
    ]


class AdmissionMachine(RuleBasedStateMachine):
    """One tenant, one server."""

    url: str
    source: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.script = RealScript(self.url, self.source)
        self.oracle = Oracle()
        self.now_ms = 1_790_000_000_000

    @initialize()
    def empty(self) -> None:
        self.script.client.flushdb()
        self.script.publish(self.oracle.tenant_epoch, self.oracle.key_epoch)

    def teardown(self) -> None:
        self.script.close()

    @rule(rules=some_rules(), tenant=st.sampled_from([b"1.a"] * 6 + [b"2.a"]), key=st.sampled_from([b"1.b"] * 6 + [b"2.b"]))
    def request(self, rules: list[Any], tenant: bytes, key: bytes) -> None:
        assert self.script.admit(self.now_ms, rules, tenant, key) == self.oracle.admit(self.now_ms, rules, tenant, key)

    @rule(rules=some_rules())
    def wait_as_told(self, rules: list[Any]) -> None:
        """A denied request waits as long as it was told to, less one millisecond; then that one."""
        answer = self.oracle.admit(self.now_ms, rules)
        assert self.script.admit(self.now_ms, rules) == answer
        if answer[0] == DENIED and answer[4] != NEVER:
            self.move_clock(self.now_ms + answer[4] - 1)
            self.oracle.admit(self.now_ms, rules)
            assert self.script.admit(self.now_ms, rules)[::4] == [DENIED, 1]
            self.move_clock(self.now_ms + 1)
            assert self.script.admit(self.now_ms, rules) == self.oracle.admit(self.now_ms, rules)

    @rule(step_ms=STEPS_MS)
    def advance(self, step_ms: int) -> None:
        self.move_clock(self.now_ms + step_ms)

    @rule(step_ms=STEPS_MS)
    def step_back(self, step_ms: int) -> None:
        self.move_clock(self.now_ms - step_ms)

    def move_clock(self, now_ms: int) -> None:
        self.now_ms = now_ms
        for key in self.oracle.expire(now_ms):
            self.script.set(key, None)

    @rule(tenant=st.sampled_from([b"1.a", b"1.a", b"2.a", None]), key=st.sampled_from([b"1.b", b"1.b", b"2.b", None]))
    def publish(self, tenant: bytes | None, key: bytes | None) -> None:
        self.oracle.tenant_epoch, self.oracle.key_epoch = tenant, key
        self.script.publish(tenant, key)

    @rule(ahead_ms=st.sampled_from([None, None, -1, 0, 1, 5_000]))
    def tenant_breaker(self, ahead_ms: int | None) -> None:
        self.oracle.open_until_ms = None if ahead_ms is None else self.now_ms + ahead_ms
        self.script.set(BREAKER_KEY, None if ahead_ms is None else b"%d" % (self.now_ms + ahead_ms))

    @invariant()
    def every_counter_is_what_it_must_be(self) -> None:
        assert self.script.values() == self.oracle.values()
        assert all(ttl > 0 for ttl in self.script.ttls_ms().values())


def run(url: str, source: str | None, examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    machine = type("Machine", (AdmissionMachine,), {"url": url, "source": source})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=checks,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
        ),
    )


@pytest.mark.prove(18)
def test_the_script_agrees_with_the_oracle_whatever_happens(each_redis_url: str, proving: bool) -> None:
    run(each_redis_url, None, 2_000 if proving else 40)


def test_the_machine_sees_a_window_that_reopens(redis_url: str) -> None:
    right, wrong = "not (now >= stored + window) then\n      used", "now >= stored and now < stored + window then\n      used"
    source = joined(admission.GIVEN_CLOCK)
    assert source.count(right) == 1
    with pytest.raises(AssertionError):
        run(redis_url, source.replace(right, wrong), 500, (Phase.generate,))
