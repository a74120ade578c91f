"""The values of the operator's file, checked and immutable. `load.py` makes them; nothing else does.

A gateway file names providers, scopes, routes and plans, and they refer to each other by name. A value of this module is whole:
every reference resolves, every pattern compiled once, every bound held.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: A route has at most this many providers: Envoy has a cluster for each ordered subset of them.
ROUTE_PROVIDERS_MAX = 4

Shape = Literal["openai", "anthropic", "gemini"]
Level = Literal["tenant", "key", "endpoint", "global"]
Algorithm = Literal["fixed", "sliding"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An upstream: an AI provider, or a service of the operator's own.

    Attributes:
        name: `[a-z0-9][a-z0-9-]{0,62}`.
        host: DNS name or address that Envoy connects to and sends as host.
        base_path: put before the request's path, `` or `/openai`; no trailing slash.
        credential_header: lower case; empty for an internal service (`credential: none`), which gets tenant, key id and scope in
            headers of ours instead.
        credential_format: holds `{}` once, such as `Bearer {}`.
        ca_file: trusted roots for TLS; empty: the system's.
    """

    name: str
    host: str
    port: int
    tls: bool
    base_path: str
    credential_header: str
    credential_format: str
    ca_file: str

    @property
    def is_internal(self) -> bool:
        """Whether it gets no credential but the caller's identity."""
        return not self.credential_header


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key with this scope may reach. No models: the scope does not restrict them."""

    name: str
    providers: frozenset[str]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Host, path and method to a scope and an ordered list of providers.

    Attributes:
        hosts: lower case, without port; `*` alone: any.
        path: exact, or with `{segment}` templates, `{model}` among them; case-sensitive, begins with `/`.
        methods: upper case.
        providers: in the order of preference, one to four; all internal or none.
        shape: whose error bodies the clients of this route parse.
    """

    name: str
    hosts: tuple[str, ...]
    path: str
    methods: tuple[str, ...]
    scope: str
    providers: tuple[str, ...]
    shape: Shape
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Limit:
    """A named limit of a plan.

    Attributes:
        per: what it is counted by; `("key", "endpoint")` counts each key at each route. `("global",)` and `("global", "endpoint")`
            are counted over all tenants; everything else within one tenant.
        count: requests per window, 1 to 2**31.
        window_ms: 1,000 (a second) to 366 days.
    """

    name: str
    per: tuple[Level, ...]
    count: int
    window_ms: int
    algorithm: Algorithm


@dataclass(frozen=True, slots=True)
class FailureMode:
    """What a tenant gets while Redis does not answer.

    Attributes:
        share: 0.0 refuses with 503 (the default). Above it, up to 1.0, each sidecar worker admits `floor(share x limit /
            sidecars)` per window on its own.
        sidecars: how many workers share a limit, all sidecars together.
    """

    share: float = 0.0
    sidecars: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Named limits, in the order of the file."""

    name: str
    limits: tuple[Limit, ...]
    failure_mode: FailureMode


@dataclass(frozen=True, slots=True)
class Listener:
    """Where Envoy listens, and what it takes."""

    address: str
    port: int
    admin_port: int
    body_bytes_max: int
    check_timeout_ms: int
    #: Proxies in front of Envoy whose x-forwarded-for is believed.
    trusted_hops: int


@dataclass(frozen=True, slots=True)
class Gateway:
    """The whole file. `digest` is the SHA-256 of its bytes, in hex: two sidecars with the same digest decide alike."""

    listener: Listener
    providers: Mapping[str, Provider]
    scopes: Mapping[str, Scope]
    routes: tuple[Route, ...]
    plans: Mapping[str, Plan]
    default_plan: str
    digest: str


def chain_cluster(providers: tuple[str, ...]) -> str:
    """The name of the Envoy cluster that tries these providers in this order, and no other."""
    return "chain:" + "+".join(providers)
