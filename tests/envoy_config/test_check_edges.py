"""Where a rule begins and ends: one change to a safe configuration a row, and what is found then."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from extauthz.envoy_config.check import check_text
from extauthz.envoy_config.rules.rule import Options
from extauthz.errors import BadConfig

SAFE = (Path(__file__).parents[1] / "configs" / "envoy" / "good" / "01-failure-mode-allow.yaml").read_text()
_TYPES = "type.googleapis.com/envoy."
HTTP = f"{_TYPES}extensions.filters.http."
OFF = {"@type": f"{_TYPES}config.route.v3.FilterConfig", "disabled": True}
OFF_FOR_US = {"@type": f"{HTTP}ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
MUTATION = f"{HTTP}header_mutation.v3.HeaderMutation"

NAMED = {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "extauthz.example"}}]}

Parts = Any
Change = Callable[[Parts], object]


def parts_of(document: dict[str, Any]) -> Parts:
    """The places that rows change, by name."""
    (listener,) = document["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    sidecar, provider = document["static_resources"]["clusters"]
    filters = {each["name"].rpartition(".")[2]: each for each in manager["http_filters"]}
    host = manager["route_config"]["virtual_hosts"][0]
    return SimpleNamespace(
        document=document,
        listener=listener,
        manager=manager,
        filters=manager["http_filters"],
        strip=filters["strip-internal-headers"],
        body=filters["json_to_metadata"],
        ours=filters["ext_authz"],
        authz=filters["ext_authz"]["typed_config"],
        table=manager["route_config"],
        host=host,
        route=host["routes"][0],
        log=manager["access_log"][0]["typed_config"],
        sidecar=sidecar,
        provider=provider,
    )


def found(change: Change) -> list[str]:
    document = yaml.safe_load(SAFE)
    change(parts_of(document))
    return [each.rule[:2] for each in check_text(yaml.safe_dump(document), "envoy.yaml", Options(body_bytes_max=8_388_608))]


def put(place: str, **fields: object) -> Change:
    """Set fields of one of the places."""
    return lambda parts: getattr(parts, place).update(fields)


def after_ours(kind: str, **fields: object) -> Change:
    """A filter between ours and the router."""
    return lambda parts: parts.filters.insert(-1, {"name": "extra", "typed_config": {"@type": HTTP + kind, **fields}})


def logged(text: str) -> Change:
    return put("log", log_format={"json_format": {"x": text}})


def first_filter(**mutation: object) -> Change:
    return lambda parts: parts.strip["typed_config"].update(mutations={"request_mutations": [mutation]})


def attempt(*mutations: dict[str, Any]) -> Change:
    """What the provider's cluster does to the headers of each attempt."""
    options = {
        "@type": f"{_TYPES}extensions.upstreams.http.v3.HttpProtocolOptions",
        "http_filters": [{"name": "a", "typed_config": {"@type": MUTATION, "mutations": {"request_mutations": list(mutations)}}}],
    }
    return put("provider", typed_extension_protocol_options={"x": options})


def append(name: str, value: str) -> dict[str, Any]:
    return {"append": {"header": {"key": name, "value": value}}}


def sidecar_tls(**context: object) -> Change:
    kind = f"{_TYPES}extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return put("sidecar", transport_socket={"name": "tls", "typed_config": {"@type": kind, "common_tls_context": context}})


def named_by_sni(parts: Parts) -> None:
    sidecar_tls(validation_context={"trusted_ca": {"filename": "a"}})(parts)
    parts.sidecar["transport_socket"]["typed_config"].update(sni="extauthz.example", auto_sni_san_validation=True)


def google(uri: str, **fields: object) -> Change:
    return lambda parts: parts.authz.update(grpc_service={"google_grpc": {"target_uri": uri, **fields}, "timeout": "0.5s"})


def forwarded(**action: object) -> Change:
    return lambda parts: parts.route["route"].update(action)


def copied(header: str, when: str) -> Change:
    """A header goes into metadata, and that into the log."""

    def change(parts: Parts) -> None:
        rule = {"header": header, when: {"metadata_namespace": "caller", "key": "x"}}
        kind = f"{HTTP}header_to_metadata.v3.Config"
        parts.filters.insert(1, {"name": "copy", "typed_config": {"@type": kind, "request_rules": [rule]}})
        parts.log["log_format"] = {
            "json_format": {"a": "%DYNAMIC_METADATA(caller:x)%", "b": "%CEL(metadata.filter_metadata['caller'])%"}
        }

    return change


def kept(shown: str) -> Change:
    """A chain's credential goes into filter state, and something of it into the log."""

    def change(parts: Parts) -> None:
        value = {"object_key": "kept", "format_string": {"text_format_source": {"inline_string": "%REQ(x-extauthz-credential-a)%"}}}
        kind = f"{HTTP}set_filter_state.v3.Config"
        parts.filters.insert(-1, {"name": "keep", "typed_config": {"@type": kind, "on_request_headers": [value]}})
        parts.log["common_config"] = {"filter_state_objects_to_log": [shown]}
        parts.log["log_format"] = {"json_format": {"x": f"%CEL(filter_state['{shown}'])%"}}

    return change


def mirrored_where_we_are_off(parts: Parts) -> None:
    parts.route.update(typed_per_filter_config={"envoy.filters.http.ext_authz": dict(OFF_FOR_US)})
    parts.route["route"]["request_mirror_policies"] = [{"cluster": "openai"}]


def other_chain(parts: Parts) -> None:
    (chain,) = parts.listener.pop("filter_chains")
    parts.listener.update(default_filter_chain=chain)
    parts.listener.pop("per_connection_buffer_limit_bytes")


def buffered(parts: Parts) -> None:
    parts.body.update(name="buffer", typed_config={"@type": f"{HTTP}buffer.v3.Buffer", "max_request_bytes": 1})
    parts.listener.pop("per_connection_buffer_limit_bytes")


def renamed(parts: Parts) -> None:
    """The per-route configuration may stand under any name of the filter."""
    parts.host.update(typed_per_filter_config={"decision": OFF_FOR_US})


def body_rule(**fields: object) -> Change:
    def change(parts: Parts) -> None:
        (rule,) = parts.body["typed_config"]["request_rules"]["rules"]
        rule.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del rule[name]

    return change


RESPONSE = [append("x-debug", "%REQ(AUTHORIZATION)%")["append"]]
ROWS: tuple[tuple[str, Change, list[str]], ...] = (
    ("status 500", put("authz", status_on_error={"code": 500}), []),
    ("status 599", put("authz", status_on_error={"code": 599}), []),
    ("status 499", put("authz", status_on_error={"code": 499}), ["02"]),
    ("status 600", put("authz", status_on_error={"code": 600}), ["02"]),
    ("status 504", put("authz", status_on_error={"code": "GatewayTimeout"}), []),
    ("status 502", put("authz", status_on_error={"code": "BadGateway"}), []),
    ("status by name", put("authz", status_on_error={"code": "InternalServerError"}), []),
    ("as long as the route", forwarded(timeout="0.5s"), []),
    ("longer than the route", forwarded(timeout="0.4s"), ["03"]),
    ("a route without a limit", lambda p: (forwarded(timeout="0s")(p), p.authz["grpc_service"].update(timeout="16s")), []),
    ("the route's default", lambda p: (p.route["route"].pop("timeout"), p.authz["grpc_service"].update(timeout="16s")), ["03"]),
    ("half on", put("authz", filter_enabled={"default_value": {"numerator": 50, "denominator": "HUNDRED"}}), ["05"]),
    ("all of a million", put("authz", filter_enabled={"default_value": {"numerator": 1_000_000, "denominator": "MILLION"}}), []),
    ("100 of a million", put("authz", filter_enabled={"default_value": {"numerator": 100, "denominator": "MILLION"}}), ["05"]),
    ("not disabled", put("host", typed_per_filter_config={"x": {**OFF_FOR_US, "disabled": False}}), []),
    ("another filter disabled", put("host", typed_per_filter_config={"envoy.filters.http.json_to_metadata": OFF}), []),
    ("disabled under another name", renamed, ["06"]),
    ("disabled in the table", put("table", typed_per_filter_config={"envoy.filters.http.ext_authz": OFF}), ["06"]),
    (
        "disabled in a weighted cluster",
        forwarded(weighted_clusters={"clusters": [{"typed_per_filter_config": {"x": OFF_FOR_US}}]}),
        [],
    ),
    (
        "disabled in a weighted cluster of a prefix",
        lambda p: (
            p.route.update(match={"prefix": "/"}),
            forwarded(weighted_clusters={"clusters": [{"typed_per_filter_config": {"x": OFF_FOR_US}}]})(p),
        ),
        ["06"],
    ),
    ("disabled, exact, redirected", lambda p: p.host.update(routes=[*p.host["routes"], _aside("redirect")]), []),
    ("disabled, exact, to a filter", lambda p: p.host.update(routes=[*p.host["routes"], _aside("filter_action")]), []),
    ("disabled, exact, not forwarded", lambda p: p.host.update(routes=[*p.host["routes"], _aside("non_forwarding_action")]), []),
    ("slashes redirected", put("manager", path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT"), []),
    ("slashes unescaped", put("manager", path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD"), []),
    ("slashes by number", put("manager", path_with_escaped_slashes_action=2), []),
    ("slashes kept", put("manager", path_with_escaped_slashes_action="KEEP_UNCHANGED"), ["07"]),
    ("slashes kept by number", put("manager", path_with_escaped_slashes_action=1), ["07"]),
    ("underscores dropped", put("manager", common_http_protocol_options={"headers_with_underscores_action": "DROP_HEADER"}), []),
    ("underscores by number", put("manager", common_http_protocol_options={"headers_with_underscores_action": 2}), []),
    ("underscores allowed by number", put("manager", common_http_protocol_options={"headers_with_underscores_action": 0}), ["08"]),
    ("address by extension", put("manager", use_remote_address=False, original_ip_detection_extensions=[{"name": "xff"}]), []),
    ("another prefix", first_filter(remove_on_match={"key_matcher": {"prefix": "x-envoy-"}}), ["10"]),
    ("a longer prefix", first_filter(remove_on_match={"key_matcher": {"prefix": "x-extauthz-credential-"}}), ["10"]),
    ("a shorter prefix", first_filter(remove_on_match={"key_matcher": {"prefix": "x-"}}), []),
    ("contained", first_filter(remove_on_match={"key_matcher": {"contains": "extauthz"}}), []),
    ("another contained", first_filter(remove_on_match={"key_matcher": {"contains": "envoy"}}), ["10"]),
    ("an expression", first_filter(remove_on_match={"key_matcher": {"safe_regex": {"regex": "x-extauthz-.*"}}}), ["10"]),
    ("set instead of removed", first_filter(**append("x-extauthz-chain", "")), ["10"]),
    (
        "early, of another kind",
        put("manager", early_header_mutation_extensions=[{"name": "x", "typed_config": {"@type": "x"}}]),
        [],
    ),
    ("strip not disabled", put("host", typed_per_filter_config={"strip-internal-headers": {**OFF, "disabled": False}}), []),
    ("ext_proc told not to", after_ours("ext_proc.v3.ExternalProcessor", disable_clear_route_cache=True), []),
    ("ext_proc by number", after_ours("ext_proc.v3.ExternalProcessor", route_cache_action=2), []),
    ("ext_proc", after_ours("ext_proc.v3.ExternalProcessor"), ["11"]),
    ("transcoder", after_ours("grpc_json_transcoder.v3.GrpcJsonTranscoder"), ["11"]),
    (
        "transcoder on the route it came by",
        after_ours("grpc_json_transcoder.v3.GrpcJsonTranscoder", match_incoming_request_route=True),
        [],
    ),
    ("jwt clears", after_ours("jwt_authn.v3.JwtAuthentication", providers={"a": {"clear_route_cache": True}}), ["11"]),
    ("a mirror for all", put("table", request_mirror_policies=[{"cluster": "openai"}]), ["12"]),
    ("no mirrors", put("table", request_mirror_policies=[]), []),
    ("a mirror where we are off", mirrored_where_we_are_off, []),
    ("elevenlabs' header", logged("%REQ(XI-API-KEY)%"), ["14"]),
    ("azure's header", logged("%REQUEST_HEADER(ocp-apim-subscription-key)%"), ["14"]),
    ("amazon's header", logged("%REQ(X-AMZ-SECURITY-TOKEN)%"), ["14"]),
    ("a chain's header", logged("%REQ(x-extauthz-credential-openai)%"), ["14"]),
    ("a harmless header", logged("%REQ(x-request-id?:path):12% %RESP(authorization)%"), []),
    ("all headers", logged("%CEL(request.headers)%"), ["14"]),
    ("a header by expression", logged("%CEL(request.headers['user-agent'])% %CEL(response.headers['x-api-key'])%"), []),
    (
        "told to the client by a filter",
        after_ours("header_mutation.v3.HeaderMutation", mutations={"response_mutations": RESPONSE}),
        ["14"],
    ),
    (
        "told to the client in an error",
        put("manager", local_reply_config={"body_format": {"json_format": {"k": "%REQ(cookie)%"}}}),
        ["14"],
    ),
    ("told to the client for good", put("host", response_headers_to_add=RESPONSE), ["14"]),
    ("delivered in metadata", logged("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-aigw-api-key)%"), ["15"]),
    ("a field of ours", logged("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:tenant)%"), []),
    ("another namespace", logged("%DYNAMIC_METADATA(llm)%"), []),
    ("a key into metadata", copied("x-api-key", "on_header_present"), ["15", "15"]),
    ("a key into metadata, otherwise", copied("x-api-key", "on_header_missing"), ["15", "15"]),
    ("an agent into metadata", copied("user-agent", "on_header_present"), []),
    ("filter state with a credential", kept("kept"), ["15", "15"]),
    ("other filter state", kept("other"), []),
    ("admin on ::1", lambda p: p.document["admin"]["address"]["socket_address"].update(address="::1"), []),
    ("admin on a pipe", lambda p: p.document["admin"].update(address={"pipe": {"path": "/run/admin.sock"}}), []),
    ("no admin", lambda p: p.document.pop("admin"), []),
    ("admin on a name", lambda p: p.document["admin"]["address"]["socket_address"].update(address="envoy.local"), ["16"]),
    ("a header of no tenant", attempt(append("x-debug", "on")), []),
    ("a fixed credential", attempt(append("authorization", "Bearer x")), ["19"]),
    ("a credential under another name", attempt(append("x-key", "%FILTER_STATE(a:PLAIN)%")), ["19"]),
    ("removed before", attempt({"remove": "x-key"}, append("x-key", "%FILTER_STATE(a:PLAIN)%")), []),
    (
        "removed by prefix",
        attempt({"remove_on_match": {"key_matcher": {"prefix": "x-"}}}, append("x-key", "%CEL(filter_state['a'])%")),
        [],
    ),
    ("removed after", attempt(append("x-key", "%FILTER_STATE(a:PLAIN)%"), {"remove": "x-key"}), ["19"]),
    ("another removed", attempt({"remove": "x-other"}, append("x-key", "%FILTER_STATE(a:PLAIN)%")), ["19"]),
    ("no on_missing", body_rule(on_missing=None), ["20"]),
    ("a field that is not the model", body_rule(on_present={"metadata_namespace": "llm", "key": "stream"}, on_error=None), []),
    ("a namespace that we do not get", body_rule(on_present={"metadata_namespace": "other", "key": "model"}, on_error=None), []),
    ("buffer without a limit", buffered, ["21"]),
    ("the default chain without a limit", other_chain, ["21"]),
    ("as large as the largest", put("listener", per_connection_buffer_limit_bytes=8_388_608), []),
    ("a byte less", put("listener", per_connection_buffer_limit_bytes=8_388_607), ["21"]),
    ("96 KiB of headers", put("manager", max_request_headers_kb=96), []),
    ("the default of headers", lambda p: p.manager.pop("max_request_headers_kb"), []),
    ("upgrade switched off", put("manager", upgrade_configs=[{"upgrade_type": "websocket", "enabled": False}]), []),
    ("connect over HTTP/3", put("manager", http3_protocol_options={"allow_extended_connect": True}), ["23"]),
    ("group may write", put("listener", address={"pipe": {"path": "/x", "mode": 0o660}}), []),
    ("everybody may write, in decimal", put("listener", address={"pipe": {"path": "/x", "mode": 438}}), ["26"]),
    ("system's roots", sidecar_tls(validation_context={"system_root_certs": {}, **NAMED}), []),
    ("system's roots, any name", sidecar_tls(validation_context={"system_root_certs": {}}), ["27"]),
    ("own roots, any name", sidecar_tls(validation_context={"trusted_ca": {"filename": "a"}}), ["27"]),
    (
        "own roots, the older names",
        sidecar_tls(validation_context={"trusted_ca": {}, "match_subject_alt_names": [{"exact": "a"}]}),
        [],
    ),
    (
        "a provider of roots",
        sidecar_tls(validation_context={"ca_certificate_provider_instance": {"instance_name": "a"}, **NAMED}),
        [],
    ),
    ("roots delivered", sidecar_tls(validation_context_sds_secret_config={"name": "a"}), []),
    (
        "roots combined",
        sidecar_tls(combined_validation_context={"default_validation_context": {"trusted_ca": {}, **NAMED}}),
        [],
    ),
    (
        "roots combined, delivered",
        sidecar_tls(combined_validation_context={"validation_context_sds_secret_config": {"name": "a"}}),
        [],
    ),
    ("pinned by certificate", sidecar_tls(validation_context={"verify_certificate_hash": ["a"]}), []),
    ("pinned by key", sidecar_tls(validation_context={"verify_certificate_spki": ["a"]}), []),
    ("only a name", sidecar_tls(validation_context=dict(NAMED)), ["27"]),
    ("untrusted, by number", sidecar_tls(validation_context={"trusted_ca": {}, **NAMED, "trust_chain_verification": 1}), ["27"]),
    ("named by what was asked for", named_by_sni, []),
    ("google's client, far", google("extauthz.example:9000"), ["27"]),
    ("google's client, far, with TLS", google("extauthz.example:9000", channel_credentials={"ssl_credentials": {}}), []),
    ("google's client, here", google("dns:///127.0.0.1:9000"), []),
    ("google's client, IPv6", google("[::1]:9000"), []),
    ("google's client, socket", google("unix:/run/extauthz/extauthz.sock"), []),
    ("answers kept, newer Envoys", put("authz", response_cache_ttl=5), ["30"]),
    ("answers kept, by size", put("authz", response_cache_max_size=5), ["30"]),
    ("answers kept, by header", put("authz", response_cache_header_name="x"), ["30"]),
    ("answers kept, in one field", put("authz", cache={"ttl": "5s"}), ["30"]),
    ("the newer cache filter", after_ours("cache_v2.v3.CacheV2Config"), ["30"]),
    ("network rate limit", lambda p: p.listener["filter_chains"][0]["filters"].insert(0, _network_limit()), ["04"]),
)


def _aside(action: str) -> dict[str, Any]:
    return {"match": {"path": "/x"}, action: {"x": "y"}, "typed_per_filter_config": {"envoy.filters.http.ext_authz": OFF}}


def _network_limit() -> dict[str, Any]:
    return {"name": "limit", "typed_config": {"@type": f"{_TYPES}extensions.filters.network.ratelimit.v3.RateLimit"}}


@pytest.mark.parametrize(("change", "wanted"), [pytest.param(change, wanted, id=name) for name, change, wanted in ROWS])
def test_where_a_rule_begins_and_ends(change: Change, wanted: list[str]) -> None:
    assert found(change) == wanted


def test_an_authorization_service_over_http_is_none_of_ours() -> None:
    document = yaml.safe_load(SAFE)
    authz = parts_of(document).authz
    authz["http_service"] = {"server_uri": {"uri": "x", "cluster": "x", "timeout": "1s"}}
    del authz["grpc_service"]
    with pytest.raises(BadConfig, match="nothing here uses extauthz"):
        check_text(yaml.safe_dump(document), "envoy.yaml")


@pytest.mark.parametrize("field", ["host", "service", "backend"])
def test_every_way_to_name_us_in_agentgateway_is_known(field: str) -> None:
    policy: dict[str, Any] = {"policies": {"extAuthz": {field: {"name": "extauthz"}}}}
    assert check_text(yaml.safe_dump(policy), "agentgateway.yaml") == []
    policy["policies"]["extAuthz"]["cache"] = {"key": ["1"], "ttl": "1"}
    assert [each.rule for each in check_text(yaml.safe_dump(policy), "agentgateway.yaml")] == ["30-cached-allow"]
