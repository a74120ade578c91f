"""The table of states, and the scripts that must do what it says."""

from collections.abc import Callable, Iterator

import pytest

from extauthz.breaker.states import (
    CLOSED,
    FAILURES_TO_OPEN,
    HALF_OPEN,
    KEPT_MS,
    OPEN,
    OPEN_MS,
    OPEN_MS_MAX,
    TABLE,
    Event,
    state_of,
)
from tests.oracles.breaker import BREAKER_KEY, PROBE_KEY, RealBreaker

T0 = 1_790_000_000_000
AFTER = T0 + OPEN_MS


@pytest.fixture
def breaker(each_redis_url: str) -> Iterator[RealBreaker]:
    breaker = RealBreaker(each_redis_url)
    yield breaker
    breaker.close()


def fail(breaker: RealBreaker, times: int, now_ms: int = T0) -> None:
    for _ in range(times):
        breaker.outcome(success=False, now_ms=now_ms)


#: How a breaker comes into a state, and the moment at which it is in it.
INTO: dict[int, tuple[Callable[[RealBreaker], None], int]] = {
    CLOSED: (lambda breaker: fail(breaker, 1), T0),
    OPEN: (lambda breaker: fail(breaker, FAILURES_TO_OPEN), T0),
    HALF_OPEN: (lambda breaker: fail(breaker, FAILURES_TO_OPEN), AFTER),
}


def happen(breaker: RealBreaker, event: Event, now_ms: int) -> int:
    """Let the event happen; the moment at which its result is looked at."""
    if event is Event.SUCCESS:
        breaker.outcome(success=True, now_ms=now_ms)
    elif event is Event.FAILURE:
        breaker.outcome(success=False, now_ms=now_ms)
    elif event is Event.LAST_FAILURE:
        fail(breaker, FAILURES_TO_OPEN - 1, now_ms)
    elif event is Event.TIME_OVER:
        return now_ms + OPEN_MS
    elif event is Event.OPENED:
        breaker.open_by_hand(OPEN_MS, now_ms)
    else:
        breaker.close_by_hand()
    return now_ms


@pytest.mark.parametrize(("state", "event"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].name}") for pair in TABLE])
def test_the_scripts_do_what_the_table_says(breaker: RealBreaker, state: int, event: Event) -> None:
    into, now_ms = INTO[state]
    into(breaker)
    assert breaker.state(now_ms) == state
    assert breaker.state(happen(breaker, event, now_ms)) == TABLE[state, event]


def test_the_pairs_that_are_not_in_the_table_are_those_that_cannot_happen() -> None:
    every = {(state, event) for state in (CLOSED, OPEN, HALF_OPEN) for event in Event}
    assert every - set(TABLE) == {
        (CLOSED, Event.TIME_OVER),
        (OPEN, Event.LAST_FAILURE),
        (HALF_OPEN, Event.LAST_FAILURE),
        (HALF_OPEN, Event.TIME_OVER),
    }


def test_a_success_between_failures_starts_the_count_anew(breaker: RealBreaker) -> None:
    fail(breaker, FAILURES_TO_OPEN - 1)
    assert breaker.outcome(success=True, now_ms=T0) == CLOSED
    fail(breaker, FAILURES_TO_OPEN - 1)
    assert breaker.state(T0) == CLOSED
    assert breaker.outcome(success=False, now_ms=T0) == OPEN


def test_each_failed_probe_doubles_the_time_up_to_ten_minutes_and_a_success_forgets_it(breaker: RealBreaker) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    now_ms, lengths = T0, []
    for _ in range(7):
        length = next(ms for ms in range(OPEN_MS, OPEN_MS_MAX + 1, OPEN_MS) if breaker.state(now_ms + ms) == HALF_OPEN)
        assert breaker.state(now_ms + length - 1) == OPEN
        lengths.append(length)
        now_ms += length
        assert breaker.outcome(success=False, now_ms=now_ms) == OPEN
    assert lengths == [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]
    assert breaker.outcome(success=True, now_ms=now_ms + OPEN_MS_MAX) == CLOSED
    assert breaker.client.keys("*") == []


def test_opened_by_hand_without_a_time_it_stays_until_closed_by_hand(breaker: RealBreaker) -> None:
    assert breaker.open_by_hand(0, T0) == 0
    assert breaker.client.ttl(BREAKER_KEY) == -1
    century = 100 * 365 * 86_400_000
    assert breaker.state(T0 + century) == OPEN
    assert breaker.outcome(success=True, now_ms=T0 + century) == OPEN
    breaker.close_by_hand()
    assert breaker.state(T0) == CLOSED


def test_opened_by_hand_for_a_time_it_is_half_open_after_it_and_a_failed_probe_opens_it_for_longer(breaker: RealBreaker) -> None:
    assert breaker.open_by_hand(5_000, T0) == T0 + 5_000
    assert [breaker.state(T0 + 4_999), breaker.state(T0 + 5_000)] == [OPEN, HALF_OPEN]
    assert breaker.outcome(success=False, now_ms=T0 + 5_000) == OPEN
    assert [breaker.state(T0 + 34_999), breaker.state(T0 + 35_000)] == [OPEN, HALF_OPEN]


def test_when_the_clock_steps_back_a_probe_decides(breaker: RealBreaker) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    assert breaker.state(T0 - 1) == HALF_OPEN
    assert breaker.acquire("t", T0 - 3_600_000)
    assert breaker.outcome(success=True, now_ms=T0 - 3_600_000) == CLOSED
    assert breaker.state(T0) == CLOSED


def test_what_nobody_touches_is_forgotten_a_day_after_its_time(breaker: RealBreaker) -> None:
    fail(breaker, 1)
    assert KEPT_MS - 5_000 < breaker.client.pttl(BREAKER_KEY) <= KEPT_MS
    fail(breaker, FAILURES_TO_OPEN - 1)
    assert OPEN_MS + KEPT_MS - 5_000 < breaker.client.pttl(BREAKER_KEY) <= OPEN_MS + KEPT_MS


@pytest.mark.parametrize("value", [b"", b"x", b"open:1", b"open:x:1790000000000", b"open:-1:1790000000000", b"closed:", b"nan"])
def test_what_does_not_parse_is_closed_for_the_poller_and_for_the_scripts(breaker: RealBreaker, value: bytes) -> None:
    assert state_of(value, T0) == CLOSED
    breaker.client.set(BREAKER_KEY, value)
    assert not breaker.acquire("t", T0)
    assert breaker.outcome(success=False, now_ms=T0) == CLOSED
    assert breaker.client.get(BREAKER_KEY) == b"closed:1"


def test_a_closed_or_reopened_breaker_has_no_lease_left(breaker: RealBreaker) -> None:
    for success in (True, False):
        breaker.open_by_hand(1_000, T0)
        assert breaker.acquire("t", T0 + 1_000)
        breaker.outcome(success=success, now_ms=T0 + 1_000)
        assert breaker.client.exists(PROBE_KEY) == 0
    breaker.open_by_hand(1_000, T0)
    assert breaker.acquire("t", T0 + 1_000)
    breaker.open_by_hand(1_000, T0 + 2_000)
    assert breaker.client.exists(PROBE_KEY) == 0
