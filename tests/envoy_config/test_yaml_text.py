"""What is written is what Envoy reads: a name is a string, however much it looks like something else."""

import pytest
import yaml

from extauthz.envoy_config.yaml_text import duration, to_yaml

WORDS = [
    "y",
    "n",
    "Y",
    "No",
    "on",
    "OFF",
    "true",
    "null",
    "~",
    "1e5",
    "0x1f",
    "012",
    "1_000",
    "1:30",
    ".5",
    ".inf",
    "nan",
    "-",
    "2026-11-21",
]
NAMES = ["openai", "x-api-key", "a1", "chain:a+b", "Bearer {}", "%REQ(:PATH)%", "*", "é", "a: b", "a\nb\n", "", " a", "'", '"']


@pytest.mark.parametrize("text", [*WORDS, *NAMES])
def test_a_string_is_read_back_as_that_string(text: str) -> None:
    assert yaml.safe_load(to_yaml({text: [text, {"value": text}]})) == {text: [text, {"value": text}]}


@pytest.mark.parametrize("text", WORDS)
def test_what_any_reader_could_take_for_something_else_is_quoted(text: str) -> None:
    """PyYAML reads `y` and `1e5` as strings, Envoy's reader does not."""
    assert to_yaml({"name": text}) == f'name: "{text}"\n'
    assert to_yaml({text: 1}).startswith('"')


def test_nothing_is_an_anchor() -> None:
    part = {"a": ["b"]}
    assert to_yaml({"one": part, "two": part}) == "one:\n  a:\n  - b\ntwo:\n  a:\n  - b\n"


@pytest.mark.parametrize(("milliseconds", "text"), [(0, "0s"), (1, "0.001s"), (250, "0.25s"), (1000, "1s"), (600_010, "600.01s")])
def test_durations(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text
