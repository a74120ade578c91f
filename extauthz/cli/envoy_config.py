"""`extauthz envoy-config`: the Envoy configuration that belongs to a gateway file and to a `serve` with the same flags."""

from pathlib import Path
from typing import Annotated

import typer

from extauthz.cli import output
from extauthz.envoy_config.render import render
from extauthz.gateway.load import load
from extauthz.settings import LISTEN_DEFAULT, LISTEN_DEFAULT_SHOWN, parse_listen, worker_listens


def envoy_config(
    config: Annotated[Path, typer.Option(help="The gateway file.")],
    listen: Annotated[
        list[str] | None,
        typer.Option(help="As given to serve: unix:PATH or HOST:PORT; repeatable.", show_default=LISTEN_DEFAULT_SHOWN),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="As given to serve.")] = None,
) -> None:
    """Write a complete Envoy configuration for a gateway file to standard output."""
    each = worker_listens([parse_listen(text) for text in listen or LISTEN_DEFAULT], workers)
    output.document(render(load(config), [own for mine in each for own in mine]))
