"""The figures as a table: the median of the rounds, how far they lay apart, and the ratios that the issue asks for."""

import statistics
from typing import Any

from bench.rows import ROWS, Figure, Measured

#: No row may get so much worse in a commit that does not say so.
NOTABLE = 0.1


def table(measured: Measured, many: int) -> str:
    """One line per row and server."""
    by_place: dict[tuple[str, str], list[Figure]] = {}
    for figure in measured.figures:
        by_place.setdefault((figure.row, figure.server), []).append(figure)
    lines = [f"{'':34}{'server':9}{'CPU us':>8}{'min':>8}{'max':>8}{'requests/s':>12}{'of grpcio':>11}{'above floor':>13}"]
    for row in ROWS:
        title = row.title.replace("N tenants", f"{many:,} tenants")
        for server in row.servers:
            figures = by_place.get((row.name, server))
            if figures:
                others = {other: _median(by_place.get((row.name, other))) for other in ("grpcio", "floor", "envoy")}
                lines.append(_line(title, server, figures, others))
                title = ""
    return "\n".join(lines)


def _line(title: str, server: str, figures: list[Figure], others: dict[str, float | None]) -> str:
    costs = [figure.cpu_us for figure in figures]
    cost = statistics.median(costs)
    per_s = statistics.median(figure.per_s for figure in figures)
    grpcio, floor, envoy = others["grpcio"], others["floor"], others["envoy"]
    of_grpcio = f"1/{grpcio / cost:.1f}" if grpcio and server in {"fast", "floor"} else ""
    above = f"{cost - floor:+.1f}" if floor and server in {"fast", "grpcio"} else ""
    if envoy and server == "sidecar":
        above = f"{cost / envoy:.2f} of Envoy"
    return f"{title:34}{server:9}{cost:8.1f}{min(costs):8.1f}{max(costs):8.1f}{per_s:12,.0f}{of_grpcio:>11}{above:>13}"


def summary(measured: Measured) -> list[str]:
    """The figures that the issue names."""
    at = {(row, server): _median([f for f in measured.figures if (f.row, f.server) == (row, server)]) for row, server in _places()}
    out = []
    whole, grpcio = at["many-in-flight", "fast"], at["many-in-flight", "grpcio"]
    if whole and grpcio:
        out.append(f"whole Check, 64 in flight: {whole:.1f} us, 1/{grpcio / whole:.1f} of grpcio's (goal: 30 us, 1/7)")
    for server in ("fast", "floor"):
        # Pairs of a round, because they were measured one after the other.
        plain, traced = (_costs(measured, row, server) for row in ("many-in-flight", "traceparent"))
        if plain and traced:
            adds = statistics.median(b - a for a, b in zip(plain, traced, strict=False))
            out.append(f"a fresh traceparent adds {adds:+.1f} us to {server} (goal: at most 4)")
    sidecar, envoy = at["envoy", "sidecar"], at["envoy", "envoy"]
    if sidecar and envoy:
        out.append(f"through Envoy: sidecar {sidecar:.1f} us, Envoy {envoy:.1f} us (goal: less than Envoy)")
    if measured.tenant_bytes:
        out.append(f"memory of a tenant with its key and credential: {statistics.median(measured.tenant_bytes) / 1024:.2f} KiB")
    if measured.pauses_ms:
        each = (
            f"{len(pauses)} of generation {generation}, longest {max(pauses):.1f} ms"
            for generation, pauses in measured.pauses_ms.items()
            if pauses
        )
        out.append("garbage collections with all tenants in memory: " + "; ".join(each))
    return out


def differences(measured: Measured, before: list[dict[str, Any]]) -> list[str]:
    """Rows whose median moved by more than a tenth since the figures in a file of `--json`; on a busy machine, run both again."""
    out = []
    for row, server in _places():
        was = [one["cpu_us"] for one in before if (one["row"], one["server"]) == (row, server)]
        now = _costs(measured, row, server)
        if was and now and abs(statistics.median(now) / statistics.median(was) - 1) > NOTABLE:
            out.append(f"{row}, {server}: {statistics.median(was):.1f} -> {statistics.median(now):.1f} us")
    return out or ["no row differs by more than a tenth"]


def as_json(measured: Measured) -> list[dict[str, object]]:
    """Every single measurement."""
    return [
        {"row": figure.row, "server": figure.server, "cpu_us": figure.cpu_us, "per_s": figure.per_s} for figure in measured.figures
    ]


def _costs(measured: Measured, row: str, server: str) -> list[float]:
    return [figure.cpu_us for figure in measured.figures if (figure.row, figure.server) == (row, server)]


def _places() -> list[tuple[str, str]]:
    return [(row.name, server) for row in ROWS for server in row.servers]


def _median(figures: list[Figure] | None) -> float | None:
    return statistics.median(figure.cpu_us for figure in figures) if figures else None
