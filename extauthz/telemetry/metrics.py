"""Every metric and its closed label sets, on one page; counting is a dict and an addition.

A label's value comes from the gateway file, from a table of this project, or is `other`; never from a request. Should a set turn
out larger than it may be, new series are counted under `other` once `SERIES_MAX` exist, so memory and the scrape have a bound
whatever clients send. A worker counts for itself; the parent asks for a `snapshot`, adds up and exposes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

#: All series of a process, histogram buckets counted one by one.
SERIES_MAX = 25_000
#: Tenants that get a label of their own when the operator opts in.
TENANTS_MAX = 100
OTHER = "other"
NONE = "none"

#: Seconds. The first bucket holds the cached decision, the last the timeout of a slow Redis.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A name, what it says, and its labels in order. Base units, `_total` on counters.

    Each exists once and is compared by identity: hashing its texts took 0.3 us of each count.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


DECISIONS = Metric(
    "extauthz_decisions_total",
    "counter",
    "Checks answered, by the decision and by what decided.",
    ("route", "method", "decision", "reason", "provider"),
)
DURATION = Metric("extauthz_check_duration_seconds", "histogram", "Time from decoded request to answer.", ("route", "decision"))
TENANT_DECISIONS = Metric(
    "extauthz_tenant_decisions_total",
    "counter",
    "Checks answered per tenant, for the first 100 tenants seen; opt-in.",
    ("tenant", "decision"),
)
ERRORS = Metric(
    "extauthz_errors_total", "counter", "Calls that ended in a gRPC error: a bug or an undecodable request.", ("method",)
)
CLOSED = Metric(
    "extauthz_connections_closed_total",
    "counter",
    "Connections that the fast transport ended, by the rule of HTTP/2 or the limit that the peer broke.",
    ("reason",),
)
RELOADS = Metric("extauthz_config_reloads_total", "counter", "Gateway files read, by what became of them.", ("outcome",))
REDIS_UP = Metric("extauthz_redis_up", "gauge", "Workers whose Redis connection stands.")
IDENTITIES = Metric("extauthz_identities_cached", "gauge", "Keys whose documents workers hold.")
BREAKER_OPEN = Metric(
    "extauthz_breaker_not_closed", "gauge", "Workers that see the provider's breaker open or half open.", ("provider",)
)
WORKERS = Metric("extauthz_workers", "gauge", "Worker processes that are ready.")
RESTARTS = Metric("extauthz_worker_restarts_total", "counter", "Workers that ended and were started again.")
BUILD = Metric("extauthz_build_info", "gauge", "Always 1; the version is in the label.", ("version",))

ALL = (DECISIONS, DURATION, TENANT_DECISIONS, ERRORS, CLOSED, RELOADS, REDIS_UP, IDENTITIES, BREAKER_OPEN, WORKERS, RESTARTS, BUILD)
BY_NAME = {metric.name: metric for metric in ALL}

Labels = tuple[str, ...]


class Histogram(msgspec.Struct):
    """Counts per bucket, the last for what is above them all, and the sum in seconds."""

    counts: list[int]
    total: float = 0.0


class Snapshot(msgspec.Struct):
    """All that one process has counted since it started."""

    values: dict[str, list[tuple[Labels, float]]]
    histograms: dict[str, list[tuple[Labels, Histogram]]]


class Metrics:
    """The counters of one process.

    Args:
        tenants: whether decisions are counted per tenant too.
        series_max: see SERIES_MAX.
    """

    def __init__(self, *, tenants: bool = False, series_max: int = SERIES_MAX) -> None:
        self._values: dict[tuple[Metric, Labels], float] = {}
        self._histograms: dict[tuple[Metric, Labels], Histogram] = {}
        self._tenants: set[str] | None = set() if tenants else None
        self._series_left = series_max - sum(len(BUCKETS) + 2 if metric.kind == "histogram" else 1 for metric in ALL)

    @property
    def counts_tenants(self) -> bool:
        """Whether the operator asked for tenants as a label."""
        return self._tenants is not None

    def add(self, metric: Metric, labels: Labels = (), amount: float = 1) -> None:
        """Count. A series beyond the bound is counted with every label `other`."""
        key = (metric, labels)
        values = self._values
        if key in values:
            values[key] += amount
        elif self._may_grow(1):
            values[key] = amount
        else:
            rest = (metric, (OTHER,) * len(labels))
            values[rest] = values.get(rest, 0) + amount

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        """What a gauge shows now. A series beyond the bound is not shown."""
        key = (metric, labels)
        if key in self._values or self._may_grow(1):
            self._values[key] = value

    def observe(self, metric: Metric, labels: Labels, seconds: float) -> None:
        """One more observation of a histogram."""
        key = (metric, labels)
        histogram = self._histograms.get(key)
        if histogram is None:
            if not self._may_grow(len(BUCKETS) + 2):
                key = (metric, (OTHER,) * len(labels))
            histogram = self._histograms.setdefault(key, Histogram([0] * (len(BUCKETS) + 1)))
        histogram.counts[bisect_left(BUCKETS, seconds)] += 1
        histogram.total += seconds

    def tenant(self, tenant_id: str) -> str:
        """The label value of a tenant: its id for the first hundred seen, `other` for the rest."""
        seen = self._tenants
        if seen is None or tenant_id in seen:
            return tenant_id if seen is not None else OTHER
        if len(seen) >= TENANTS_MAX:
            return OTHER
        seen.add(tenant_id)
        return tenant_id

    def _may_grow(self, series: int) -> bool:
        if self._series_left < series:
            return False
        self._series_left -= series
        return True

    def snapshot(self) -> Snapshot:
        """All values, by the metrics' names."""
        values: dict[str, list[tuple[Labels, float]]] = {}
        for (metric, labels), value in self._values.items():
            values.setdefault(metric.name, []).append((labels, value))
        histograms: dict[str, list[tuple[Labels, Histogram]]] = {}
        for (metric, labels), histogram in self._histograms.items():
            histograms.setdefault(metric.name, []).append((labels, histogram))
        return Snapshot(values, histograms)


def method_label(method: str) -> str:
    """The method itself when it is one of HTTP's, else `other`."""
    return method if method in METHODS else OTHER


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of what several processes counted. Gauges add up as well: each is a number of things."""
    values: dict[str, dict[Labels, float]] = {}
    histograms: dict[str, dict[Labels, Histogram]] = {}
    for snapshot in snapshots:
        for name, rows in snapshot.values.items():
            into = values.setdefault(name, {})
            for labels, value in rows:
                into[labels] = into.get(labels, 0) + value
        for name, bars in snapshot.histograms.items():
            both = histograms.setdefault(name, {})
            for labels, bar in bars:
                was = both.get(labels) or Histogram([0] * len(bar.counts))
                both[labels] = Histogram([a + b for a, b in zip(was.counts, bar.counts, strict=True)], was.total + bar.total)
    return Snapshot(
        {name: list(rows.items()) for name, rows in values.items()},
        {name: list(bars.items()) for name, bars in histograms.items()},
    )


def series_of(snapshot: Snapshot) -> Iterator[tuple[str, Labels]]:
    """Every series a scrape of this snapshot shows, buckets counted one by one."""
    for name, rows in snapshot.values.items():
        for labels, _ in rows:
            yield name, labels
    for name, bars in snapshot.histograms.items():
        for labels, bar in bars:
            for index in range(len(bar.counts) + 1):
                yield name, (*labels, str(index))
