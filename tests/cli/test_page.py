"""docs/cli.md names every command on the record and every option of it."""

from importlib import import_module
from pathlib import Path

import pytest
import typer
import typer.main

from extauthz.cli.main import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("noun", ["tenant", "key", "secret", "breaker"])
def test_the_page_names_every_verb_and_option(noun: str) -> None:
    app = getattr(import_module(f"extauthz.cli.{COMMANDS[noun].module}"), COMMANDS[noun].attribute)
    assert isinstance(app, typer.Typer)
    group = typer.main.get_group(app)
    assert group.commands
    for verb, command in group.commands.items():
        assert f"extauthz {noun} {verb}" in PAGE
        for option in command.params:
            for name in option.opts:
                assert not name.startswith("--") or name in PAGE, f"{noun} {verb} {name}"
