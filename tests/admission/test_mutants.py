"""The checkers can see: each one-line break of the script is found by the simulated lives."""

import pytest

from extauthz.admission.script import ADMIT
from tests.oracles.simulated_redis import SimulatedRedis
from tests.oracles.simulation import T0, Life

LIVES = 400

MUTANTS = {
    "epoch of the tenant not read": ("values[1] ~= ARGV[1] or ", ""),
    "epoch of the key not read": (" or values[2] ~= ARGV[2]", ""),
    "a missing epoch is a right one": ("if values[1] ~= ARGV[1]", "if values[1] and values[1] ~= ARGV[1]"),
    "breaker not read": ("if open_until and", "if false and"),
    "breaker one ms too long": ("<= now) then return {3", "< now) then return {3"),
    "missing TTL": (", 'PX', format('%d', 2 * length + 1000))", ")"),
    "TTL of one window": ("2 * length + 1000", "length"),
    "counted though another rule denied": ("if longest > 0 then", "if longest > 0 and #KEYS < 5 then"),
    "denied rules are counted": (
        "total <= limit then\n    if offset then return 0, limit - total, reset, offset, format('%d', total)",
        "true then\n    if offset then return 0, limit - total, reset, offset, format('%d', total)",
    ),
    "one too many": (
        "  if total <= limit then\n    if offset then return 0, limit - total, reset, offset, format('%d', total)",
        "  if total <= limit + 1 then\n    if offset then return 0, limit - total, reset, offset, format('%d', total)",
    ),
    "fixed window reopens when the clock steps back": (
        "not (now >= stored + window) then\n      used",
        "now >= stored and now < stored + window then\n      used",
    ),
    "sliding window reopens when the clock steps back": (
        "if not (now >= stored + 2 * window) then",
        "if now >= stored and now < stored + 2 * window then",
    ),
    "window ahead of the clock stays there when it denies": ("if tail then", "if false then"),
    "window ends one ms late": ("if not (now >= stored + window) then", "if not (now > stored + window) then"),
    "bucket rolls one ms late": ("elseif now < stored + window then", "elseif now <= stored + window then"),
    "weight rounded down": ("ceil(before * ceil(", "floor(before * floor("),
    "older bucket does not weigh": ("local weighed = before > 0 and", "local weighed = false and"),
    "shortest wait instead of the longest": ("if retry > longest then", "if longest == 0 or retry < longest then"),
    "most remaining instead of the least": ("remaining < least or", "remaining > least or"),
    "tail at the wrong place": ("stored, '14'", "stored, '15'"),
    "cost ignored": ("used + cost\n", "used + 1\n"),
    "second rule read as the first": ("parameters, position)\n", "parameters, 1)\n"),
}


def disagrees(source: str) -> str | None:
    """What the lives saw, or None when they saw nothing. The seeds are fixed: this test is about the checker."""
    server = SimulatedRedis(source, T0)
    for seed in range(LIVES):
        server.clear(T0)
        try:
            Life(seed, server).live()
        except AssertionError as error:
            return str(error)
    return None


def test_the_script_itself_passes() -> None:
    assert disagrees(ADMIT.source) is None


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_each_one_line_break_is_found(name: str) -> None:
    right, wrong = MUTANTS[name]
    assert ADMIT.source.count(right) == 1, "the break has lost its line"
    assert disagrees(ADMIT.source.replace(right, wrong)) is not None
