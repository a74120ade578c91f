"""Rules about the filters around ours: the rate limit filter, taps, what reads the model out of the body, caches."""

from collections.abc import Iterator

from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.rule import Found, Options, Rule
from extauthz.gateway import headers

_RATE_LIMITS = ("envoy.extensions.filters.http.ratelimit.v3.RateLimit", "envoy.extensions.filters.network.ratelimit.v3.RateLimit")
_TAPS = ("envoy.extensions.filters.http.tap.v3.Tap", "envoy.extensions.transport_sockets.tap.v3.Tap")
_JSON_TO_METADATA = "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata"
_CACHES = ("envoy.extensions.filters.http.cache.v3.CacheConfig", "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config")


def rate_limit_failure_mode(configuration: Configuration, _: Options) -> Iterator[Found]:
    for part in configuration.parts:
        if part.type_name in _RATE_LIMITS:
            deny = part.body.get("failure_mode_deny")
            if not deny.is_true:
                yield deny.line, "the rate limit filter has failure_mode_deny false"


def taps(configuration: Configuration, _: Options) -> Iterator[Found]:
    for part in configuration.parts:
        if part.type_name in _TAPS:
            yield part.line, "a tap records requests"


def model_reading(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        ours = {part.text for each in manager.ours for part in each.body.get("metadata_context_namespaces").items()}
        for each in manager.before_ours():
            if each.type_name == _JSON_TO_METADATA:
                lacking = _unread_bodies(each.body.get("request_rules"), ours)
                if lacking:
                    yield each.part.line, f"{each.name} has no {', '.join(lacking)}"


def _unread_bodies(request_rules: Part, namespaces: set[str]) -> list[str]:
    """What is not said about bodies that are not plain JSON, by the rules from which we read the model."""
    model = [rule for rule in request_rules.get("rules").items() if _gives_the_model(rule.get("on_present"), namespaces)]
    lacking = [name for name in ("on_missing", "on_error") if any(not rule.get(name) for rule in model)]
    if model and not request_rules.get("allow_content_types_regex"):
        lacking.insert(0, "allow_content_types_regex")
    return lacking


def _gives_the_model(pair: Part, namespaces: set[str]) -> bool:
    return pair.get("metadata_namespace").text in namespaces and pair.get("key").text == headers.LLM_MODEL


def cached_allow(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        for each in manager.filters:
            if each.type_name in _CACHES:
                yield each.part.line, f"{each.name} answers out of a cache"
        for each in manager.ours:
            for name in ("cache", "response_cache_max_size", "response_cache_ttl", "response_cache_header_name"):
                if part := each.body.get(name):
                    yield part.line, f"ext_authz keeps our answers ({name})"
    for policy in configuration.agentgateway:
        if part := policy.get("cache"):
            yield part.line, "extAuthz keeps our answers"


RULES = (
    Rule(
        "04-rate-limit-failure-mode",
        "when the rate limit service does not answer within 20 ms every request passes uncounted",
        "failure_mode_deny: true",
        rate_limit_failure_mode,
    ),
    Rule(
        "17-taps",
        "it writes headers, and with them keys and credentials, to a file or to whoever asks the admin port",
        "no tap filter and no tap transport socket",
        taps,
    ),
    Rule(
        "20-model-reading",
        "a body with `application/json; charset=utf-8`, no model or broken JSON reaches us as if no rule had looked at it",
        "allow_content_types_regex, and on_missing and on_error that set a field where on_present sets the model",
        model_reading,
    ),
    Rule(
        "30-cached-allow",
        "an allow is for one request: kept, it outlives a revoked key, is not counted, and hands out a credential again",
        "no cache, neither of answers nor of decisions, where ext_authz decides",
        cached_allow,
    ),
)
