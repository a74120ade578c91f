"""What the definitions promise, shown on the definitions; tests/admission holds the Lua against them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.limits.algorithms import CODES, fixed, fragments, sliding
from extauthz.limits.algorithms.outcome import Outcome

NOW = 1_790_000_000_000
WINDOWS = st.one_of(st.integers(1_000, 100_000), st.sampled_from([60_000, 86_400_000, 366 * 86_400_000]))
LIMITS = st.one_of(st.integers(1, 20), st.integers(1, 2**31))
COSTS = st.integers(0, 5)


@st.composite
def situations(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int, int, int]:
    """Algorithm, a state that can be, limit, window and cost; the clock is NOW."""
    algorithm, window_ms, limit, cost = draw(st.sampled_from(sorted(CODES))), draw(WINDOWS), draw(LIMITS), draw(COSTS)
    start = NOW - draw(st.integers(-3 * window_ms, 3 * window_ms))
    # What was counted may be more than the limit, which can have been lowered since.
    counts = st.integers(0, 2 * limit)
    state = (start, draw(counts)) if algorithm == "fixed" else (start, draw(counts), draw(counts))
    return algorithm, state, limit, window_ms, cost


def outcome(algorithm: str, state: tuple[int, ...] | None, now_ms: int, limit: int, window_ms: int, cost: int) -> Outcome:
    definition = {"fixed": fixed.outcome, "sliding": sliding.outcome}[algorithm]
    return definition(state, now_ms, limit, window_ms, cost)  # type: ignore[operator,no-any-return]


@given(situations())
def test_the_wait_it_names_is_exact(situation: tuple[str, tuple[int, ...], int, int, int]) -> None:
    algorithm, state, limit, window_ms, cost = situation
    now = outcome(algorithm, state, NOW, limit, window_ms, cost)
    if now.fits:
        assert now.retry_ms == 0
    elif now.retry_ms is None:
        assert cost > limit
    else:
        moved = now.uncounted
        assert outcome(algorithm, moved, NOW + now.retry_ms, limit, window_ms, cost).fits
        assert not outcome(algorithm, moved, NOW + now.retry_ms - 1, limit, window_ms, cost).fits


@given(situations(), st.integers(0, 400_000))
def test_a_clock_that_steps_back_never_makes_room(situation: tuple[str, tuple[int, ...], int, int, int], step_ms: int) -> None:
    algorithm, state, limit, window_ms, _ = situation
    here = outcome(algorithm, state, NOW, limit, window_ms, 0)
    before = outcome(algorithm, here.uncounted, NOW - step_ms, limit, window_ms, 0)
    assert before.remaining <= here.remaining


@given(situations(), st.integers(0, 400_000))
def test_time_alone_never_takes_room_away(situation: tuple[str, tuple[int, ...], int, int, int], wait_ms: int) -> None:
    algorithm, state, limit, window_ms, _ = situation
    here = outcome(algorithm, state, NOW, limit, window_ms, 0)
    later = outcome(algorithm, here.uncounted, NOW + wait_ms, limit, window_ms, 0)
    assert later.remaining >= here.remaining
    if wait_ms >= here.reset_ms:
        assert later.remaining == limit


@given(situations())
def test_what_is_counted_and_what_weighs_together_never_exceed_the_limit(
    situation: tuple[str, tuple[int, ...], int, int, int],
) -> None:
    algorithm, state, limit, window_ms, cost = situation
    now = outcome(algorithm, state, NOW, limit, window_ms, cost)
    if now.fits:
        after = outcome(algorithm, now.counted, NOW, limit, window_ms, 0)
        assert after.remaining == now.remaining >= 0
        if algorithm == "sliding":
            start, before, used = now.counted
            assert used + Fraction(before * (start + window_ms - NOW), window_ms) <= limit


@given(st.integers(0, 2**32), WINDOWS, st.data())
def test_a_weight_is_never_less_than_its_exact_part_nor_a_65536th_and_one_more(
    before: int, window_ms: int, data: st.DataObject
) -> None:
    left_ms = data.draw(st.integers(1, window_ms))
    exact = Fraction(before * left_ms, window_ms)
    assert exact <= sliding._weight(before, left_ms, window_ms) < exact + Fraction(before, sliding.PARTS) + 1


def test_no_product_of_the_largest_numbers_reaches_2_to_the_53() -> None:
    limit, window_ms = 2**31, 366 * 86_400_000
    assert max(2 * limit * sliding.PARTS, window_ms * sliding.PARTS, NOW + 2 * window_ms) < 2**53


def test_the_codes_are_the_positions_in_the_scripts_table() -> None:
    assert fragments().rstrip().endswith("local algorithms = {fixed, sliding}")
    assert CODES == {"fixed": 1, "sliding": 2}


@pytest.mark.parametrize("algorithm", sorted(CODES))
def test_the_worst_admissible_burst_over_a_window_edge_is_twice_the_limit(algorithm: str) -> None:
    """What the definitions do not promise, so that nobody believes they do: `limit` in every stretch of one window."""
    limit, window_ms = 10, 60_000
    state: tuple[int, ...] | None = None
    moments = [NOW, *[NOW + window_ms - 1] * limit, *range(NOW + window_ms, NOW + 2 * window_ms - 1, 500)]
    passed: list[int] = []
    for now_ms in moments:
        now = outcome(algorithm, state, now_ms, limit, window_ms, 1)
        if now.fits:
            state = now.counted
            passed.append(now_ms)
    most = max(sum(start <= moment < start + window_ms for moment in passed) for start in passed)
    assert most == {"fixed": 19, "sliding": 18}[algorithm]
