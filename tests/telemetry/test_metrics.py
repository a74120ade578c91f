import random

import pytest

from extauthz.telemetry.metrics import (
    BUCKETS,
    DECISIONS,
    DURATION,
    OTHER,
    REDIS_UP,
    SERIES_MAX,
    TENANTS_MAX,
    Histogram,
    Metrics,
    Snapshot,
    merged,
    method_label,
    series_of,
)


def test_series_never_exceed_the_bound_whatever_is_counted() -> None:
    metrics = Metrics()
    pick = random.Random(7)
    for number in range(40_000):
        metrics.add(DECISIONS, (f"route{number}", "POST", "allowed", "ok", "openai"))
        metrics.observe(DURATION, (f"route{number}", "allowed"), pick.random())
    snapshot = metrics.snapshot()
    assert len(list(series_of(snapshot))) <= SERIES_MAX
    counted = sum(value for _, value in snapshot.values[DECISIONS.name])
    observed = sum(sum(bar.counts) for _, bar in snapshot.histograms[DURATION.name])
    assert (counted, observed) == (40_000, 40_000)
    assert any(labels == (OTHER,) * 5 for labels, _ in snapshot.values[DECISIONS.name])


def test_the_hundred_and_first_tenant_is_other() -> None:
    metrics = Metrics(tenants=True)
    named = [metrics.tenant(f"t{number}") for number in range(TENANTS_MAX)]
    assert named == [f"t{number}" for number in range(TENANTS_MAX)]
    assert metrics.tenant("late") == OTHER
    assert metrics.tenant("t0") == "t0"


def test_tenants_are_no_label_unless_asked_for() -> None:
    assert Metrics().tenant("acme") == OTHER


@pytest.mark.parametrize(("method", "label"), [("POST", "POST"), ("BREW", "other"), ("post", "other"), ("", "other")])
def test_a_method_that_http_lacks_is_other(method: str, label: str) -> None:
    assert method_label(method) == label


def test_merging_adds_counters_gauges_and_buckets() -> None:
    one, two = Metrics(), Metrics()
    for metrics, seconds in ((one, 0.0001), (two, 0.3)):
        metrics.add(DECISIONS, ("r", "POST", "allowed", "ok", "p"), 2)
        metrics.set(REDIS_UP, (), 1)
        metrics.observe(DURATION, ("r", "allowed"), seconds)
    low, high = [0] * (len(BUCKETS) + 1), BUCKETS.index(0.5)
    low[0], low[high] = 1, 1
    assert merged([one.snapshot(), two.snapshot()]) == Snapshot(
        {DECISIONS.name: [(("r", "POST", "allowed", "ok", "p"), 4)], REDIS_UP.name: [((), 2)]},
        {DURATION.name: [(("r", "allowed"), Histogram(low, 0.3001))]},
    )


def test_an_observation_on_a_bound_is_within_it() -> None:
    metrics = Metrics()
    metrics.observe(DURATION, ("r", "allowed"), BUCKETS[3])
    metrics.observe(DURATION, ("r", "allowed"), 5.0)
    counts = metrics.snapshot().histograms[DURATION.name][0][1].counts
    assert (counts[3], counts[-1], sum(counts)) == (1, 1, 2)
