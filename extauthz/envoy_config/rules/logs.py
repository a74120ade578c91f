"""Rules about what access logs, traces and responses tell."""

import re
from collections.abc import Iterator

from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.rule import Found, Options, Rule
from extauthz.gateway import headers

#: Beside those in which clients send keys: headers in which providers take a credential.
PROVIDER_CREDENTIALS = ("xi-api-key", "ocp-apim-subscription-key", "x-amz-security-token")
#: Where a log asks for whole header or metadata values by name.
_REQUEST_HEADER = re.compile(r"%(?:REQ|REQUEST_HEADER|TRACE_REQUEST_HEADER)\(([^)]*)\)")
_METADATA = re.compile(r"%(?:DYNAMIC_METADATA|METADATA)\((?:DYNAMIC:)?([^)]*)\)")
_FILTER_STATE = re.compile(r"%FILTER_STATE\(([^):]*)")
_CEL = re.compile(r"%CEL\((.*?)\)%")
_QUOTED = re.compile(r"['\"]([^'\"]+)['\"]")
_LOGGERS = ".extensions.access_loggers."
_HEADER_TO_METADATA = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
_SET_FILTER_STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"
_FORWARDED_CREDENTIAL = re.compile(r"x-aigw-|credential|api[-_]key|secret|token\b", re.IGNORECASE)


def _is_credential(header: str) -> bool:
    name = header.lower()
    return name in headers.CLIENT_CREDENTIALS or name in PROVIDER_CREDENTIALS or name.startswith(headers.CREDENTIAL_PREFIX)


def _writers(configuration: Configuration) -> Iterator[tuple[str, Part]]:
    """Everything that writes request data where somebody else reads it, and how a finding begins."""
    for part in configuration.parts:
        if _LOGGERS in part.type_name and not part.type_name.endswith("Filter"):
            yield "an access log writes", part.body
        for name in ("response_headers_to_add", "response_mutations", "local_reply_config", "body_format"):
            if part.get(name):
                yield "a response carries", part.get(name)


def logged_credentials(configuration: Configuration, _: Options) -> Iterator[Found]:
    for begin, writer in _writers(configuration):
        named = {id(part.node) for part in writer.get("additional_request_headers_to_log").items()}
        for part in writer.walk():
            names = [part.text] if id(part.node) in named else list(_headers_in(part.text))
            if found := sorted({name.lower() for name in names if _is_credential(name)}):
                yield part.line, f"{begin} the header {', '.join(found)}"
    for part in configuration.parts:
        for tag in part.get("custom_tags").items():
            name = tag.get("request_header", "name")
            if _is_credential(name.text):
                yield name.line, f"a trace carries the header {name.text.lower()}"


def _headers_in(text: str) -> Iterator[str]:
    for inside in _REQUEST_HEADER.findall(text):
        yield from inside.split("?")
    for expression in _CEL.findall(text):
        if "request.headers" in expression:
            yield from _QUOTED.findall(expression)
        if re.search(r"request\.headers(?!\s*\[|\.)", expression):
            yield "authorization"


def logged_namespaces(configuration: Configuration, _: Options) -> Iterator[Found]:
    namespaces, states = _carrying(configuration)
    for begin, writer in _writers(configuration):
        listed = {id(part.node) for part in writer.get("common_config", "filter_state_objects_to_log").items()}
        for part in writer.walk():
            if id(part.node) in listed and part.text in states:
                yield part.line, f"{begin} the filter state {part.text}"
            for name in _credential_places(part.text, namespaces, states):
                yield part.line, f"{begin} {name}"


def _carrying(configuration: Configuration) -> tuple[set[str], set[str]]:
    """Metadata namespaces and filter state keys into which this configuration copies a credential header."""
    namespaces, states = set(), set()
    for part in configuration.parts:
        if part.type_name == _HEADER_TO_METADATA:
            for rule in part.body.get("request_rules").items():
                if _is_credential(rule.get("header").text):
                    namespaces |= {rule.get(when, "metadata_namespace").text for when in ("on_header_present", "on_header_missing")}
        if part.type_name == _SET_FILTER_STATE:
            for value in part.body.get("on_request_headers").items():
                if any(_is_credential(name) for below in value.walk() for name in _headers_in(below.text)):
                    states.add(value.get("object_key").text)
    return namespaces - {""}, states


def _credential_places(text: str, namespaces: set[str], states: set[str]) -> Iterator[str]:
    for inside in _METADATA.findall(text):
        namespace, _, path = inside.partition(":")
        if namespace in namespaces:
            yield f"the metadata namespace {namespace}, which holds a credential header"
        elif namespace == headers.EXT_AUTHZ_NAMESPACE and (not path or _FORWARDED_CREDENTIAL.search(path)):
            yield f"the metadata of {namespace}{':' + path if path else ', all of it'}"
    for key in _FILTER_STATE.findall(text):
        if key in states:
            yield f"the filter state {key}"
    for expression in _CEL.findall(text):
        named = set(_QUOTED.findall(expression))
        yield from (f"the filter state {key}" for key in sorted(named & states) if "filter_state" in expression)
        if "metadata" in expression:
            yield from (f"the metadata namespace {key}, which holds a credential header" for key in sorted(named & namespaces))


RULES = (
    Rule(
        "14-logged-credentials",
        "after ext_authz that header holds the tenant's credential or the client's key, and logs are read by many",
        "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:key_id)% to say whose request it was",
        logged_credentials,
    ),
    Rule(
        "15-logged-namespaces",
        "credentials may stand there: on routes with delivery in metadata, or because a filter of this file copies one there",
        "the fields that are wanted, one by one: %DYNAMIC_METADATA(envoy.filters.http.ext_authz:tenant)%",
        logged_namespaces,
    ),
)
