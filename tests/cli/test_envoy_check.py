"""`extauthz envoy-check` as a person and as a script meet it."""

import json
from pathlib import Path

import pytest

from extauthz.cli.main import run

FILES = Path(__file__).parents[1] / "configs" / "envoy"
BAD = FILES / "bad" / "01-failure-mode-allow.yaml"
GOOD = FILES / "good" / "01-failure-mode-allow.yaml"


def test_a_finding_names_file_line_rule_reason_and_remedy_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-check", str(BAD)]) == 1
    line = next(number for number, text in enumerate(BAD.read_text().splitlines(), 1) if "failure_mode_allow" in text)
    assert capsys.readouterr().out == (
        f"{BAD}:{line}: 01-failure-mode-allow: failure_mode_allow is true; when the sidecar is down, slow or crashed every request "
        "passes without a key; write failure_mode_allow: false\n"
    )


def test_json_holds_the_same_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-check", str(BAD), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["file"], found["rule"], found["what"]) == (str(BAD), "01-failure-mode-allow", "failure_mode_allow is true")
    assert set(found) == {"file", "line", "rule", "what", "why", "instead"}


def test_a_safe_file_says_nothing_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-check", str(GOOD)]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["envoy-check", str(GOOD), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_what_cannot_be_judged_exits_2_and_not_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("static_resources: {}\n")
    assert run(["envoy-check", str(other)]) == 2
    assert capsys.readouterr() == (
        "",
        f"{other}: nothing here uses extauthz (allowed: a file with an ext_authz filter that has a grpc_service)\n",
    )


def test_version_and_body_size_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["envoy-check", str(GOOD), "--envoy-version", "1.39.0", "--body-bytes-max", "16777216"]) == 1
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["25-envoy-version", "21-buffer-limit"]


def test_aliases_that_multiply_a_small_file_are_told_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = tmp_path / "bomb.yaml"
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 8)]
    bomb.write_text("\n".join(["l0: &l0 [x]", *levels]))
    assert run(["envoy-check", str(bomb)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{bomb}:")
    assert "the document is too large" in told
