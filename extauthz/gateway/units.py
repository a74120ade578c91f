"""Amounts as operators write them: `100/minute`, `5/30s`, `90d`. The gateway file and the commands read them with these.

Only whole numbers, no signs, no fractions; every result is within the bounds named here.
"""

import re

from extauthz.errors import Malformed

#: A count fits a Redis integer and Lua's 2**53 with room for sums.
COUNT_MAX = 2**31
WINDOW_MS_MIN = 1_000
WINDOW_MS_MAX = 366 * 86_400_000
#: Ten years: longer is a mistake or means never.
DURATION_MS_MAX = 3_660 * 86_400_000

LIMIT_ALLOWED = "N/second, N/minute, N/hour, N/day or N/30s, N/5m, N/2h, N/7d; N from 1 to 2147483648, a window from 1s to 366d"
DURATION_ALLOWED = "a whole number and ms, s, m, h or d, such as 30s, 5m, 90d"

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WORD_MS = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_DURATION = re.compile(r"([1-9][0-9]{0,11})(ms|s|m|h|d)")
_LIMIT = re.compile(r"([1-9][0-9]{0,11})/([a-z0-9]{1,16})")


def parse_duration(text: str) -> int:
    """The milliseconds of `250ms`, `30s`, `5m`, `2h` or `90d`: 1 to DURATION_MS_MAX. Raises Malformed."""
    match = _DURATION.fullmatch(text)
    duration_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 1 <= duration_ms <= DURATION_MS_MAX:
        raise Malformed(f"{text!r} is no duration: {DURATION_ALLOWED}")
    return duration_ms


def parse_limit(text: str) -> tuple[int, int]:
    """The count and the window in milliseconds of `100/minute` or `5/30s`. Raises Malformed."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise Malformed(f"{text!r} is no limit: {LIMIT_ALLOWED}")
    count, window = int(match[1]), match[2]
    window_ms = _WORD_MS.get(window) or _window_ms(text, window)
    if count > COUNT_MAX or not WINDOW_MS_MIN <= window_ms <= WINDOW_MS_MAX:
        raise Malformed(f"{text!r} is out of bounds: {LIMIT_ALLOWED}")
    return count, window_ms


def format_duration(duration_ms: int) -> str:
    """The shortest text that `parse_duration` reads back."""
    for unit in ("d", "h", "m", "s"):
        if duration_ms % _UNIT_MS[unit] == 0:
            return f"{duration_ms // _UNIT_MS[unit]}{unit}"
    return f"{duration_ms}ms"


def format_limit(count: int, window_ms: int) -> str:
    """The text that `parse_limit` reads back: `100/minute`, `5/30s`."""
    words = {length: word for word, length in _WORD_MS.items()}
    return f"{count}/{words.get(window_ms) or format_duration(window_ms)}"


def _window_ms(text: str, window: str) -> int:
    match = _DURATION.fullmatch(window)
    if match is None:
        raise Malformed(f"{text!r} is no limit: {LIMIT_ALLOWED}")
    return int(match[1]) * _UNIT_MS[match[2]]
