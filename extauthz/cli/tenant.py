"""`extauthz tenant`: create tenants, change them, suspend and resume them. A command returns once the change is in force."""

from typing import Annotated, Any

import msgspec
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
    tenant_id,
)
from extauthz.clock import SystemClock
from extauthz.errors import Malformed
from extauthz.gateway.names import LIMIT_NAME, NAME
from extauthz.gateway.units import format_limit, parse_limit
from extauthz.record.publish import Published
from extauthz.record.tenants import change_tenant, create_tenant, list_tenants, read_tenant
from extauthz.settings import read_record
from extauthz.tenants.documents import TENANT_ID, TenantDocument

app = typer.Typer()

Limits = dict[str, tuple[int, int]]
PlanOption = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="A plan of the gateway file; empty: its default_plan.", show_default=False),
]
SubdomainOption = Annotated[
    str | None, typer.Option("--subdomain", metavar="NAME", help="The tenant's own subdomain.", show_default=False)
]


@app.command()
def create(
    tenant: TenantArgument,
    plan: PlanOption = None,
    subdomain: SubdomainOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant. On an empty Redis this also makes it a record."""
    document = _edited(
        TenantDocument(tenant_id=tenant_id(tenant), version=1, is_active=True, created_at_ms=SystemClock().unix_ms()),
        _plan(plan, config),
        subdomain,
    )
    _show(on_record(read_record(), lambda server: create_tenant(server, document)), "created", as_json=as_json)


@app.command("set")
def set_(
    tenant: TenantArgument,
    plan: PlanOption = None,
    subdomain: SubdomainOption = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=N/WINDOW",
            help="A limit of the plan with another size, or one more of the tenant, such as requests=100/minute; "
            "NAME= takes it back. Repeatable.",
            show_default=False,
        ),
    ] = None,
    no_limit: Annotated[
        list[str] | None,
        typer.Option("--no-limit", metavar="NAME", help="Take a limit of the tenant back. Repeatable.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's plan, subdomain or limits; what is not named stays."""
    limits, removed = _limits(limit or [], no_limit or [])
    plan = _plan(plan, config)
    if plan is None and subdomain is None and not limits and not removed:
        raise Malformed("nothing to change: --plan, --subdomain, --limit or --no-limit")
    _change(tenant, lambda document: _edited(document, plan, subdomain, limits, removed), "changed", as_json=as_json)


@app.command()
def suspend(tenant: TenantArgument, *, as_json: JsonOption = False) -> None:
    """Refuse every request of the tenant, from the next one on."""
    _change(tenant, lambda document: msgspec.structs.replace(document, is_active=False), "suspended", as_json=as_json)


@app.command()
def resume(tenant: TenantArgument, *, as_json: JsonOption = False) -> None:
    """Take the tenant's requests again, from the next one on."""
    _change(tenant, lambda document: msgspec.structs.replace(document, is_active=True), "resumed", as_json=as_json)


@app.command()
def show(tenant: TenantArgument, *, as_json: JsonOption = False) -> None:
    """What is in force for a tenant."""
    document = on_record(read_record(), lambda server: read_tenant(server, tenant_id(tenant)))
    if as_json:
        output.as_json(_plain(document))
        return
    secrets = ", ".join(f"{one} (version {version})" for one, _, version in document.secrets)
    output.table(
        ("FIELD", "VALUE"),
        [
            ("id", document.tenant_id),
            ("status", _status(document)),
            ("plan", document.plan or "(default)"),
            ("subdomain", document.subdomain or "-"),
            ("limits", _limits_of(document) or "-"),
            ("secrets", secrets or "-"),
            ("created", moment(document.created_at_ms) or "-"),
            ("version", str(document.version)),
        ],
    )


@app.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """Every tenant."""
    documents = on_record(read_record(), list_tenants)
    if as_json:
        output.as_json([_plain(document) for document in documents])
        return
    rows = [(one.tenant_id, _status(one), one.plan or "(default)", _limits_of(one) or "-") for one in documents]
    output.table(("TENANT", "STATUS", "PLAN", "LIMITS"), rows)


def _change(tenant: str, edit: Any, done: str, *, as_json: bool) -> None:
    identity = tenant_id(tenant)
    _show(on_record(read_record(), lambda server: change_tenant(server, identity, edit)), done, as_json=as_json)


def _show(published: Published[TenantDocument], done: str, *, as_json: bool) -> None:
    if as_json:
        output.as_json(
            {**_plain(published.document), "replicas": published.replicas, "replicas_with_it": published.replicas_with_it}
        )
    else:
        output.line(in_force(published, f"tenant {published.document.tenant_id}", done))


def _plan(plan: str | None, config: Any) -> str | None:
    """The plan as it is, checked. An empty one is the gateway file's default."""
    file = gateway(config)
    if plan:
        checked(plan, NAME, "plan")
        if file is not None:
            known((plan,), file.plans, "plan")
    return plan


def _limits(given: list[str], removed: list[str]) -> tuple[Limits, set[str]]:
    """What `--limit` and `--no-limit` say. A limit named twice is a mistake, not a question of order."""
    limits: Limits = {}
    without: set[str] = set()
    for text in [*given, *(f"{name}=" for name in removed)]:
        name, sign, amount = text.partition("=")
        if not sign:
            raise Malformed(f"--limit {text} has no =, such as requests=100/minute")
        checked(name, LIMIT_NAME, "limit's name")
        if name in limits or name in without:
            raise Malformed(f"the limit {name} is named twice")
        if amount:
            limits[name] = parse_limit(amount)
        else:
            without.add(name)
    return limits, without


def _edited(
    document: TenantDocument, plan: str | None, subdomain: str | None, limits: Limits | None = None, removed: set[str] | None = None
) -> TenantDocument:
    in_place: Limits = {name: (count, window_ms) for name, count, window_ms in document.limits if name not in (removed or ())}
    in_place.update(limits or {})
    if subdomain:
        checked(subdomain, TENANT_ID, "subdomain")
    return msgspec.structs.replace(
        document,
        plan=document.plan if plan is None else plan,
        subdomain=document.subdomain if subdomain is None else subdomain,
        limits=tuple((name, *amount) for name, amount in in_place.items()),
    )


def _status(document: TenantDocument) -> str:
    return "active" if document.is_active else "suspended"


def _limits_of(document: TenantDocument) -> str:
    return ", ".join(f"{name}={format_limit(count, window_ms)}" for name, count, window_ms in document.limits)


def _plain(document: TenantDocument) -> dict[str, Any]:
    return {
        "id": document.tenant_id,
        "status": _status(document),
        "plan": document.plan or None,
        "subdomain": document.subdomain or None,
        "limits": {name: format_limit(count, window_ms) for name, count, window_ms in document.limits},
        "secrets": {one: {"name": name, "version": version} for one, name, version in document.secrets},
        "created_at": moment(document.created_at_ms),
        "version": document.version,
    }
