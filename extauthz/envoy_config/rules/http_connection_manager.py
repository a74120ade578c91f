"""Rules about what a connection manager that uses us lets in."""

import re
from collections.abc import Iterator

from extauthz.envoy_config.configuration import FILTER_CONFIG, Configuration, Manager
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.header_mutation import EARLY_MUTATION, MUTATION, removes
from extauthz.envoy_config.rules.rule import Found, Options, Rule
from extauthz.gateway import headers

#: All request headers are copied into the CheckRequest, which the sidecar takes up to 256 KiB, with room for names and the rest.
HEADERS_KB_MAX = 96
_CREDENTIAL_NAME = re.compile(re.escape(headers.CREDENTIAL_PREFIX) + r"[a-z0-9-]+", re.IGNORECASE)
_SAFE_SLASHES = ("REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD", "2", "3", "4")
_SAFE_UNDERSCORES = ("REJECT_REQUEST", "DROP_HEADER", "1", "2")


def path_normalisation(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        lacking = [name for name in ("normalize_path", "merge_slashes") if not manager.part.get(name).is_true]
        if manager.part.get("path_with_escaped_slashes_action").text not in _SAFE_SLASHES:
            lacking.append("path_with_escaped_slashes_action")
        if lacking:
            yield manager.part.line, f"not set: {', '.join(lacking)}"


def underscores(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        action = manager.part.get("common_http_protocol_options", "headers_with_underscores_action")
        if action.text not in _SAFE_UNDERSCORES:
            yield action.line, "header names with underscores are allowed"


def remote_address(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        part = manager.part.get("use_remote_address")
        if not part.is_true and not manager.part.get("original_ip_detection_extensions"):
            yield part.line, "use_remote_address is not true"


def internal_headers(configuration: Configuration, _: Options) -> Iterator[Found]:
    everything = headers.INTERNAL_PREFIX + "*"
    named = {name.lower() for part in configuration.parts for name in _CREDENTIAL_NAME.findall(part.text)}
    for manager in configuration.managers:
        place, mutations = _first_mutations(manager)
        for part in configuration.parts:
            off = part.get("typed_per_filter_config", place.get("name").text)
            if off.type_name == FILTER_CONFIG and off.get("disabled").is_true:
                yield off.line, f"the filter {place.get('name').text}, which removes {everything}, is disabled"
        if any(removes(mutation, everything) for mutation in mutations):
            continue
        wanted = {headers.CHAIN, *headers.IDENTITY, *named}
        left = {name for name in wanted if not any(removes(mutation, name) for mutation in mutations)}
        if left == wanted:
            yield place.line, f"the first filter does not remove {everything}"
        elif left:
            yield place.line, f"the first filter leaves {', '.join(sorted(left))}"


def _first_mutations(manager: Manager) -> tuple[Part, tuple[Part, ...]]:
    """What happens to request headers before any filter can read them, and where that is written."""
    for part in manager.part.get("early_header_mutation_extensions").items():
        typed = part.get("typed_config")
        if typed.type_name == EARLY_MUTATION:
            return part, tuple(typed.body.get("mutations").items())
    first = manager.filters[0]
    if first.type_name != MUTATION or first.part.get("disabled").is_true:
        return first.part, ()
    return first.part, tuple(first.body.get("mutations", "request_mutations").items())


def header_size(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        part = manager.part.get("max_request_headers_kb")
        if (part.number or 0) > HEADERS_KB_MAX:
            yield part.line, f"max_request_headers_kb is {part.number}"


def upgrades(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        yield from _upgrades_of(manager.part)
        for name, field in (("http2_protocol_options", "allow_connect"), ("http3_protocol_options", "allow_extended_connect")):
            if (part := manager.part.get(name, field)).is_true:
                yield part.line, f"{name} takes CONNECT"
    for route in configuration.routes:
        yield from _upgrades_of(route.action)
        if matcher := route.part.get("match", "connect_matcher"):
            yield matcher.line, "a route takes CONNECT"


def _upgrades_of(holder: Part) -> Iterator[Found]:
    for part in holder.get("upgrade_configs").items():
        if not part.get("enabled").is_false:
            yield part.line, f"upgrade to {part.get('upgrade_type').text} is allowed"


def http_1_0(configuration: Configuration, _: Options) -> Iterator[Found]:
    for manager in configuration.managers:
        if (part := manager.part.get("http_protocol_options", "accept_http_10")).is_true:
            yield part.line, "HTTP/1.0 is accepted"


RULES = (
    Rule(
        "07-path-normalisation",
        "/open/../v1, %2e%2e, ..%2f or // then match another route than the provider serves",
        "normalize_path: true, merge_slashes: true, path_with_escaped_slashes_action: REJECT_REQUEST",
        path_normalisation,
    ),
    Rule(
        "08-underscores",
        "x_api_key arrives beside x-api-key, and some servers read the two as one",
        "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}",
        underscores,
    ),
    Rule(
        "09-remote-address",
        "the client's own x-forwarded-for becomes the address against which a key's networks are checked",
        "use_remote_address: true, with xff_num_trusted_hops for the proxies in front",
        remote_address,
    ),
    Rule(
        "10-internal-headers",
        "a client that sends x-extauthz-chain or x-extauthz-credential-* chooses its own provider or credential",
        "as the first filter header_mutation with remove_on_match: {key_matcher: {prefix: x-extauthz-}}",
        internal_headers,
    ),
    Rule(
        "22-header-size",
        f"headers over {HEADERS_KB_MAX} KiB make a CheckRequest that the sidecar refuses, at the cost of decoding it",
        f"max_request_headers_kb: {HEADERS_KB_MAX} or less",
        header_size,
    ),
    Rule(
        "23-upgrades",
        "what is sent after CONNECT or an upgrade is neither checked nor counted",
        "no upgrade_configs, connect_matcher or allow_connect",
        upgrades,
    ),
    Rule(
        "24-http-1-0",
        "an HTTP/1.0 request may have no host, and routes and limits are chosen by host",
        "accept_http_10: false",
        http_1_0,
    ),
)
