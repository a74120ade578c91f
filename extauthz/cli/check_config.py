"""`extauthz check-config FILE`: what `serve` would say about a gateway file, without serving."""

from pathlib import Path
from typing import Annotated

import typer

from extauthz.cli import output
from extauthz.errors import BadConfig
from extauthz.gateway.load import load


def check_config(
    file: Annotated[Path, typer.Argument(help="The gateway file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,  # noqa: FBT002 (an option is a flag)
) -> None:
    """Check a gateway file: every problem at once, each with its line and what is allowed. Exits 1 when there is any."""
    try:
        gateway = load(file)
    except BadConfig as bad:
        if as_json:
            output.as_json({"ok": False, "problems": [{name: getattr(each, name) for name in _PROBLEM} for each in bad.problems]})
        else:
            output.error(str(bad))
        raise typer.Exit(1) from bad
    counts = {name: len(getattr(gateway, name)) for name in ("providers", "scopes", "routes", "plans")}
    if as_json:
        output.as_json({"ok": True, **counts, "digest": gateway.digest})
    else:
        output.line("ok: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


_PROBLEM = ("file", "line", "what", "allowed")
