"""Limits and failure modes of plans."""

import pytest

from extauthz.gateway.load import parse
from extauthz.gateway.model import FailureMode, Limit
from tests.gateway.configs import changed, problems_of

LEVELS = {
    "tenant": ("tenant",),
    "key": ("key",),
    "endpoint": ("endpoint",),
    "global": ("global",),
    "[tenant]": ("tenant",),
    "[key, endpoint]": ("key", "endpoint"),
    "[endpoint, key]": ("key", "endpoint"),
    "[endpoint, global]": ("global", "endpoint"),
}


@pytest.mark.parametrize(("per", "expected"), LEVELS.items(), ids=LEVELS)
def test_limit_is_counted_per_level(per: str, expected: tuple[str, ...]) -> None:
    limits = parse(changed(("per: tenant", f"per: {per}"), ("100/minute", "5/30s, algorithm: sliding")), "f").plans["free"].limits
    assert limits == (Limit("requests", expected, 5, 30_000, "sliding"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "per", ["[]", "[key, key]", "[tenant, key]", "[key, [endpoint]]", "[key, endpoint, global]", "{key: 1}", "~"]
)
def test_other_levels_are_refused(per: str) -> None:
    assert [problem.line for problem in problems_of(changed(("per: tenant", f"per: {per}")))] == [23]


def test_plan_has_the_failure_mode_of_the_file_unless_it_has_its_own() -> None:
    def mode(of_plan: str, of_file: str) -> FailureMode:
        text = changed(("  free:\n", f"  free:\n    failure_mode: {of_plan}\n" if of_plan else "  free:\n"), add=of_file)
        return parse(text, "f").plans["free"].failure_mode

    half = "failure_mode: {local_share: 0.5, sidecars: 4}\n"
    assert [mode("", ""), mode("", half), mode("refuse", half), mode("{local_share: 1, sidecars: 2}", half)] == [
        FailureMode(0.0, 1),
        FailureMode(0.5, 4),
        FailureMode(0.0, 1),
        FailureMode(1.0, 2),
    ]
