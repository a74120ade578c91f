"""The admission script on real servers, its clock in the test's hand: windows, edges, everything or nothing."""

from collections.abc import Iterator

import pytest
import redis

from extauthz.admission.reply import ADMITTED, BREAKER_OPEN, DENIED, NEVER, STALE
from extauthz.admission.script import ADMIT, joined
from tests.oracles.admission import BREAKER_KEY, RealScript, arguments, rule

T0 = 1_790_000_000_000
MINUTE = 60_000


@pytest.fixture
def script(each_redis_url: str) -> Iterator[RealScript]:
    script = RealScript(each_redis_url)
    yield script
    script.close()


def test_a_fixed_window_admits_its_limit_and_ends_one_window_after_it_opened(script: RealScript) -> None:
    rules = [rule("a", 2, MINUTE)]
    assert script.admit(T0, rules) == [ADMITTED, 0, 1, MINUTE]
    assert script.admit(T0 + 10, rules) == [ADMITTED, 0, 0, MINUTE - 10]
    assert script.admit(T0 + MINUTE - 1, rules) == [DENIED, 0, 0, 1, 1]
    assert script.values() == {rules[0].key: b"1790000000000:2"}
    assert script.admit(T0 + MINUTE, rules) == [ADMITTED, 0, 1, MINUTE]


def test_a_sliding_window_weighs_the_older_bucket_rounded_up(script: RealScript) -> None:
    rules = [rule("a", 10, MINUTE, algorithm="sliding")]
    for used in range(1, 11):
        assert script.admit(T0, rules) == [ADMITTED, 0, 10 - used, 2 * MINUTE]
    # At the edge the ten weigh ten; a tenth of a window later (and 1/65536, rounded up), nine.
    assert script.admit(T0 + MINUTE, rules) == [DENIED, 0, 0, MINUTE, 6_001]
    assert script.admit(T0 + MINUTE + 6_000, rules) == [DENIED, 0, 0, MINUTE - 6_000, 1]
    assert script.admit(T0 + MINUTE + 6_001, rules) == [ADMITTED, 0, 0, 2 * MINUTE - 6_001]
    assert script.values() == {rules[0].key: b"1790000060000:10:1"}


def test_denied_at_any_level_counts_nothing_anywhere(script: RealScript) -> None:
    roomy, full, never = rule("a", 100, MINUTE), rule("b", 1, MINUTE, algorithm="sliding"), rule("c", 100, MINUTE, level="global")
    assert script.admit(T0, [full]) == [ADMITTED, 0, 0, 2 * MINUTE]
    before = script.values()
    for rules in ([roomy, full, never], [full, roomy, never], [roomy, never, full]):
        assert script.admit(T0 + 1, rules)[:2] == [DENIED, rules.index(full)]
    assert script.values() == before


def test_the_denial_names_the_longest_wait_and_the_admission_the_least_remaining(script: RealScript) -> None:
    short, long = rule("short", 1, MINUTE), rule("long", 1, 2 * MINUTE)
    wide = rule("wide", 50, MINUTE)
    assert script.admit(T0, [wide, short, long]) == [ADMITTED, 2, 0, 2 * MINUTE]
    assert script.admit(T0 + 1, [wide, short, long]) == [DENIED, 2, 0, 2 * MINUTE - 1, 2 * MINUTE - 1]
    assert script.admit(T0 + 1, [long, short, wide]) == [DENIED, 0, 0, 2 * MINUTE - 1, 2 * MINUTE - 1]


@pytest.mark.parametrize("algorithm", ["fixed", "sliding"])
def test_a_changed_limit_acts_on_the_next_request_with_what_was_counted(script: RealScript, algorithm: str) -> None:
    of = {limit: [rule("a", limit, MINUTE, algorithm=algorithm)] for limit in (1, 3, 5)}
    for _ in range(3):
        script.admit(T0, of[3])
    assert script.admit(T0, of[3])[0] == DENIED
    assert script.admit(T0, of[5])[:3] == [ADMITTED, 0, 1]
    assert script.admit(T0, of[1])[:3] == [DENIED, 0, 0]


@pytest.mark.parametrize("algorithm", ["fixed", "sliding"])
def test_no_window_reopens_when_the_clock_steps_back_and_it_ends_one_window_later(script: RealScript, algorithm: str) -> None:
    rules = [rule("a", 2, MINUTE, algorithm=algorithm)]
    script.admit(T0, rules)
    script.admit(T0, rules)
    back = T0 - 3_600_000
    first = script.admit(back, rules)
    assert first[:3] == [DENIED, 0, 0]
    assert script.admit(back + first[4] - 1, rules) == [DENIED, 0, 0, first[3] - first[4] + 1, 1]
    assert script.admit(back + first[4], rules)[:2] == [ADMITTED, 0]
    assert first[4] <= 2 * MINUTE


@pytest.mark.parametrize("algorithm", ["fixed", "sliding"])
def test_a_cost_over_the_limit_never_fits(script: RealScript, algorithm: str) -> None:
    answer = script.admit(T0, [rule("a", 2, MINUTE, 3, algorithm)])
    assert (answer[0], answer[2], answer[4]) == (DENIED, 2, NEVER)
    assert script.values() == {}


@pytest.mark.parametrize(
    ("tenant", "key"),
    [(None, b"1.b"), (b"1.a", None), (b"2.a", b"1.b"), (b"1.a", b"2.b"), (None, None), (b"", b"1.b"), (b"1.a", b"")],
)
def test_a_missing_or_other_epoch_counts_nothing(script: RealScript, tenant: bytes | None, key: bytes | None) -> None:
    script.publish(tenant, key)
    assert script.admit(T0, [rule("a", 2, MINUTE)]) == [STALE]
    assert script.values() == {}


def test_an_open_breaker_of_the_tenant_counts_nothing_until_it_ends(script: RealScript) -> None:
    script.client.set(BREAKER_KEY, T0 + 5)
    assert script.admit(T0, [rule("a", 2, MINUTE)]) == [BREAKER_OPEN, 5]
    assert script.values() == {}
    assert script.admit(T0 + 5, [rule("a", 2, MINUTE)]) == [ADMITTED, 0, 1, MINUTE]


@pytest.mark.parametrize("algorithm", ["fixed", "sliding"])
@pytest.mark.parametrize("value", ["", "x", "1790000000000:", "1790000000000:x", "nan:1", "1790000000000:nan"])
def test_a_counter_that_does_not_parse_is_an_error_and_writes_nothing(script: RealScript, algorithm: str, value: str) -> None:
    rules = [rule("a", 9, MINUTE), rule("b", 9, MINUTE, algorithm=algorithm)]
    script.client.set(rules[1].key, value)
    try:
        answer = script.admit(T0, rules)
    except redis.ResponseError:
        pass
    else:
        assert answer[0] == DENIED
    assert script.values() == {rules[1].key: value.encode()}


def test_every_counter_has_a_ttl_that_covers_its_window(script: RealScript) -> None:
    rules = [rule("a", 9, MINUTE), rule("b", 9, MINUTE, algorithm="sliding"), rule("c", 9, MINUTE, level="global")]
    for now_ms in (T0, T0 + 1, T0 + MINUTE, T0 + MINUTE + 1, T0 - MINUTE):
        assert script.admit(now_ms, rules)[0] == ADMITTED
        assert set(script.ttls_ms()) == {each.key for each in rules}
        assert all(2 * MINUTE < ttl <= 2 * MINUTE + 1_000 for ttl in script.ttls_ms().values())


def test_the_largest_numbers_are_counted_exactly(script: RealScript) -> None:
    limit, window_ms = 2**31, 366 * 86_400_000
    rules = [rule("a", limit, window_ms, 2**31 - 1), rule("b", limit, window_ms, 2**31 - 1, "sliding")]
    assert script.admit(T0, rules) == [ADMITTED, 1, 1, 2 * window_ms]
    ones = [each._replace(cost=1) for each in rules]
    assert script.admit(T0 + window_ms - 1, ones) == [ADMITTED, 1, 0, window_ms + 1]
    assert script.admit(T0 + window_ms - 1, ones)[0] == DENIED
    assert script.values() == {rules[0].key: b"1790000000000:2147483648", rules[1].key: b"1790000000000:0:2147483648"}


def test_without_rules_it_still_asks_for_a_server_that_may_write(script: RealScript) -> None:
    assert script.admit(T0, []) == [ADMITTED, -1, 0, 0]
    script.client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.ResponseError, match=r"READONLY|read only"):
            script.admit(T0, [])
    finally:
        script.client.replicaof("NO", "ONE")


def test_production_reads_the_clock_of_the_server(each_redis_url: str) -> None:
    script = RealScript(each_redis_url, ADMIT.source)
    seconds, micros = script.client.time()
    keys, argv = arguments([rule("a", 9, MINUTE)])
    script.client.eval(ADMIT.source, len(keys), *keys, *argv)
    (value,) = script.values().values()
    script.close()
    assert 0 <= int(value.split(b":")[0]) - (seconds * 1000 + micros // 1000) < 5_000


def test_the_text_and_so_the_name_of_the_script_is_the_same_each_time() -> None:
    assert joined() == joined() == ADMIT.source
    assert joined("local now = 1\n") != ADMIT.source
