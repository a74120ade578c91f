"""Rules about the ext_authz filter itself: what happens when we do not answer, and what Envoy does with our answer."""

from collections.abc import Iterator

from extauthz.envoy_config.configuration import (
    EXT_AUTHZ_PER_ROUTE,
    FILTER_CONFIG,
    HTTP_OPTIONS,
    Configuration,
    Manager,
    Route,
    is_route,
)
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.rule import Found, Options, Rule

#: Envoy's own limit for a request to an upstream when a route names none (`RouteAction.timeout`).
ROUTE_TIMEOUT_S = 15.0
#: Conditions under which nothing of the call has left Envoy.
SAFE_RETRIES = frozenset({"connect-failure"})
_STATUS_5XX = ("InternalServerError", "BadGateway", "ServiceUnavailable", "GatewayTimeout")


def failure_mode_allow(configuration: Configuration, _: Options) -> Iterator[Found]:
    for each in configuration.all_ours():
        if (part := each.body.get("failure_mode_allow")).is_true:
            yield part.line, "failure_mode_allow is true"


def status_on_error(configuration: Configuration, _: Options) -> Iterator[Found]:
    for each in configuration.all_ours():
        code = each.body.get("status_on_error", "code")
        if not code:
            yield each.part.line, "ext_authz has no status_on_error"
        elif code.text not in _STATUS_5XX and not 500 <= (code.number or 0) <= 599:
            yield code.line, f"status_on_error is {code.text}"


def check_timeout(configuration: Configuration, _: Options) -> Iterator[Found]:
    shortest = min((_timeout_s(route.action) for route in configuration.routes if route.action), default=ROUTE_TIMEOUT_S)
    for each in configuration.all_ours():
        timeout = each.body.get("grpc_service", "timeout")
        if timeout.seconds is None:
            yield timeout.line, "the call to the sidecar has no timeout"
        elif timeout.seconds == 0:
            yield timeout.line, "the timeout of the call to the sidecar is 0, which is none"
        elif timeout.seconds > shortest:
            yield timeout.line, f"the call to the sidecar may take {timeout.seconds:g} s, a route gives up after {shortest:g} s"
        elif (back_off := _attempt(each.body.get("grpc_service", "retry_policy", "retry_back_off"))) and back_off[
            1
        ] < timeout.seconds:
            line, seconds = back_off
            yield (
                line,
                f"retry_back_off ends each call to the sidecar after {seconds:g} s, before its timeout of {timeout.seconds:g} s",
            )


def _attempt(back_off: Part) -> tuple[int, float] | None:
    """How long Envoy lets one attempt take when a retry policy names a back-off: its longest one, unset ten times the base. (In
    Envoy, common/http/utility.cc, convertCoreToRouteRetryPolicy makes it the per_try_timeout.)
    """
    longest, base = back_off.get("max_interval"), back_off.get("base_interval")
    if longest.seconds is not None:
        return longest.line, longest.seconds
    return None if base.seconds is None else (base.line, 10 * base.seconds)


def _timeout_s(action: Part) -> float:
    seconds = action.get("timeout").seconds
    if seconds is None:
        return ROUTE_TIMEOUT_S
    return seconds or float("inf")


def enabled_without_deny(configuration: Configuration, _: Options) -> Iterator[Found]:
    for each in configuration.all_ours():
        for name in ("filter_enabled", "filter_enabled_metadata"):
            part = each.body.get(name)
            if part and not _is_whole(part) and not each.body.get("deny_at_disable").is_true:
                yield part.line, f"{name} without deny_at_disable"


def _is_whole(enabled: Part) -> bool:
    """Whether a fraction is all of the requests, and no runtime key can change it."""
    value = enabled.get("default_value")
    of = {"": 100, "HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}.get(value.get("denominator").text)
    return not enabled.get("runtime_key") and value.get("numerator").number == of


def disabled_per_route(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        for each in manager.ours:
            if (part := each.part.get("disabled")).is_true:
                yield part.line, "the ext_authz filter is disabled unless a route enables it"
    for table in configuration.route_tables:
        for part in table.walk(lambda each: is_route(each) and Route(each).is_exact):
            if disabled := disabled_here(configuration, part):
                yield disabled.line, "ext_authz is disabled for more than one exact path"


def disabled_here(configuration: Configuration, holder: Part) -> Part:
    """The `disabled: true` of ext_authz in this `typed_per_filter_config`, or a false part."""
    names = {each.name for each in configuration.all_ours()}
    for key, config in holder.get("typed_per_filter_config").entries():
        inner = config.body.get("config") if config.type_name == FILTER_CONFIG else config
        is_ours = inner.type_name == EXT_AUTHZ_PER_ROUTE or key.value in names
        for place in (config.body, inner.body):
            if is_ours and place.get("disabled").is_true:
                return place.get("disabled")
    return Part(None, holder.line)


def route_cache_cleared_later(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        yield from _clearing_after_ours(manager)


def _clearing_after_ours(manager: Manager) -> Iterator[Found]:
    for each in manager.after_ours():
        clearing = [part for part in each.body.walk() if part.get("clear_route_cache").is_true]
        action = each.body.get("route_cache_action")
        if clearing:
            yield clearing[0].get("clear_route_cache").line, f"{each.name}, after ext_authz, clears the route cache"
        elif each.type_name.endswith(".ext_proc.v3.ExternalProcessor") and action.text not in ("RETAIN", "2"):
            if not each.body.get("disable_clear_route_cache").is_true:
                yield each.part.line, f"{each.name}, after ext_authz, may clear the route cache"
        elif each.type_name.endswith(".grpc_json_transcoder.v3.GrpcJsonTranscoder"):
            if not each.body.get("match_incoming_request_route").is_true:
                yield each.part.line, f"{each.name}, after ext_authz, chooses the route again"
        elif each.type_name.endswith(".lua.v3.Lua") and not each.body.get("clear_route_cache").is_false:
            yield each.part.line, f"{each.name}, after ext_authz, clears the route cache when it changes a header"


def retries_of_the_check(configuration: Configuration, _: Options) -> Iterator[Found]:
    services = [each.body.get("grpc_service") for each in configuration.all_ours()]
    policies = [service.get(*where, "retry_policy") for service in services for where in ((), ("envoy_grpc",))]
    options = (part for cluster in configuration.sidecar_clusters() for part in cluster.walk() if part.type_name == HTTP_OPTIONS)
    policies += [part.body.get("retry_policy") for part in options]
    for retry_on in (policy.get("retry_on") for policy in policies):
        if unsafe := sorted({word.strip() for word in retry_on.text.split(",")} - SAFE_RETRIES - {""}):
            yield retry_on.line, f"the call to the sidecar is repeated on {', '.join(unsafe)}"


def validate_mutations(configuration: Configuration, _: Options) -> Iterator[Found]:
    for each in configuration.all_ours():
        if not each.body.get("validate_mutations").is_true:
            yield each.body.get("validate_mutations").line, "validate_mutations is off"


RULES = (
    Rule(
        "01-failure-mode-allow",
        "when the sidecar is down, slow or crashed every request passes without a key",
        "failure_mode_allow: false",
        failure_mode_allow,
    ),
    Rule(
        "02-status-on-error",
        "Envoy answers 403 while the sidecar is away, and clients take an outage for a refused key and do not retry",
        "status_on_error: {code: ServiceUnavailable}",
        status_on_error,
    ),
    Rule(
        "03-check-timeout",
        "unset it is 200 ms, which a cold credential exceeds, and longer than the route's it outlives the request it is for",
        "grpc_service: {timeout: 0.5s}, below every route's timeout, and no shorter retry_back_off.max_interval",
        check_timeout,
    ),
    Rule(
        "05-enabled-without-deny",
        "requests for which the filter is switched off pass unchecked",
        "deny_at_disable: {default_value: {value: true}}, or no filter_enabled",
        enabled_without_deny,
    ),
    Rule(
        "06-disabled-per-route",
        "a prefix or pattern also matches spellings such as /open/../v1, which then reach a provider unchecked",
        "disabled: true only on a route with match: {path: …}",
        disabled_per_route,
    ),
    Rule(
        "11-route-cache-cleared-later",
        "the route, and so the provider, is chosen again after the decision, for which another credential was given",
        "clear_route_cache: false (ext_proc: route_cache_action: RETAIN), or the filter before ext_authz",
        route_cache_cleared_later,
    ),
    Rule(
        "18-retries-of-the-check",
        "a Check that was counted and then lost is counted again",
        "no retry_policy, or retry_on: connect-failure",
        retries_of_the_check,
    ),
    Rule(
        "28-validate-mutations",
        "a header that may not be sent turns into a malformed request instead of a 500",
        "validate_mutations: true",
        validate_mutations,
    ),
)
