"""The share of each limit that a worker admits while Redis is away."""

import random
from fractions import Fraction

import pytest

from extauthz.admission import reply
from extauthz.limits.local_share import RETRY_MS_MAX, LocalShare
from tests.oracles.admission import rule

MINUTE = 60_000


def admitted(shares: LocalShare, count: int, limit: int, share: float, sidecars: int, now_s: float = 0.0) -> int:
    rules = [rule("a", limit, MINUTE)]
    return sum(shares.take(rules, share, sidecars, now_s)[0] == reply.ADMITTED for _ in range(count))


@pytest.mark.parametrize(
    ("limit", "share", "sidecars", "expected"),
    [
        (100, 0.0, 1, 0),
        (100, 1.0, 1, 100),
        (100, 0.5, 3, 16),
        (100, 0.29, 1, 29),
        (10, 0.1, 3, 0),
        (7, 1.0, 3, 2),
        (1, 0.999, 1, 0),
    ],
)
def test_a_worker_admits_the_floor_of_its_share(limit: int, share: float, sidecars: int, expected: int) -> None:
    assert expected == int(Fraction(str(share)) * limit / sidecars)
    assert admitted(LocalShare(), 200, limit, share, sidecars) == expected


def test_a_window_ends_one_window_after_it_opened_and_not_before() -> None:
    shares = LocalShare()
    assert admitted(shares, 20, 10, 1.0, 1, 100.0) == 10
    assert admitted(shares, 20, 10, 1.0, 1, 159.999) == 0
    assert admitted(shares, 20, 10, 1.0, 1, 160.0) == 10


def test_refused_by_one_rule_counts_under_none() -> None:
    shares = LocalShare()
    wide, narrow = rule("wide", 10, MINUTE), rule("narrow", 1, MINUTE, level="global")
    assert shares.take([wide, narrow], 1.0, 1, 0.0) == [reply.ADMITTED, 1, 0, MINUTE]
    for _ in range(20):
        assert shares.take([wide, narrow], 1.0, 1, 1.0) == [reply.DENIED, 1, 0, MINUTE - 1_000, RETRY_MS_MAX]
    assert admitted_alone(shares, wide) == 9


def admitted_alone(shares: LocalShare, one: object) -> int:
    return sum(shares.take([one], 1.0, 1, 1.0)[0] == reply.ADMITTED for _ in range(20))  # type: ignore[list-item]


def test_a_plan_without_limits_has_none_here_either_unless_it_refuses() -> None:
    assert LocalShare().take([], 1.0, 1, 0.0)[:2] == [reply.ADMITTED, -1]
    assert LocalShare().take([], 0.0, 1, 0.0)[:2] == [reply.DENIED, -1]


def test_memory_is_bounded_and_what_has_no_room_is_refused() -> None:
    shares = LocalShare(counters_max=10)
    for number in range(10):
        assert shares.take([rule(f"r{number}", 5, MINUTE)], 1.0, 1, float(number))[0] == reply.ADMITTED
    assert shares.take([rule("new", 5, MINUTE)], 1.0, 1, 59.0)[0] == reply.DENIED
    assert shares.take([rule("r3", 5, MINUTE)], 1.0, 1, 59.0)[0] == reply.ADMITTED
    assert shares.take([rule("new", 5, MINUTE)], 1.0, 1, 60.0)[0] == reply.ADMITTED
    assert len(shares) == 10
    assert shares.take([rule("newer", 5, MINUTE), rule("newest", 5, MINUTE)], 1.0, 1, 61.5)[0] == reply.DENIED


@pytest.mark.prove(20)
def test_three_workers_together_stay_within_the_share_over_random_outages(proving: bool) -> None:
    """What Redis counted before plus what three workers admit in the window after it went: at most limit x (1 + f)."""
    runs = 50 if not proving else 2_000
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    worst = 0.0
    for _ in range(runs):
        limit, share = chance.randrange(1, 200), chance.choice((0.0, 0.1, 0.25, 0.5, 1.0))
        before = chance.randrange(limit + 1)
        workers = [LocalShare() for _ in range(3)]
        rules = [rule("a", limit, MINUTE)]
        moments = sorted(chance.uniform(0.0, 59.999) for _ in range(3 * limit))
        after = sum(chance.choice(workers).take(rules, share, 3, now_s)[0] == reply.ADMITTED for now_s in moments)
        worst = max(worst, (before + after) / (limit * (1 + share)))
        assert before + after <= limit * (1 + share), f"seed {seed}: limit {limit}, share {share}, {before} + {after}"
    print(f"local share: {runs} outages, seed {seed}, most {worst:.3f} of limit x (1 + f)")
