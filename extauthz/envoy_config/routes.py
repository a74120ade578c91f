"""Routes: nothing leads to a provider but a decision. Until one has named a chain, every path ends in a refusal.

ext_authz runs on the refusing route. Its answer clears the route cache, and with the chain's name among the headers, which no
client can send, the second look-up finds the gateway's route. An answer that names no chain, an empty one for example, finds the
refusal.
"""

import json
import re

from extauthz.envoy_config.yaml_text import Node, duration, typed
from extauthz.gateway import headers
from extauthz.gateway.model import Gateway, Route

_SEGMENT = re.compile(r"\{[^{}]*\}")
_NOT_FOUND = json.dumps(
    {"error": {"message": "No such path.", "type": "invalid_request_error", "param": None, "code": "not_found"}},
    separators=(",", ":"),
)


def route_configuration(gateway: Gateway) -> Node:
    """Every route under every host that it names, `envoy.config.route.v3.RouteConfiguration`."""
    hosts = dict.fromkeys((*(host for route in gateway.routes for host in route.hosts), "*"))
    return {
        "name": "gateway",
        "virtual_hosts": [_virtual_host(host, gateway) for host in hosts],
        # One of ours at the most general place: every route has it.
        "typed_per_filter_config": {
            "decision": typed(
                "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                check_settings={"context_extensions": {headers.CHAIN_EXTENSION: headers.CHAIN_EXTENSION_VALUE}},
            )
        },
    }


def _virtual_host(host: str, gateway: Gateway) -> Node:
    routes = [_route(route) for route in gateway.routes if host in route.hosts or "*" in route.hosts]
    return {
        "name": "any" if host == "*" else host,
        "domains": [host],
        "routes": [*routes, _refusal()],
    }


def _route(route: Route) -> Node:
    return {
        "name": route.name,
        "match": {
            **_path_match(route.path),
            "headers": [{"name": headers.CHAIN, "present_match": True}, _method_match(route.methods)],
        },
        "route": {
            "cluster_header": headers.CHAIN,
            "cluster_not_found_response_code": "SERVICE_UNAVAILABLE",
            "auto_host_rewrite": True,
            "timeout": duration(route.timeout_ms),
            # A model that thinks sends nothing for a while: only the route's own time ends it.
            "idle_timeout": duration(route.timeout_ms),
        },
    }


def _refusal() -> Node:
    return {
        "name": "refusal",
        "match": {"prefix": "/"},
        "direct_response": {
            "status": 404,
            "body_format": {"text_format_source": {"inline_string": _NOT_FOUND}, "content_type": "application/json"},
        },
    }


def _path_match(path: str) -> Node:
    if not _SEGMENT.search(path):
        return {"path": path}
    literals = [re.escape(part).replace("/", "/") for part in _SEGMENT.split(path)]
    return {"safe_regex": {"regex": "[^/]+".join(literals)}}


def _method_match(methods: tuple[str, ...]) -> Node:
    if len(methods) == 1:
        return {"name": ":method", "string_match": {"exact": methods[0]}}
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}
