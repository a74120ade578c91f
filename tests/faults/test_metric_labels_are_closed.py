"""The accident: a metric's label holds what a client sent, and every new path, method or key is one more series, without end."""

import random
from pathlib import Path
from typing import Any

from extauthz.decision import refusals
from extauthz.telemetry.metrics import DECISIONS, METHODS, NONE, OTHER, Labels, Metric, Metrics, series_of
from extauthz.tenants import api_key
from tests.harness.deciding import Deciding, deciding

REQUESTS = 600


def a_request(rng: random.Random, key: str) -> dict[str, Any]:
    """What a client may send: everything in it is new, or nothing is."""
    junk = "".join(rng.choices("abcdefghijklmnop", k=8))
    keys = (key, "", junk, api_key.mint("test")[0].reveal().decode())
    return {
        "key": rng.choice(keys),
        "path": rng.choice(
            ("/v1/chat/completions", "/v1/strict", f"/{junk}", f"/agents/{junk}/runs", f"/v1/{junk}/../x", f"/?{junk}")
        ),
        "method": rng.choice(("POST", "GET", junk, junk.upper())),
        "host": rng.choice(("api.example.com", f"{junk}.example")),
        "model": rng.choice((None, junk, "gpt-4o-mini")),
        "source": f"192.0.2.{rng.randrange(256)}",
        "request_id": junk,
    }


async def series_after(system: Deciding, key: str, seed: int) -> set[tuple[str, Labels]]:
    rng = random.Random(seed)
    for _ in range(REQUESTS):
        await system.check(**a_request(rng, key))
    return set(series_of(system.core.metrics.snapshot()))


async def growth(system: Deciding) -> set[tuple[str, Labels]]:
    """The series that a second lot of requests adds, of the same kinds as the first but with other words in them."""
    key = (await system.acme("bench")).text
    before = await series_after(system, key, 1)
    return await series_after(system, key, 2) - before


async def test_requests_add_no_series(redis_url: str, tmp_path: Path) -> None:
    async with deciding(redis_url, tmp_path) as system:
        assert await growth(system) == set()
        policy = system.core.checker.policy
        assert policy is not None
        closed: tuple[set[str], ...] = (
            {compiled.route.name for compiled in policy.routes} | {NONE},
            set(METHODS) | {OTHER},
            {"allowed", "denied"},
            set(refusals.CODES) | {"ok"},
            set(policy.gateway.providers) | {NONE},
        )
        seen = [labels for labels, _ in system.core.metrics.snapshot().values[DECISIONS.name]]
        assert len(seen) > 10
        for labels in seen:
            assert [label in allowed for label, allowed in zip(labels, closed, strict=True)] == [True] * 5, labels


def test_a_thousand_tenants_are_a_hundred_series_and_the_rest() -> None:
    metrics = Metrics(tenants=True)
    for number in range(1_000):
        metrics.add(DECISIONS, (metrics.tenant(f"tenant-{number}"),))
    assert len(list(series_of(metrics.snapshot()))) == 101


class ByPath(Metrics):
    """The accident: the route's label is what the client sent."""

    path = ""

    def add(self, metric: Metric, labels: Labels = (), amount: float = 1) -> None:
        super().add(metric, (self.path, *labels[1:]) if metric is DECISIONS else labels, amount)


async def test_the_checker_sees_a_label_taken_from_the_request(redis_url: str, tmp_path: Path) -> None:
    async with deciding(redis_url, tmp_path) as system:
        naive = ByPath()
        system.core.metrics = system.core.check._metrics = naive
        checker: Any = system.core.checker
        policy = checker.policy

        def match(method: str, host: str, path: str) -> Any:
            naive.path = path
            return type(policy).match(policy, method, host, path)

        class Told:
            credential_headers = policy.credential_headers
            routes = policy.routes

        told: Any = Told()
        told.match = match
        told.plan = policy.plan
        checker._policy = told
        assert len(await growth(system)) > 100
