"""What reaches a terminal or a pipe."""

import io
import json
import sys

import pytest

from extauthz.cli import output

HOSTILE = "a\x1b[31mb\nc\u202ed\x00\ud800"
SHOWN = "a\\x1b[31mb\\nc\\u202ed\\x00\\ud800"


def test_text_of_others_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.line(HOSTILE)
    output.error(HOSTILE.replace("\n", ""))
    output.table(("NAME",), [(HOSTILE,)])
    shown = capsys.readouterr()
    assert shown.out == f"{SHOWN}\nNAME\n{SHOWN}\n"
    assert shown.err == SHOWN.replace("\\n", "") + "\n"


def test_ordinary_text_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.line("Zürich 東京")
    assert capsys.readouterr().out == "Zürich 東京\n"


def test_table_in_a_pipe_is_aligned_and_without_marks(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("TENANT", "PLAN"), [("a", "free"), ("longer-one", "")])
    assert capsys.readouterr().out == "TENANT      PLAN\na           free\nlonger-one\n"


def test_empty_table_is_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("TENANT", "PLAN"), [])
    assert capsys.readouterr().out == "TENANT  PLAN\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_table_on_a_terminal_takes_brackets_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    output.table(("NAME",), [("[red]x[/red]",), (HOSTILE,)])
    assert [line.rstrip() for line in terminal.getvalue().splitlines()] == ["NAME", "[red]x[/red]", SHOWN]


def test_json_is_ascii_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"b": ["ü\x1b"], "a": None}
    output.as_json(value)
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert list(json.loads(shown)) == ["b", "a"]
    assert json.loads(shown) == value


def test_document_ends_with_one_line_break(capsys: pytest.CaptureFixture[str]) -> None:
    output.document("a: 1")
    output.document("b: 2\n")
    assert capsys.readouterr().out == "a: 1\nb: 2\n"
