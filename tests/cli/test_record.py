"""What the commands on the record say, line for line: the files in transcripts/record/ are the expectation and the documentation.

A line `$ …` is a command, with its standard input behind ` < '…'`; the lines after it are its standard output; `! ` marks standard
error, `? ` an exit code other than 0. Ids, keys and times are replaced by names before comparing: ID1 is the first id that was
shown, KEY1 the key that holds it, WHERE this test's Redis.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extauthz.cli.main import run

FOLDER = Path(__file__).with_name("transcripts") / "record"
GATEWAY = Path("envoy/gateway.yaml").absolute()
CANARY = "sk-canary"

_KEY = re.compile(r"xa_live_([a-z2-7]{16})_[0-9A-Za-z]{38}")
_ID = re.compile(r"\b[a-z2-7]{16}\b")
_TIME = re.compile(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Names:
    """Real keys and ids to the names that stand in a transcript, and back."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def real(self, text: str) -> str:
        """The text with the real keys and ids."""
        return re.sub(r"\b(KEY|ID)\d\b", lambda match: self._real.get(match[0], match[0]), text)

    def learn(self, text: str) -> None:
        """Name the keys in the text, and the ids in them."""
        for match in _KEY.finditer(text):
            if match[0] not in self._real.values():
                number = len(self._real) // 2 + 1
                self._real |= {f"KEY{number}": match[0], f"ID{number}": match[1]}

    def shown(self, text: str) -> str:
        """The text with names."""
        for name, real in sorted(self._real.items(), reverse=True):
            text = text.replace(real, name)
        return _TIME.sub("TIME", text)


def commands(text: str) -> Iterator[str]:
    """Each command of a transcript; a quoted word may go over the end of a line."""
    for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = step.splitlines()
        count = next(count for count in range(1, len(lines) + 1) if "\n".join(lines[:count]).count("'") % 2 == 0)
        yield "\n".join(lines[:count])


def run_line(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run it as a shell would, in this process."""
    words, _, given = command.partition(" < ")
    stdin = given.strip("'").encode().decode("unicode_escape").encode("latin-1")
    arguments = shlex.split(words)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        while "=" in arguments[0]:
            patch.setenv(*arguments.pop(0).split("=", 1))
        assert arguments.pop(0) == "extauthz"
        return run(arguments)


def squeezed(text: str) -> str:
    """Columns are as wide as what is in them, and the real ids are wider than their names."""
    return re.sub(r" {2,}(?=\S)", "  ", text) if "STATUS" in text else text


@pytest.fixture
def environment(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What an operator exports before the first command."""
    master_key = tmp_path / "master.key"
    master_key.touch(mode=0o600)
    master_key.write_text("0123456789abcdef" * 4)
    variables = {"EXTAUTHZ_REDIS_URL": redis_url, "EXTAUTHZ_MASTER_KEY_FILE": str(master_key), "COLUMNS": "100"}
    for name in [name for name in os.environ if name.startswith("EXTAUTHZ_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_commands_say_what_their_transcript_says(
    file: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = Names()
    where = environment["EXTAUTHZ_REDIS_URL"].removeprefix("redis://")
    said = ""
    for command in commands(file.read_text()):
        code = run_line(names.real(command).replace("GATEWAY", str(GATEWAY)), monkeypatch)
        output, errors = capsys.readouterr()
        assert CANARY not in output + errors
        names.learn(output)
        noted = "".join(f"! {line}".rstrip() + "\n" for line in errors.splitlines())
        said += f"$ {command}\n{names.shown(noted).replace(where, 'WHERE')}{names.shown(output)}" + (f"? {code}\n" if code else "")
    assert squeezed(said) == squeezed(file.read_text())


def test_the_installed_command_says_the_same(environment: dict[str, str]) -> None:
    """In a process of its own, as an operator runs it: no traceback, and standard input is read from a pipe."""

    def extauthz(*arguments: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
        command = [sys.executable, "-c", "from extauthz.cli.main import main; main()", *arguments]
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            env={**os.environ, **environment, "PYTHONPATH": str(Path.cwd())},
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert extauthz("tenant", "create", "acme") == (0, b"tenant acme created: version 1 is in force\n", b"")
    assert extauthz("secret", "set", "acme", "openai", given=b"sk-canary\n") == (
        0,
        b"credential 1 of tenant acme at openai stored: version 2 is in force\n",
        b"",
    )
    environment["EXTAUTHZ_REDIS_URL"] = "redis://127.0.0.1:1"
    assert extauthz("tenant", "list") == (1, b"", b"error: Redis at 127.0.0.1:1 cannot be reached\n")
