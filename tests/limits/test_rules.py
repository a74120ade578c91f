"""Which counters a request is counted under, and with which limits."""

import pytest

from extauthz import keyspace
from extauthz.errors import Malformed
from extauthz.gateway.model import FailureMode, Level, Limit, Plan
from extauthz.limits.algorithms import CODES
from extauthz.limits.rules import RULES_MAX, Rule, rules_of

MINUTE = 60_000


def plan(*limits: Limit) -> Plan:
    return Plan("pro", limits, FailureMode())


@pytest.mark.parametrize(
    ("per", "key"),
    [
        pytest.param(("tenant",), keyspace.counter("acme", "n", "fixed60000"), id="tenant"),
        pytest.param(("key",), keyspace.counter("acme", "n", "fixed60000", "k1"), id="key"),
        pytest.param(("endpoint",), keyspace.counter("acme", "n", "fixed60000", "", "chat"), id="endpoint"),
        pytest.param(("tenant", "endpoint"), keyspace.counter("acme", "n", "fixed60000", "", "chat"), id="tenant+endpoint"),
        pytest.param(("key", "endpoint"), keyspace.counter("acme", "n", "fixed60000", "k1", "chat"), id="key+endpoint"),
        pytest.param(("global",), keyspace.shared_counter("n", "fixed60000"), id="global"),
        pytest.param(("global", "endpoint"), keyspace.shared_counter("n", "fixed60000", "chat"), id="global+endpoint"),
    ],
)
def test_each_level_counts_under_a_key_of_its_own(per: tuple[Level, ...], key: bytes) -> None:
    rules = rules_of(plan(Limit("n", per, 100, MINUTE, "fixed")), {}, "acme", "k1", "chat")
    assert rules == (Rule("n", "+".join(per), key, CODES["fixed"], 100, MINUTE, 1),)


def test_an_override_keeps_level_algorithm_and_the_counter_of_the_same_window() -> None:
    limits = plan(Limit("a", ("key",), 100, MINUTE, "sliding"), Limit("b", ("tenant",), 5, MINUTE, "fixed"))
    before = rules_of(limits, {}, "acme", "k1", "chat")
    after = rules_of(limits, {"a": (7, MINUTE)}, "acme", "k1", "chat")
    assert after == (before[0]._replace(limit=7), before[1])


def test_an_override_with_another_window_is_another_counter() -> None:
    limits = plan(Limit("a", ("tenant",), 100, MINUTE, "fixed"))
    (rule,) = rules_of(limits, {"a": (100, 1_000)}, "acme", "k1", "chat")
    assert rule.key == keyspace.counter("acme", "a", "fixed1000")


def test_an_override_that_the_plan_lacks_is_one_more_fixed_window_per_tenant() -> None:
    limits = plan(Limit("a", ("key",), 100, MINUTE, "sliding"))
    added = rules_of(limits, {"burst": (7, 1_000)}, "acme", "k1", "chat")[1]
    assert added == Rule("burst", "tenant", keyspace.counter("acme", "burst", "fixed1000"), CODES["fixed"], 7, 1_000, 1)


def test_more_rules_than_the_bound_are_an_error_and_no_allow() -> None:
    overrides = {f"l{number}": (1, 1_000) for number in range(RULES_MAX)}
    assert len(rules_of(plan(), overrides, "acme", "k1", "chat")) == RULES_MAX
    with pytest.raises(Malformed, match="33 limits"):
        rules_of(plan(Limit("a", ("tenant",), 1, 1_000, "fixed")), overrides, "acme", "k1", "chat")
