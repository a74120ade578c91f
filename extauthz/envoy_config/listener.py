"""The listener: what a client's request goes through before and after the decision. The order of the filters is the safety here.

1. every header that is ours, and every `x-envoy-` one, is taken from the client. The route that was found before, even if a
   forged header found it, does not outlive the decision;
2. the body's `model` and the like become dynamic metadata, so that the sidecar needs no body;
3. ext_authz: the decision;
4. a chain's credentials and the path are copied into filter state, for the attempts (clusters.py);
5. the router, by the chain that the decision named.
"""

import json
from itertools import product

from extauthz.envoy_config.clusters import (
    CREDENTIAL_STATE_PREFIX,
    PATH_STATE,
    SIDECAR,
    header_mutation,
    remove_prefix,
    with_fallback,
)
from extauthz.envoy_config.routes import route_configuration
from extauthz.envoy_config.yaml_text import Node, duration, typed
from extauthz.gateway import headers
from extauthz.gateway.model import Gateway

REQUEST_HEADERS_KIB_MAX = 32

#: The sidecar reads no other header, so Envoy sends it no other.
_SENT_TO_THE_SIDECAR = (*headers.CLIENT_KEY, headers.CLIENT_TENANT, "x-request-id", "traceparent", "tracestate")

_HOST_STATE = "extauthz.host"
_ASKED_STATE = "extauthz.asked"

#: No header that can hold a credential, no query, and of dynamic metadata only what the decision wrote for the log.
_LOGGED = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    # As the client sent them: an attempt has the host and the path of its provider.
    "host": f"%FILTER_STATE({_HOST_STATE}:PLAIN)%",
    "path": f"%FILTER_STATE({_ASKED_STATE}:PLAIN)%",
    "route": "%ROUTE_NAME%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "chain": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "tenant": f"%DYNAMIC_METADATA({headers.EXT_AUTHZ_NAMESPACE}:tenant)%",
    "key_id": f"%DYNAMIC_METADATA({headers.EXT_AUTHZ_NAMESPACE}:key_id)%",
    "scope": f"%DYNAMIC_METADATA({headers.EXT_AUTHZ_NAMESPACE}:scope)%",
    "refused": f"%DYNAMIC_METADATA({headers.EXT_AUTHZ_NAMESPACE}:refused)%",
}


def listener(gateway: Gateway) -> Node:
    """The one listener, `envoy.config.listener.v3.Listener`."""
    return {
        "name": "gateway",
        "address": {"socket_address": {"address": gateway.listener.address, "port_value": gateway.listener.port}},
        # The largest body: json_to_metadata holds it until it has read the model, a second attempt needs it again, and more is 413.
        "per_connection_buffer_limit_bytes": gateway.listener.body_bytes_max,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _connection_manager(gateway)}]}],
    }


def _connection_manager(gateway: Gateway) -> Node:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        codec_type="AUTO",
        # One spelling of a path: the one that is decided on is the one that is sent.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        use_remote_address=True,
        xff_num_trusted_hops=gateway.listener.trusted_hops,
        # No address is internal, loopback neither, so no client can choose its request id or give Envoy orders by header. A list
        # that is empty would mean the private networks.
        internal_address_config={"unix_sockets": False, "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        generate_request_id=True,
        preserve_external_request_id=False,
        server_header_transformation="OVERWRITE",
        # Else a provider over TLS is told `http`, the client's, and some answer that with a redirect or an error.
        scheme_header_transformation={"match_upstream": True},
        max_request_headers_kb=REQUEST_HEADERS_KIB_MAX,
        common_http_protocol_options={
            "idle_timeout": "900s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        http_protocol_options={"accept_http_10": False, "allow_chunked_length": False},
        http2_protocol_options={
            "max_concurrent_streams": 256,
            # In HTTP/2 the window is what bounds a held body, as the buffer limit does in HTTP/1.
            "initial_stream_window_size": max(gateway.listener.body_bytes_max, 65_535),
            "initial_connection_window_size": max(gateway.listener.body_bytes_max, 1_048_576),
            "allow_connect": False,
        },
        request_headers_timeout="10s",
        request_timeout="120s",
        stream_idle_timeout="300s",
        upgrade_configs=[],
        http_filters=_filters(gateway),
        local_reply_config=_local_replies(),
        route_config=route_configuration(gateway),
        access_log=[
            {
                "name": "stdout",
                "typed_config": typed(
                    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": dict(_LOGGED)}
                ),
            }
        ],
    )


def _local_replies() -> Node:
    """Envoy's own answers are empty where the sidecar was away, and tell of the network where a provider was: clients get JSON.

    A denial of the sidecar's has the flag of a sidecar that is away (UAEX), and must keep its body: only the details differ.
    """
    no_decision = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": typed(
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                expression="response.code_details == 'ext_authz_error'",
            ),
        }
    }
    no_cluster = {"response_flag_filter": {"flags": ["NC"]}}
    retry = {"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "mappers": [
            {
                "filter": {"or_filter": {"filters": [no_decision, no_cluster]}},
                "headers_to_add": [retry],
                "body_format_override": _error("The service is temporarily unavailable.", "server_is_overloaded"),
            },
            {
                "filter": {"response_flag_filter": {"flags": ["UH", "UF", "UT", "UC", "UR", "URX", "LR", "UO"]}},
                "body_format_override": _error("The provider did not answer.", "no_answer"),
            },
        ]
    }


def _error(message: str, code: str) -> Node:
    error = {"message": message, "type": "service_unavailable_error", "param": None, "code": code}
    return {"text_format_source": {"inline_string": json.dumps({"error": error})}, "content_type": "application/json"}


def _filters(gateway: Gateway) -> list[Node]:
    credentials = {CREDENTIAL_STATE_PREFIX + p.name: f"%REQ({headers.CREDENTIAL_PREFIX}{p.name})%" for p in with_fallback(gateway)}
    stripped = [remove_prefix(headers.INTERNAL_PREFIX), remove_prefix("x-envoy-")]
    return [
        header_mutation("strip", stripped, [remove_prefix(headers.INTERNAL_PREFIX), {"remove": "set-cookie"}]),
        _keep("note", {_HOST_STATE: "%REQ(:AUTHORITY)%", _ASKED_STATE: "%PATH(NQ)%"}),
        {"name": "body", "typed_config": _json_to_metadata()},
        {"name": "decision", "typed_config": _ext_authz(gateway)},
        _keep("keep", {PATH_STATE: "%REQ(:PATH)%", **credentials}),
        {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)},
    ]


def _json_to_metadata() -> Node:
    """`model`, `stream` and `max_tokens` of a JSON body, and whether the model can be trusted to be the one that is meant.

    JSON parsers differ in which of two keys they take, and some ignore case: any other spelling of `model` is reported.
    """

    def put(key: str, **value: object) -> Node:
        return {"metadata_namespace": headers.LLM_NAMESPACE, "key": key, **value}

    def field(name: str) -> Node:
        return {"selectors": [{"key": name}], "on_present": put(name)}

    # `on_present` without a `value`: with one, Envoy takes an absent key for a present one. So what is put is whatever stood there,
    # and that something was put says that another spelling is there.
    model = {
        **field(headers.LLM_MODEL),
        "on_missing": put(headers.LLM_PROBLEM, value="missing"),
        "on_error": put(headers.LLM_PROBLEM, value="error"),
    }
    spellings = ("".join(letters) for letters in product(*((letter, letter.upper()) for letter in headers.LLM_MODEL)))
    others = [
        {"selectors": [{"key": spelling}], "on_present": put(headers.LLM_OTHER_SPELLING)}
        for spelling in spellings
        if spelling != headers.LLM_MODEL
    ]
    return typed(
        "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        request_rules={
            "rules": [model, field("stream"), field("max_tokens"), *others],
            "allow_content_types": ["application/json"],
            # No other charset: UTF-7, for one, can hide another model from a reader of UTF-8.
            "allow_content_types_regex": {"regex": r'(?i)application/json\s*(;\s*charset=("utf-8"|utf-8)\s*)?'},
            "allow_empty_content_type": False,
        },
    )


def _ext_authz(gateway: Gateway) -> Node:
    return typed(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            "envoy_grpc": {"cluster_name": SIDECAR},
            # A connection that could not be made has carried nothing, so another worker is asked. Anything else may have been
            # counted: never sent again. Envoy heeds this only here, not inside `envoy_grpc`.
            "retry_policy": {
                "retry_on": "connect-failure",
                "num_retries": 1,
                # Unset it is a second, which is all that the Check has. A single retry never comes to the longest one, but that is
                # also how long Envoy lets an attempt take: shorter than the Check's own time it would end every slow Check.
                "retry_back_off": {"base_interval": "0.005s", "max_interval": duration(gateway.listener.check_timeout_ms)},
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                    }
                ],
                # A worker that is gone has the fewest requests, so three of four picks are its own until one is not.
                "host_selection_retry_max_attempts": 100,
            },
            "timeout": duration(gateway.listener.check_timeout_ms),
        },
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        validate_mutations=True,
        clear_route_cache=True,
        metadata_context_namespaces=[headers.LLM_NAMESPACE],
        allowed_headers={"patterns": [{"exact": name} for name in _SENT_TO_THE_SIDECAR]},
        encode_raw_headers=False,
        include_peer_certificate=False,
    )


def _keep(name: str, values: Node) -> Node:
    """A filter that puts values into filter state: no client sees it, and what an attempt changes in the headers is not in it."""
    states = [
        {
            "object_key": key,
            "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": value}, "omit_empty_values": True},
            "skip_if_empty": True,
        }
        for key, value in values.items()
    ]
    return {
        "name": name,
        "typed_config": typed("envoy.extensions.filters.http.set_filter_state.v3.Config", on_request_headers=states),
    }
