"""`/metrics`: one collector for prometheus-client, fed with the merged snapshots of all workers."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from extauthz.errors import BadConfig, Problem
from extauthz.telemetry.metrics import BUCKETS, BY_NAME, Histogram, Snapshot

_BOUNDS = (*(format(bound, "g") for bound in BUCKETS), "+Inf")


class SnapshotCollector(Collector):
    """Families made of whatever snapshot there is when the scrape comes."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        """One family per metric that has a value."""
        snapshot = self._snapshot()
        for name, rows in sorted(snapshot.values.items()):
            metric = BY_NAME[name]
            of = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = of(name, metric.help, labels=metric.labels)
            for labels, value in rows:
                family.add_metric(labels, value)
            yield family
        for name, bars in sorted(snapshot.histograms.items()):
            metric = BY_NAME[name]
            histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
            for labels, bar in bars:
                histogram.add_metric(labels, _cumulative(bar), bar.total)
            yield histogram


def _cumulative(bar: Histogram) -> list[tuple[str, float]]:
    rows, seen = [], 0
    for bound, count in zip(_BOUNDS, bar.counts, strict=True):
        seen += count
        rows.append((bound, float(seen)))
    return rows


def serve_metrics(address: str, port: int, snapshot: Callable[[], Snapshot]) -> Callable[[], None]:
    """Serve `/metrics` on a thread of its own. Returns what stops it.

    Raises:
        BadConfig: the port is taken, or the address is not this machine's.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    try:
        server, thread = start_http_server(port, address, registry=registry)
    except OSError as error:
        raise BadConfig([Problem("--metrics", 0, f"cannot listen on {address}:{port}: {error.strerror}")]) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
