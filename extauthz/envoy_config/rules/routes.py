"""Rules about where a request goes after the decision."""

from collections.abc import Iterator

from extauthz.envoy_config.configuration import Configuration, is_route
from extauthz.envoy_config.rules.ext_authz import disabled_here
from extauthz.envoy_config.rules.rule import Found, Options, Rule


def mirrors(configuration: Configuration, _: Options) -> Iterator[Found]:
    for table in configuration.route_tables:
        for part in table.walk(lambda each: is_route(each) and bool(disabled_here(configuration, each))):
            policies = part.get("request_mirror_policies")
            if any(True for _ in policies.items()):
                yield policies.line, "requests are mirrored"


def internal_redirects(configuration: Configuration, _: Options) -> Iterator[Found]:
    for route in configuration.routes:
        if policy := route.action.get("internal_redirect_policy"):
            yield policy.line, "Envoy follows the provider's redirects"


RULES = (
    Rule(
        "12-mirrors",
        "the copy carries the tenant's credential and prompt to a cluster that the decision did not name",
        "no request_mirror_policies on routes that ext_authz guards",
        mirrors,
    ),
    Rule(
        "13-internal-redirects",
        "a provider's redirect then moves the request, credential included, to a path or host of the provider's choice",
        "no internal_redirect_policy",
        internal_redirects,
    ),
)
