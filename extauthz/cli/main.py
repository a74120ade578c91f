"""The `extauthz` command. Importing this file imports no command: only the one that was asked for is imported, when it is.

A command is a row of COMMANDS and a file of its own in this folder: a function for a single command, a `typer.Typer` for a noun
with verbs. An error of errors.py ends any of them as one clear line on standard error, never as a traceback.
"""

import sys
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from extauthz import __version__
from extauthz.cli import output
from extauthz.errors import BadFlag, ExtauthzError, Malformed


class Command(NamedTuple):
    """Where a command is, and the line that `extauthz --help` shows for it."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "serve": Command("serve", "serve", "Serve Envoy: the sidecar itself."),
    "check-config": Command("check_config", "check_config", "Check a gateway file: every problem at once."),
    "envoy-config": Command("envoy_config", "envoy_config", "Write a complete Envoy configuration for a gateway file."),
    "envoy-check": Command("envoy_check", "envoy_check", "Say what is unsafe in an Envoy configuration."),
    "tenant": Command("tenant", "app", "Create tenants, change them, suspend and resume them."),
    "key": Command("key", "app", "Create, list and revoke API keys."),
    "secret": Command("secret", "app", "Store the credentials of tenants, sealed."),
    "breaker": Command("breaker", "app", "Show, open and close the breakers of providers."),
}

#: Done; could not be done; asked for in the wrong way; Ctrl-C.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """What the installed `extauthz` runs."""
    code = run(sys.argv[1:])
    try:
        output.flush()
    except OSError as error:
        code = _not_shown(error)
        output.drop()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """One command, to its exit code: 0 done, 1 it could not be done, 2 it was asked for in the wrong way."""
    try:
        build(_asked_for(arguments))(arguments, prog_name="extauthz")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except Malformed as error:
        output.error(f"error: {error}")
        return EXIT_USAGE
    except ExtauthzError as error:
        output.error("\n".join(f"error: {part}" for part in str(error).splitlines()))
        return EXIT_USAGE if isinstance(error, BadFlag) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        # Errors of Redis and of files are mapped where they appear; what is left is what could not be shown.
        return _not_shown(error)
    return 0


def _not_shown(error: OSError) -> int:
    output.error(f"error: the output could not be written: {error.strerror}")
    return EXIT_FAILED


def build(name: str | None) -> typer.Typer:
    """The application with the command of this name in it; of the others only what `--help` says about them."""
    app = typer.Typer(
        callback=_root,
        add_completion=False,
        no_args_is_help=True,
        # Plain help and errors: no import of rich, and the same text in a pipe as on a terminal.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for each, command in COMMANDS.items():
        target = getattr(import_module(f"extauthz.cli.{command.module}"), command.attribute) if each == name else _elsewhere
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=each, help=command.help, no_args_is_help=True)
        else:
            app.command(each, help=None if each == name else command.help)(target)
    return app


def _asked_for(arguments: list[str]) -> str | None:
    # No option before the command takes a value, so the first word is the command.
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _elsewhere() -> None:
    raise AssertionError("a command that was not asked for was called")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it with the flag's value)
    if wanted:
        output.line(f"extauthz {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[  # noqa: FBT002 (its callback does the work)
        bool, typer.Option("--version", help="The version, and nothing else.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Decide for Envoy, in one hop, who may pass, to which provider, and with whose credential."""
