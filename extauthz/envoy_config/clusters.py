"""Clusters: the sidecar's workers, and one cluster for each chain of providers that a decision can name.

A chain is tried in its order, each provider once: a priority per provider, and a retry goes to a priority that was not tried. What
an attempt carries (credential, host, path) is decided per attempt by the cluster's upstream filters, because what they change in
the request stays changed in the next attempt.
"""

from collections.abc import Iterable, Sequence
from importlib import resources
from ipaddress import ip_address
from itertools import combinations
from typing import Any

from extauthz.envoy_config.yaml_text import Node, typed
from extauthz.gateway import headers
from extauthz.gateway.model import Gateway, Provider, chain_cluster
from extauthz.settings import Listen

SIDECAR = "extauthz"
AUTHORIZATION_SERVICE = "envoy.service.auth.v3.Authorization"
#: Where a chain's credentials and the client's path wait for the attempt that needs them.
CREDENTIAL_STATE_PREFIX = "extauthz.credential."
PATH_STATE = "extauthz.path"
#: Namespace of the endpoints' metadata: per credential header the filter state to take it from, and the base path.
ENDPOINT_NAMESPACE = "extauthz"
#: Between the header mutation and templates/path.lua, nowhere else.
_ASKED_PATH = headers.INTERNAL_PREFIX + "path"
_BASE_PATH = headers.INTERNAL_PREFIX + "base"
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
#: Enough that Envoy's own limits are never what refuses: limits are the sidecar's, and a provider's are its own.
CONCURRENT_MAX = 65_536

#: What says where the client is, or what Envoy thinks of it: none of it is the provider's business.
_ABOUT_THE_CLIENT = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
)


def chains(gateway: Gateway) -> tuple[tuple[Provider, ...], ...]:
    """Every ordered subset of every route's providers, each once, in the order of the file."""
    names: dict[tuple[str, ...], None] = {}
    for route in gateway.routes:
        for length in range(1, len(route.providers) + 1):
            names.update(dict.fromkeys(combinations(route.providers, length)))
    return tuple(tuple(gateway.providers[name] for name in chain) for chain in names)


def with_fallback(gateway: Gateway) -> tuple[Provider, ...]:
    """The providers whose credential may come as one of several, in the order of the file."""
    names = dict.fromkeys(name for route in gateway.routes if len(route.providers) > 1 for name in route.providers)
    return tuple(provider for name in names if not (provider := gateway.providers[name]).is_internal)


def credential_headers(gateway: Gateway) -> tuple[str, ...]:
    """Every header in which a credential can stand, a client's or a provider's."""
    of_providers = (provider.credential_header for provider in gateway.providers.values() if not provider.is_internal)
    return tuple(dict.fromkeys((*headers.CLIENT_CREDENTIALS, *of_providers)))


def clusters(gateway: Gateway, listens: Sequence[Listen]) -> list[Node]:
    """All clusters of the configuration, the sidecar's first."""
    all_credentials = credential_headers(gateway)
    return [_sidecar(listens), *(_chain(chain, all_credentials) for chain in chains(gateway))]


def _sidecar(listens: Sequence[Listen]) -> Node:
    return {
        "name": SIDECAR,
        **_discovery(listen.host for listen in listens if not listen.is_unix),
        "connect_timeout": "0.1s",
        "lb_policy": "LEAST_REQUEST",
        # Envoy holds changes of health back for a second after one, and would not yet use the worker that has come back.
        "common_lb_config": {"update_merge_window": "0s"},
        "circuit_breakers": _circuit_breakers(),
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                # Envoy's default is a minute: a sidecar that starts after Envoy would stay out of use that long.
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": AUTHORIZATION_SERVICE},
            }
        ],
        "typed_extension_protocol_options": _protocol({"explicit_http_config": {"http2_protocol_options": {}}}),
        "load_assignment": {
            "cluster_name": SIDECAR,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(listen)}} for listen in listens]}],
        },
    }


def _discovery(hosts: Iterable[str]) -> Node:
    if all(_is_address(host) for host in hosts):
        return {"type": "STATIC"}
    options = typed("envoy.extensions.clusters.dns.v3.DnsCluster", dns_refresh_rate="30s", dns_lookup_family="V4_PREFERRED")
    return {"cluster_type": {"name": "envoy.clusters.dns", "typed_config": options}}


def _address(listen: Listen) -> Node:
    if listen.is_unix:
        return {"pipe": {"path": listen.path}}
    return {"socket_address": {"address": listen.host, "port_value": listen.port}}


def _chain(chain: tuple[Provider, ...], all_credentials: Sequence[str]) -> Node:
    name = chain_cluster(tuple(provider.name for provider in chain))
    has_tls = any(provider.tls for provider in chain)
    node: Node = {
        "name": name,
        **_discovery(provider.host for provider in chain),
        "connect_timeout": "3s",
        "circuit_breakers": _circuit_breakers(),
        "typed_extension_protocol_options": _protocol(_upstream(chain, all_credentials)),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [_endpoint(priority, provider) for priority, provider in enumerate(chain)],
        },
    }
    is_all_tls = all(provider.tls for provider in chain)
    if is_all_tls:
        # With more than one provider every endpoint has its own below; this one says to Envoy that ALPN is at hand.
        node["transport_socket"] = _tls(chain[0], is_http2_offered=True)
    if has_tls and len(chain) > 1:
        node["transport_socket_matches"] = [
            {
                "name": provider.name,
                "match": {"provider": provider.name},
                "transport_socket": _tls(provider, is_http2_offered=is_all_tls) if provider.tls else _raw(),
            }
            for provider in chain
        ]
    return node


def _upstream(chain: tuple[Provider, ...], all_credentials: Sequence[str]) -> Node:
    """Protocol, upstream filters and retries of a chain, `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`."""
    filters = [_attempt_headers(chain, all_credentials)]
    if any(provider.base_path for provider in chain):
        script = resources.files(__package__).joinpath("templates/path.lua").read_text()
        filters.append(
            {
                "name": "path",
                "typed_config": typed("envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": script}),
            }
        )
    filters.append({"name": "codec", "typed_config": typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec")})
    options: Node = {"common_http_protocol_options": {"idle_timeout": "60s"}, "http_filters": filters}
    if all(provider.tls for provider in chain):
        options["auto_config"] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    else:
        options["explicit_http_config"] = {"http_protocol_options": {}}
    if len(chain) > 1:
        options["retry_policy"] = {
            "retry_on": "5xx,reset,connect-failure,refused-stream",
            "num_retries": len(chain) - 1,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "retry_priority": {
                "name": "envoy.retry_priorities.previous_priorities",
                "typed_config": typed(
                    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
                ),
            },
        }
    return options


def _attempt_headers(chain: tuple[Provider, ...], all_credentials: Sequence[str]) -> Node:
    """The headers of one attempt: everything that is no business of the provider goes, then its own credential comes.

    A chain of one gets its credential from the decision, under its own name. In a longer one each endpoint's metadata names the
    filter state that holds its credential; a header for which it names none turns out empty, and Envoy adds nothing that is empty.
    """
    own = {provider.credential_header for provider in chain if not provider.is_internal}
    kept = own if len(chain) == 1 else set()
    mutations: list[Node] = [{"remove": name} for name in all_credentials if name not in kept]
    mutations += [{"remove": name} for name in (headers.CLIENT_TENANT, *_ABOUT_THE_CLIENT)]
    if chain[0].is_internal:
        mutations += [{"remove": name} for name in (headers.CHAIN, _ASKED_PATH, _BASE_PATH)]
        mutations.append(remove_prefix(headers.CREDENTIAL_PREFIX))
    else:
        mutations.append(remove_prefix(headers.INTERNAL_PREFIX))
    if len(chain) > 1:
        mutations += [
            append(name, f"%CEL(filter_state[xds.upstream_host_metadata.filter_metadata['{ENDPOINT_NAMESPACE}']['{name}']])%")
            for name in sorted(own)
        ]
    if any(provider.base_path for provider in chain):
        mutations.append(append(_ASKED_PATH, f"%FILTER_STATE({PATH_STATE}:PLAIN)%"))
        mutations.append(append(_BASE_PATH, f"%UPSTREAM_METADATA({ENDPOINT_NAMESPACE}:base)%"))
    return header_mutation("attempt", mutations)


def remove_prefix(prefix: str) -> Node:
    """A mutation that removes every header whose name begins so."""
    return {"remove_on_match": {"key_matcher": {"prefix": prefix}}}


def append(name: str, value: str) -> Node:
    """A mutation that sets a header, unless the value turns out empty."""
    return {"append": {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def header_mutation(name: str, request: list[Node], response: Sequence[Node] = ()) -> Node:
    """The filter that changes headers."""
    mutations: Node = {"request_mutations": request}
    if response:
        mutations["response_mutations"] = list(response)
    return {
        "name": name,
        "typed_config": typed("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", mutations=mutations),
    }


def _endpoint(priority: int, provider: Provider) -> Node:
    about: Node = {"base": provider.base_path}
    if not provider.is_internal:
        about[provider.credential_header] = CREDENTIAL_STATE_PREFIX + provider.name
    is_default_port = provider.port == (443 if provider.tls else 80)
    host = f"[{provider.host}]" if ":" in provider.host else provider.host
    return {
        "priority": priority,
        "lb_endpoints": [
            {
                "endpoint": {
                    "hostname": host if is_default_port else f"{host}:{provider.port}",
                    "address": {"socket_address": {"address": provider.host, "port_value": provider.port}},
                },
                "metadata": {
                    "filter_metadata": {ENDPOINT_NAMESPACE: about, "envoy.transport_socket_match": {"provider": provider.name}}
                },
            }
        ],
    }


def _tls(provider: Provider, *, is_http2_offered: bool) -> Node:
    is_address = _is_address(provider.host)
    context: Node = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "validation_context": {
            "trusted_ca": {"filename": provider.ca_file or SYSTEM_ROOTS},
            "match_typed_subject_alt_names": [
                {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": provider.host}},
            ],
        },
    }
    if not is_http2_offered:
        context["alpn_protocols"] = ["http/1.1"]
    fields: dict[str, Any] = {} if is_address else {"sni": provider.host}
    return {
        "name": "tls",
        "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", **fields, common_tls_context=context),
    }


def _raw() -> Node:
    return {"name": "raw", "typed_config": typed("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")}


def _circuit_breakers() -> Node:
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [{"priority": "DEFAULT", **dict.fromkeys(names, CONCURRENT_MAX)}]}


def _protocol(options: Node) -> Node:
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", **options
        )
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
