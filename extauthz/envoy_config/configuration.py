"""What the rules ask of a configuration: its connection managers that use us, their filters, the routes, the clusters.

A connection manager *uses us* when an ext_authz filter with a `grpc_service` stands in its chain. Managers that do not are left
alone, with everything inside them; everything outside of any manager (clusters, routes delivered by RDS) is looked at. What another
server delivers (ECDS, RDS, CDS) is not in the file and is not seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml

from extauthz.envoy_config.document import Part

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
EXT_AUTHZ_PER_ROUTE = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
FILTER_CONFIG = "envoy.config.route.v3.FilterConfig"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class HttpFilter:
    """One filter of a chain. `part` is its entry in `http_filters`, `body` its typed configuration."""

    name: str
    type_name: str
    part: Part
    body: Part

    @property
    def is_ours(self) -> bool:
        """Whether it is an ext_authz filter that calls a gRPC service."""
        return self.type_name == EXT_AUTHZ and bool(self.body.get("grpc_service"))


def filters_of(chain: Part) -> tuple[HttpFilter, ...]:
    """The filters of an `http_filters` list whose configuration stands in the file."""
    return tuple(
        HttpFilter(part.get("name").text, typed.type_name, part, typed.body)
        for part in chain.items()
        if (typed := part.get("typed_config"))
    )


@dataclass(frozen=True, slots=True)
class Manager:
    """An HTTP connection manager that uses us."""

    part: Part
    filters: tuple[HttpFilter, ...]

    @property
    def ours(self) -> tuple[HttpFilter, ...]:
        """Its ext_authz filters; at least one."""
        return tuple(each for each in self.filters if each.is_ours)

    def before_ours(self) -> tuple[HttpFilter, ...]:
        """The filters that a request passes before we see it."""
        return self.filters[: self.filters.index(self.ours[0])]

    def after_ours(self) -> tuple[HttpFilter, ...]:
        """The filters that a request passes after our decision."""
        return self.filters[self.filters.index(self.ours[0]) + 1 :]


@dataclass(frozen=True, slots=True)
class Route:
    """A route: a mapping with `match` and what is done with the requests that match."""

    part: Part

    @property
    def action(self) -> Part:
        """Its `route`, where requests are forwarded; false for redirects and direct responses."""
        return self.part.get("route")

    @property
    def is_exact(self) -> bool:
        """Whether it matches one path and no other."""
        return bool(self.part.get("match", "path").text)


class Configuration:
    """A whole file.

    Args:
        document: its root.
    """

    def __init__(self, document: Part) -> None:
        self.document = document

    @cached_property
    def managers(self) -> tuple[Manager, ...]:
        """The connection managers that use us."""
        return tuple(_manager(part.body) for part in self.parts if part.type_name == MANAGER)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every part of the file but those inside connection managers that do not use us."""
        return tuple(self.document.walk(lambda part: part.type_name == MANAGER and not _manager(part.body).ours))

    @cached_property
    def route_tables(self) -> tuple[Part, ...]:
        """Route configurations: every mapping with `virtual_hosts`."""
        return tuple(part for part in self.parts if part.get("virtual_hosts"))

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """Every route of the route tables."""
        return tuple(Route(part) for table in self.route_tables for part in table.walk() if is_route(part))

    @cached_property
    def clusters(self) -> tuple[Part, ...]:
        """Every cluster in the file."""
        return tuple(part.body for part in self.parts if _is_cluster(part))

    @cached_property
    def agentgateway(self) -> tuple[Part, ...]:
        """The `extAuthz` policies of an agentgateway configuration, which speaks the same protocol."""
        found = (part.get("ext_authz") for part in self.parts)
        return tuple(part for part in found if any(part.get(name) for name in ("host", "service", "backend")))

    @property
    def uses_us(self) -> bool:
        """Whether there is anything to check."""
        return bool(self.managers or self.agentgateway)

    def sidecar_clusters(self) -> Iterator[Part]:
        """The clusters through which an ext_authz filter reaches its service."""
        names = {each.body.get("grpc_service", "envoy_grpc", "cluster_name").text for each in self.all_ours()}
        return (cluster for cluster in self.clusters if cluster.get("name").text in names)

    def all_ours(self) -> Iterator[HttpFilter]:
        """Every ext_authz filter that uses us."""
        return (each for manager in self.managers for each in manager.ours)

    def upstream_filters(self) -> Iterator[HttpFilter]:
        """The HTTP filters that run for each attempt: those of clusters and of routers."""
        for part in self.parts:
            if part.type_name == HTTP_OPTIONS:
                yield from filters_of(part.body.get("http_filters"))
            yield from filters_of(part.get("upstream_http_filters"))


def _manager(part: Part) -> Manager:
    return Manager(part, filters_of(part.get("http_filters")))


def is_route(part: Part) -> bool:
    """Whether this is a route: a match, and what is done with the requests that match."""
    return bool(part.get("match")) and any(
        part.get(name) for name in ("route", "redirect", "direct_response", "filter_action", "non_forwarding_action")
    )


def _is_cluster(part: Part) -> bool:
    return (
        isinstance(part.node, yaml.MappingNode)
        and bool(part.get("name"))
        and any(
            part.get(name) for name in ("load_assignment", "connect_timeout", "lb_policy", "cluster_type", "eds_cluster_config")
        )
    )
