"""`extauthz secret`: store the credentials of tenants, sealed. A value comes on standard input and is shown nowhere."""

import getpass
import sys
from typing import Annotated

import typer

from extauthz.cli import output
from extauthz.cli.record import ConfigOption, JsonOption, gateway, in_force, known, on_record, provider, tenant_id
from extauthz.credentials import keyring
from extauthz.credentials.header_value import VALUE_BYTES_MAX, typed_value
from extauthz.errors import Malformed
from extauthz.record.secrets import set_platform_secret, set_secret
from extauthz.record.server import Conflict
from extauthz.secret import Secret
from extauthz.settings import read_sealing

app = typer.Typer()


@app.callback()
def _secret() -> None:
    """Store the credentials of tenants, sealed."""


@app.command("set", context_settings={"allow_extra_args": True})
def set_(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="Whose credential it is.", show_default=False)] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="PROVIDER", help="Where it goes: a provider's name.", show_default=False)
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(
            "--platform",
            metavar="PROVIDER",
            help="Store a credential of the platform's own at this provider. No tenant's request is ever sent with it.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Store a credential; the value is read from standard input, one line end at its end is not part of it.

    It is in force for the tenant's next request on every sidecar when the command returns.
    """
    # What was given too much may be the credential itself: it is not repeated.
    to, owner = _whom(tenant, name, "" if context.args else platform)
    file = gateway(config)
    if file is not None:
        known((to,), {one.name: one for one in file.providers.values() if not one.is_internal}, "provider with a credential,")
    settings = read_sealing()
    keys = keyring.load([settings.master_key_file])
    value = _value(f"credential of {owner or 'the platform'} at {to}: ")
    if not owner:
        ref = on_record(settings.record, lambda server: set_platform_secret(server, keys, to, value))
        _show(f"the platform's credential at {to} stored: version {ref.version}", "", to, ref.version, as_json=as_json)
        return
    ref, published = on_record(settings.record, lambda server: set_secret(server, keys, owner, to, value))
    if (to, ref.name, ref.version) not in published.document.secrets:
        raise Conflict(
            f"version {ref.version} was stored, but a later one is in force: somebody else set it too, or a counter was lost"
        )
    text = in_force(published, f"credential {ref.version} of tenant {owner} at {to}", "stored")
    _show(text, owner, to, ref.version, as_json=as_json)


def _show(text: str, owner: str, to: str, version: int, *, as_json: bool) -> None:
    if as_json:
        output.as_json({"tenant": owner or None, "provider": to, "version": version})
    else:
        output.line(text)


def _whom(tenant: str | None, name: str | None, platform: str | None) -> tuple[str, str]:
    """Provider and tenant; the platform is the empty tenant."""
    if platform is not None and tenant is None and name is None:
        return provider(platform), ""
    if platform is None and tenant is not None and name is not None:
        return provider(name), tenant_id(tenant)
    raise Malformed("name a TENANT and a PROVIDER, or --platform PROVIDER; the value is read from standard input")


def _value(prompt: str) -> Secret:
    """From a terminal without echo, else from standard input, no more than one byte more than is allowed and its line end."""
    if sys.stdin is None:
        raise Malformed("there is no standard input to read the credential from")
    if sys.stdin.isatty():
        return typed_value(getpass.getpass(prompt).encode())
    return typed_value(sys.stdin.buffer.read(VALUE_BYTES_MAX + 3))
