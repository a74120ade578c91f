"""The gateway file: what a good one becomes, and that a bad one becomes nothing but its problems."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.errors import BadConfig
from extauthz.gateway.load import FILE_BYTES_MAX, load, parse
from extauthz.gateway.model import FailureMode, Gateway, Limit, Listener, Plan, Provider, Route, Scope
from tests.gateway.configs import GOOD, changed, problems_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "envoy" / "gateway.yaml"
BAD = sorted((ROOT / "tests" / "configs" / "bad").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_one_mistake_is_told_with_its_line_and_what_is_allowed(path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(path.read_bytes(), path.name)
    assert str(caught.value) + "\n" == path.with_suffix(".txt").read_text()


def test_there_are_bad_files() -> None:
    assert len(BAD) > 100
    assert [path for path in BAD if not path.with_suffix(".txt").exists()] == []


def test_whole_file_becomes_whole_values() -> None:
    assert parse(GOOD.encode(), "f") == Gateway(
        listener=Listener("127.0.0.1", 10_000, 9_901, 4 << 20, 1_000, 0),
        providers={
            "openai": Provider("openai", "api.openai.com", 443, True, "", "authorization", "Bearer {}", ""),
            "azure": Provider("azure", "example.openai.azure.com", 443, True, "/openai", "api-key", "{}", ""),
            "agno": Provider("agno", "127.0.0.1", 7777, False, "", "", "", ""),
        },
        scopes={
            "agents:orchestration": Scope(
                "agents:orchestration", frozenset(("openai", "azure", "agno")), ("gpt-4o-mini", "gpt-4o-*")
            )
        },
        routes=(
            Route("chat", ("*",), "/v1/chat/completions", ("POST",), "agents:orchestration", ("openai", "azure"), "openai", 60_000),
        ),
        plans={"free": Plan("free", (Limit("requests", ("tenant",), 100, 60_000, "fixed"),), FailureMode())},
        default_plan="free",
        digest=hashlib.sha256(GOOD.encode()).hexdigest(),
    )


def test_values_cannot_be_changed() -> None:
    gateway = parse(GOOD.encode(), "f")
    with pytest.raises(TypeError):
        gateway.providers["x"] = gateway.providers["agno"]  # type: ignore[index]


#: From the table of the README: scope to providers and models.
SCOPES = {
    "agents:orchestration": ("agno, openai", "gpt-4o-mini, gemini-flash"),
    "agents:financial": ("agno, anthropic", "claude-opus, gpt-4o"),
    "agents:voice": ("agno, elevenlabs", "gpt-4o, claude-sonnet"),
    "voice:synthesis": ("cartesia, elevenlabs", ""),
    "voice:cloning": ("cartesia, elevenlabs", ""),
    "document:ocr": ("google-vision, textract", ""),
    "document:intelligence": ("gemini, openai", "gemini-pro, gpt-4o"),
    "avatar:generation": ("tavus", ""),
}


def test_example_has_the_scopes_that_the_readme_promises() -> None:
    gateway = load(EXAMPLE)
    shown = {
        name: (
            ", ".join(sorted(scope.providers)),
            # A pattern beside a model stands for that model's dated versions.
            ", ".join(model for model in scope.models if "*" not in model),
        )
        for name, scope in gateway.scopes.items()
    }
    assert shown == SCOPES
    assert set(gateway.providers) == {name for scope in gateway.scopes.values() for name in scope.providers}
    assert {route.scope for route in gateway.routes} >= set(SCOPES) - {"agents:voice"}


def test_example_has_the_plans_that_the_readme_promises() -> None:
    gateway = load(EXAMPLE)
    never = 1_000_000_000
    assert {name: plan.limits for name, plan in gateway.plans.items()} == {
        "free": (Limit("requests", ("tenant",), 100, 60_000, "fixed"),),
        "pro": (
            Limit("requests", ("tenant",), 6_000, 60_000, "fixed"),
            Limit("endpoint", ("key", "endpoint"), 600, 60_000, "fixed"),
        ),
        "bench": tuple(Limit(level, (level,), never, 60_000, "fixed") for level in ("tenant", "key", "endpoint", "global")),
    }
    assert gateway.default_plan == "free"


def test_example_sends_openai_chat_of_any_host_to_openai() -> None:
    route = next(route for route in load(EXAMPLE).routes if route.path == "/v1/chat/completions")
    assert (route.hosts, route.methods, route.scope, route.providers) == (("*",), ("POST",), "agents:orchestration", ("openai",))


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    bad = changed(
        ("https://api.openai.com", "openai"),
        ("{header: api-key}", "bearer"),
        ("[openai, azure]", "[openai, nobody]"),
        ("100/minute", "100/moment"),
        ("default_plan: free", "default_plan: gold"),
        add="x: 1\nx: 2\n",
    )
    assert [problem.line for problem in problems_of(bad)] == [3, 7, 19, 23, 24, 25, 26]


def test_file_that_cannot_be_read_is_a_problem_of_that_file(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(GOOD.encode() + b"#" * (FILE_BYTES_MAX + 1 - len(GOOD)))
    for path in (tmp_path / "none.yaml", tmp_path, large, Path("a\0b")):
        with pytest.raises(BadConfig) as caught:
            load(path)
        assert [(problem.file, problem.line) for problem in caught.value.problems] == [(str(path), 0)]


def test_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(GOOD.encode() + b"#" * (FILE_BYTES_MAX - len(GOOD)))
    assert load(path).default_plan == "free"


_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from(("*", "none", "{}", "1/day"))
)
_VALUE = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=8
)


def is_judged(data: bytes) -> bool:
    """Whether it became a gateway or at least one problem; any other exception passes through."""
    try:
        gateway = parse(data, "f")
    except BadConfig as bad:
        return bool(bad.problems)
    return gateway.default_plan in gateway.plans


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_a_gateway_or_its_problems(data: st.DataObject) -> None:
    tree = yaml.safe_load(EXAMPLE.read_bytes() if data.draw(st.booleans()) else GOOD)
    place = tree
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = data.draw(_VALUE)
    assert is_judged(yaml.safe_dump(tree).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_any_bytes_are_a_gateway_or_problems(noise: bytes, at: int, replaced: int) -> None:
    data = GOOD.encode()
    assert is_judged(data[:at] + noise + data[at + replaced :])


def test_import_brings_nothing_slow() -> None:
    code = "import sys, json, extauthz.gateway.load; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout))
    assert loaded & {"pydantic", "typer", "rich", "watchfiles", "asyncio", "redis", "google.protobuf", "structlog"} == set()
