import urllib.request

import pytest

from demo.processes import free_port
from extauthz.errors import BadConfig
from extauthz.telemetry.exposition import serve_metrics
from extauthz.telemetry.metrics import ALL, DECISIONS, DURATION, Metrics


def test_a_scrape_shows_what_was_counted() -> None:
    metrics = Metrics()
    metrics.add(DECISIONS, ("chat", "POST", "denied", "key_unknown", "none"), 3)
    metrics.observe(DURATION, ("chat", "denied"), 0.003)
    port = free_port()
    stop = serve_metrics("127.0.0.1", port, metrics.snapshot)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    finally:
        stop()
    wanted = (
        'extauthz_decisions_total{decision="denied",method="POST",provider="none",reason="key_unknown",route="chat"} 3.0',
        'extauthz_check_duration_seconds_bucket{decision="denied",le="0.002",route="chat"} 0.0',
        'extauthz_check_duration_seconds_bucket{decision="denied",le="0.005",route="chat"} 1.0',
        'extauthz_check_duration_seconds_bucket{decision="denied",le="+Inf",route="chat"} 1.0',
    )
    assert [line for line in wanted if line not in text] == []


def test_a_busy_port_is_named() -> None:
    port = free_port()
    stop = serve_metrics("127.0.0.1", port, Metrics().snapshot)
    try:
        with pytest.raises(BadConfig, match=f"127.0.0.1:{port}"):
            serve_metrics("127.0.0.1", port, Metrics().snapshot)
    finally:
        stop()


def test_names_follow_the_conventions() -> None:
    for metric in ALL:
        assert metric.name.startswith("extauthz_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not {"request_id", "key_id", "path", "model"} & set(metric.labels)
