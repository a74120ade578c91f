"""What the commands on the record share: opening it, and saying what is in force. Not a command itself."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from extauthz.errors import Malformed
from extauthz.gateway.load import load
from extauthz.gateway.model import Gateway
from extauthz.gateway.names import NAME, Alphabet
from extauthz.record.publish import Published
from extauthz.record.server import Server
from extauthz.settings import RecordSettings
from extauthz.tenants.documents import TENANT_ID

Result = TypeVar("Result")

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help=f"The tenant's id: {TENANT_ID.allowed}.", show_default=False)]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A gateway file: refuse names that it does not know.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]


def on_record(settings: RecordSettings, action: Callable[[Server], Awaitable[Result]]) -> Result:
    """Run this with a connection to the record, and give back what it gave."""

    async def connected() -> Result:
        async with Server(settings.redis_url) as server:
            return await action(server)

    return asyncio.run(connected())


def in_force(published: Published[Any], what: str, done: str) -> str:
    """One line on a change: `tenant acme suspended: version 3 is in force`."""
    if not published.is_changed:
        done = "unchanged" if done == "changed" else f"{done} already"
    replicas = f", on {published.replicas_with_it} of {published.replicas} replicas" if published.replicas else ""
    return f"{what} {done}: version {published.document.version} is in force{replicas}"


def checked(text: str, alphabet: Alphabet, what: str) -> str:
    """The name as it is. Raises Malformed, which says what is allowed."""
    if not alphabet.has(text):
        raise Malformed(f"{text!r} is no {what}: {alphabet.allowed}")
    return text


def tenant_id(text: str) -> str:
    """A tenant's id as it is. Raises Malformed."""
    return checked(text, TENANT_ID, "tenant id")


def provider(text: str) -> str:
    """A provider's name as it is. Raises Malformed."""
    return checked(text, NAME, "provider")


def gateway(config: Path | None) -> Gateway | None:
    """The gateway file to check names against, where one was named. Raises BadConfig."""
    return None if config is None else load(config)


def known(names: tuple[str, ...], known_names: Any, what: str) -> None:
    """Raises Malformed for the names that the gateway file does not have, all at once."""
    unknown = [name for name in names if name not in known_names]
    if unknown:
        raise Malformed(f"the gateway file has no {what} {', '.join(unknown)} (allowed: {', '.join(sorted(known_names))})")


def moment(unix_ms: int) -> str | None:
    """RFC 3339 in UTC, whole seconds; None for 0, which is never."""
    if unix_ms == 0:
        return None
    return datetime.fromtimestamp(unix_ms // 1_000, UTC).isoformat().replace("+00:00", "Z")
