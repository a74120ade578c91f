"""`extauthz key`: create, list and revoke API keys. The key itself is shown once, when it is created, and stored nowhere."""

import ipaddress
from typing import Annotated, Any

import typer

from extauthz.cli import output
from extauthz.cli.record import (
    ConfigOption,
    JsonOption,
    TenantArgument,
    checked,
    gateway,
    in_force,
    known,
    moment,
    on_record,
    provider,
    tenant_id,
)
from extauthz.clock import SystemClock
from extauthz.errors import Malformed, Unavailable
from extauthz.gateway.names import MODEL_PATTERN, SCOPE_NAME
from extauthz.gateway.units import parse_duration
from extauthz.record.keys import create_key, list_keys, revoke_key
from extauthz.secret import Secret
from extauthz.settings import read_record
from extauthz.tenants.api_key import key_id_of, mint
from extauthz.tenants.documents import KeyDocument

app = typer.Typer()


@app.command()
def create(
    tenant: TenantArgument,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="SCOPE", help="What it may do, such as agents:orchestration. Repeatable.", show_default=False
        ),
    ],
    only_provider: Annotated[
        list[str] | None,
        typer.Option("--provider", metavar="PROVIDER", help="Only this provider of its scopes. Repeatable.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="MODEL", help="Only this model of its scopes; * for any characters. Repeatable.", show_default=False
        ),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="CIDR", help="Only from this network. Repeatable.", show_default=False)
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help="How long it lasts, such as 90d.", show_default="for ever")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="For people.", show_default=False)] = "",
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create an API key. It is shown this once: keep it."""
    settings = read_record()
    scopes, providers = _names(scope, only_provider or [])
    file = gateway(config)
    if file is not None:
        known(scopes, file.scopes, "scope")
        known(providers, file.providers, "provider")
    key, key_id, digest = mint(settings.env)
    now_ms = SystemClock().unix_ms()
    document = KeyDocument(
        key_id=key_id,
        tenant_id=tenant_id(tenant),
        version=1,
        is_active=True,
        digest=digest,
        scopes=scopes,
        providers=providers,
        models=_once(checked(one, MODEL_PATTERN, "model") for one in model or []),
        networks=_once(_network(one) for one in network or []),
        expires_at_ms=now_ms + parse_duration(expires) if expires else 0,
        created_at_ms=now_ms,
        name=name,
    )
    on_record(settings, lambda server: create_key(server, document))
    try:
        _show_once(document, key, as_json=as_json)
    except OSError as error:
        output.drop()
        on_record(settings, lambda server: revoke_key(server, key_id))
        raise Unavailable(f"the key could not be written to standard output ({error.strerror}), so it is revoked") from error


@app.command("list")
def list_(tenant: TenantArgument, *, as_json: JsonOption = False) -> None:
    """A tenant's keys, the oldest first; revoked ones stay."""
    identity = tenant_id(tenant)
    documents = on_record(read_record(), lambda server: list_keys(server, identity))
    if as_json:
        output.as_json([_plain(document) for document in documents])
        return
    rows = [
        (
            one.key_id,
            _status(one),
            ",".join(one.scopes),
            moment(one.created_at_ms) or "-",
            moment(one.expires_at_ms) or "never",
            one.name,
        )
        for one in documents
    ]
    output.table(("KEY", "STATUS", "SCOPES", "CREATED", "EXPIRES", "NAME"), rows)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, or the whole key.", show_default=False)],
    *,
    as_json: JsonOption = False,
) -> None:
    """Refuse a key for ever, on every sidecar from the next request on."""
    key_id = key_id_of(key) if key.startswith("xa_") else key
    published = on_record(read_record(), lambda server: revoke_key(server, key_id))
    document = published.document
    if as_json:
        output.as_json({**_plain(document), "replicas": published.replicas, "replicas_with_it": published.replicas_with_it})
    else:
        output.line(in_force(published, f"key {document.key_id} of tenant {document.tenant_id}", "revoked"))


def _show_once(document: KeyDocument, key: Secret, *, as_json: bool) -> None:
    """Raises OSError when standard output does not take it."""
    if as_json:
        output.as_json({**_plain(document), "key": key.reveal().decode()})
    else:
        output.note(f"key {document.key_id} of tenant {document.tenant_id} created; it is shown only this once:")
        output.line(key.reveal().decode())
    output.flush()


def _names(scopes: list[str], providers: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _once(checked(one, SCOPE_NAME, "scope") for one in scopes), _once(provider(one) for one in providers)


def _once(names: Any) -> tuple[str, ...]:
    """In the order given, none twice."""
    return tuple(dict.fromkeys(names))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Malformed(f"{text!r} is no network: an address, or a CIDR block without host bits, such as 10.0.0.0/8") from error


def _status(document: KeyDocument) -> str:
    if not document.is_active:
        return "revoked"
    return "expired" if 0 < document.expires_at_ms <= SystemClock().unix_ms() else "active"


def _plain(document: KeyDocument) -> dict[str, Any]:
    return {
        "id": document.key_id,
        "tenant": document.tenant_id,
        "status": _status(document),
        "scopes": list(document.scopes),
        "providers": list(document.providers),
        "models": list(document.models),
        "networks": list(document.networks),
        "created_at": moment(document.created_at_ms),
        "expires_at": moment(document.expires_at_ms),
        "name": document.name,
        "version": document.version,
    }
