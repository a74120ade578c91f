"""The frame of the command: one line for an error, the right exit code, and no import that was not asked for."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from extauthz.cli import main
from extauthz.cli.main import COMMANDS, Command, run
from extauthz.errors import BadConfig, ExtauthzError, Malformed, Missing, Problem, Refusal, Unavailable

ROOT = Path(__file__).parents[2]
TRANSCRIPTS = Path(__file__).with_name("transcripts")


@pytest.mark.parametrize("file", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda file: file.stem)
def test_commands_say_what_their_transcript_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`$ ` is a command, `! ` standard error, `? ` an exit code other than 0, the rest standard output."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    said = ""
    for command in re.findall(r"^\$ extauthz (.*)$", file.read_text(), re.MULTILINE):
        code = run(command.replace("GATEWAY", "envoy/gateway.yaml").split())
        output, errors = capsys.readouterr()
        noted = "".join(f"! {line}".rstrip() + "\n" for line in errors.splitlines())
        said += f"$ extauthz {command}\n{noted}{output}" + (f"? {code}\n" if code else "")
    assert said == file.read_text()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name, command in COMMANDS.items() if f"  {name} " not in shown or command.help not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_of_the_table_is_there_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: extauthz {name}" in capsys.readouterr().out


ERRORS = {
    "missing": (Missing("no tenant acme"), 1, "error: no tenant acme\n"),
    "unavailable": (Unavailable("redis did not answer"), 1, "error: redis did not answer\n"),
    "refusal": (Refusal("no", 403, "no"), 1, "error: no\n"),
    "malformed": (Malformed("'a b' is no tenant id"), 2, "error: 'a b' is no tenant id\n"),
    "bad config": (
        BadConfig([Problem("EXTAUTHZ_REDIS_URL", 0, "is not set", "a URL"), Problem("f", 3, "is wrong")]),
        1,
        "error: EXTAUTHZ_REDIS_URL: is not set (allowed: a URL)\nerror: f:3: is wrong\n",
    ),
    "terminal escape": (Missing("no tenant \x1b[2J"), 1, "error: no tenant \\x1b[2J\n"),
}


class _Failing:
    """A command's module whose command raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def command(self) -> None:
        raise self._error


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fail", Command("fail", "command", "Fail."))
    monkeypatch.setitem(sys.modules, "extauthz.cli.fail", _Failing(error))


@pytest.mark.parametrize(("error", "code", "shown"), ERRORS.values(), ids=ERRORS)
def test_error_is_a_line_and_an_exit_code(
    error: ExtauthzError, code: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error, monkeypatch)
    assert run(["fail"]) == code
    assert capsys.readouterr() == ("", shown)


def test_interrupted_command_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(KeyboardInterrupt(), monkeypatch)
    assert run(["fail"]) == 130
    assert capsys.readouterr() == ("", "")


def test_exit_code_of_a_command_is_the_process_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(typer.Exit(7), monkeypatch)
    assert run(["fail"]) == 7


def test_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(ZeroDivisionError("bug"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def _modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys, json; {code}; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, capture_output=True, check=True, env=environment).stderr
    return set(json.loads(shown))


def test_frame_imports_no_command_and_nothing_slow() -> None:
    loaded = _modules_after("import extauthz.cli.main")
    slow = {"rich", "pydantic", "asyncio", "redis", "yaml", "cryptography", "grpc", "watchfiles", "structlog", "prometheus_client"}
    assert loaded & slow == set()
    assert {name for name in loaded if name.startswith("extauthz.cli.")} == {"extauthz.cli.main", "extauthz.cli.output"}


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    loaded = _modules_after("from extauthz.cli.main import run; run(['check-config', 'envoy/gateway.yaml'])")
    commands_loaded = {name for name in loaded if name.startswith("extauthz.cli.")}
    assert commands_loaded == {"extauthz.cli.main", "extauthz.cli.output", "extauthz.cli.check_config"}
    assert "rich" not in loaded


def test_python_m_extauthz_is_the_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "extauthz", "--version"], capture_output=True, check=True, cwd=ROOT, text=True
    ).stdout
    assert shown == "extauthz 0.1.0\n"


def test_installed_command_exits_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["extauthz", "check-config", "/nonexistent"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
