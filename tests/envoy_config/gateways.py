"""Gateways of tests, built without a file."""

from collections.abc import Iterable

from demo.processes import free_port
from extauthz.gateway.model import FailureMode, Gateway, Listener, Plan, Provider, Route


def provider(name: str, port: int = 80, **fields: object) -> Provider:
    whole: dict[str, object] = {
        "host": "127.0.0.1",
        "tls": False,
        "base_path": "",
        "credential_header": "authorization",
        "credential_format": "Bearer {}",
        "ca_file": "",
        **fields,
    }
    return Provider(name=name, port=port, **whole)  # type: ignore[arg-type]


def internal(name: str, port: int = 80, **fields: object) -> Provider:
    return provider(name, port, credential_header="", credential_format="", **fields)


def route(name: str, path: str, *providers: str, **fields: object) -> Route:
    usual: dict[str, object] = {"hosts": ("*",), "methods": ("POST",), "scope": "s", "shape": "openai", "timeout_ms": 5_000}
    whole = {**usual, **fields}
    return Route(name=name, path=path, providers=providers, **whole)  # type: ignore[arg-type]


def gateway(providers: Iterable[Provider], *routes: Route, **listener: int) -> Gateway:
    where: dict[str, int] = {"body_bytes_max": 1 << 20, "check_timeout_ms": 1_000, "trusted_hops": 0, **listener}
    return Gateway(
        listener=Listener(address="127.0.0.1", port=free_port(), admin_port=free_port(), **where),
        providers={one.name: one for one in providers},
        scopes={},
        routes=routes,
        plans={"free": Plan("free", (), FailureMode())},
        default_plan="free",
        digest="0" * 64,
    )
