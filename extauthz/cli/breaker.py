"""`extauthz breaker`: show, open and close the breakers of providers. Every sidecar obeys within a poll, a second."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from extauthz import keyspace
from extauthz.breaker.commands import close_by_hand, open_by_hand, read
from extauthz.breaker.states import CLOSED, HALF_OPEN, OPEN, state_of
from extauthz.cli import output
from extauthz.cli.record import ConfigOption, JsonOption, gateway, known, moment, on_record, provider
from extauthz.errors import Malformed
from extauthz.gateway.units import format_duration, parse_duration
from extauthz.record.server import Server
from extauthz.settings import read_record

app = typer.Typer()

#: The bound of `open_by_hand`.
FOR_MS_MAX = 366 * 86_400_000

_WORDS = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half-open"}

ProviderArgument = Annotated[
    str, typer.Argument(metavar="PROVIDER", help="The provider's name in the gateway file.", show_default=False)
]


@app.command("open")
def open_(
    name: ProviderArgument,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", help="Then let one request at a time try it, such as 30s.", show_default="until closed"
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send no request to a provider. The time runs anew when it is open already."""
    to = _known(name, config)
    for_ms = _for_ms(for_)
    on_record(read_record(), lambda server: open_by_hand(server.execute, to, for_ms))
    lasting = f"for {format_duration(for_ms)}" if for_ms else "until it is closed by hand"
    output.line(f"breaker of {to} opened {lasting}: every sidecar obeys within a second")


@app.command()
def close(name: ProviderArgument, config: ConfigOption = None) -> None:
    """Send requests to a provider again, and forget its failures."""
    to = _known(name, config)
    on_record(read_record(), lambda server: close_by_hand(server.execute, to))
    output.line(f"breaker of {to} closed: every sidecar obeys within a second")


@app.command()
def show(
    name: Annotated[
        list[str] | None, typer.Argument(metavar="[PROVIDER]...", help="All that ever failed or were opened when none is named.")
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """The state of breakers; of every provider in the gateway file with --config."""
    file = gateway(config)
    names = [_known(one, config) for one in name or []] or sorted(file.providers if file is not None else ())
    states = on_record(read_record(), lambda server: _states(server, names))
    if as_json:
        output.as_json([{"provider": one, "state": state, "until": moment(until)} for one, state, until in states])
    else:
        output.table(("PROVIDER", "STATE", "UNTIL"), [(one, state, moment(until) or "-") for one, state, until in states])


def _for_ms(text: str | None) -> int | None:
    if text is None:
        return None
    for_ms = parse_duration(text)
    if for_ms > FOR_MS_MAX:
        raise Malformed(f"a breaker is opened for 1ms to {format_duration(FOR_MS_MAX)}, not {text!r}")
    return for_ms


def _known(name: str, config: Path | None) -> str:
    file = gateway(config)
    if file is not None:
        known((name,), file.providers, "provider")
    return provider(name)


async def _states(server: Server, names: Iterable[str]) -> list[tuple[str, str, int]]:
    """Name, state, and until when it is open by Redis' clock, 0 when that has no end or is over."""
    seconds, micros = await server.execute("TIME")
    now_ms = int(seconds) * 1_000 + int(micros) // 1_000
    rows = []
    for name in names or await _noted(server):
        value = await read(server.execute, name)
        state = state_of(value, now_ms)
        _, open_ms, until_ms = value.split(b":") if state == OPEN else (b"", b"0", b"0")
        rows.append((name, _WORDS[state], int(until_ms) if int(open_ms) else 0))
    return rows


async def _noted(server: Server) -> list[str]:
    """The providers whose breakers are in Redis."""
    prefix = keyspace.breaker("")
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, names = await server.execute("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", 1_000)
        found.update(name.removeprefix(prefix).decode() for name in names)
        if not int(cursor):
            return sorted(found)
