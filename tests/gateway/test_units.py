"""Amounts as operators write them, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.errors import Malformed
from extauthz.gateway.units import (
    COUNT_MAX,
    DURATION_MS_MAX,
    WINDOW_MS_MAX,
    WINDOW_MS_MIN,
    format_duration,
    format_limit,
    parse_duration,
    parse_limit,
)

LIMITS = {
    "100/second": (100, 1_000),
    "100/minute": (100, 60_000),
    "1/hour": (1, 3_600_000),
    "7/day": (7, 86_400_000),
    "5/30s": (5, 30_000),
    "5/5m": (5, 300_000),
    "5/2h": (5, 7_200_000),
    "5/366d": (5, WINDOW_MS_MAX),
    "1/1000ms": (1, WINDOW_MS_MIN),
    "2147483648/minute": (COUNT_MAX, 60_000),
}

NO_LIMITS = (
    "", "100", "/minute", "100/", "0/minute", "-1/minute", "+1/minute", "1.5/minute", "1e3/minute", "1_000/minute", "01/minute",
    "2147483649/minute", "100/999ms", "100/367d", "100/0s", "100/s", "100/minutes", "100/MINUTE", "100 / minute", " 100/minute",
    "100/minute ", "100/minute\n", "100/minute/day", "\u0661\u0660\u0660/minute", "9" * 400 + "/minute", "1/" + "9" * 400 + "s",
)  # fmt: skip

DURATIONS = {"1ms": 1, "250ms": 250, "30s": 30_000, "5m": 300_000, "2h": 7_200_000, "90d": 7_776_000_000, "3660d": DURATION_MS_MAX}
NO_DURATIONS = ("", "0s", "90", "d", "-1d", "1.5h", "1w", "3661d", "1 d", "1d\n", "1D", "\u0663d", "9" * 400 + "d")


@pytest.mark.parametrize(("text", "expected"), LIMITS.items(), ids=LIMITS)
def test_limit_is_its_count_and_its_window(text: str, expected: tuple[int, int]) -> None:
    assert parse_limit(text) == expected


@pytest.mark.parametrize("text", NO_LIMITS)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_limit(text)


@pytest.mark.parametrize(("text", "expected"), DURATIONS.items(), ids=DURATIONS)
def test_duration_is_its_milliseconds(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_duration(text)


@given(st.integers(1, COUNT_MAX), st.integers(WINDOW_MS_MIN, WINDOW_MS_MAX))
def test_limit_is_shown_as_it_is_read(count: int, window_ms: int) -> None:
    assert parse_limit(format_limit(count, window_ms)) == (count, window_ms)


@given(st.integers(1, DURATION_MS_MAX))
def test_duration_is_shown_as_it_is_read(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms)) == duration_ms


def test_usual_limits_are_shown_in_words() -> None:
    assert [format_limit(*parse_limit(text)) for text in ("100/minute", "100/60s", "5/30s", "1/24h")] == [
        "100/minute",
        "100/minute",
        "5/30s",
        "1/day",
    ]
