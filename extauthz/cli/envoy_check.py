"""`extauthz envoy-check FILE`: what is unsafe in any Envoy configuration that uses us."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from extauthz.cli import output
from extauthz.envoy_config.check import check
from extauthz.envoy_config.rules.rule import Options
from extauthz.errors import BadConfig


def envoy_check(
    file: Annotated[Path, typer.Argument(help="An Envoy configuration, YAML or JSON.", show_default=False)],
    envoy_version: Annotated[
        str, typer.Option("--envoy-version", metavar="X.Y.Z", help="The Envoy that will read it: also look for open advisories.")
    ] = "",
    body_bytes_max: Annotated[
        int | None, typer.Option("--body-bytes-max", min=0, help="The largest body your clients send.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,  # noqa: FBT002 (an option is a flag)
) -> None:
    """Say what is unsafe in an Envoy configuration, and what to write instead. Exits 1 when anything is, 2 when it cannot tell."""
    try:
        findings = check(file, Options(envoy_version=envoy_version, body_bytes_max=body_bytes_max))
    except BadConfig as bad:
        output.error(str(bad))
        raise typer.Exit(2) from bad
    if as_json:
        output.as_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            output.line(str(finding))
    if findings:
        raise typer.Exit(1)
