"""The sections `providers` and `scopes` of the gateway file."""

import ipaddress
import re

from extauthz.gateway import headers
from extauthz.gateway.model import Provider, Scope
from extauthz.gateway.names import HEADER_NAME, HOST_NAME, MODEL_PATTERN, NAME, SCOPE_NAME
from extauthz.gateway.section import Problems, Section
from extauthz.gateway.templates import split_template
from extauthz.gateway.tree import Node, Text

PROVIDERS_MAX = 64
SCOPES_MAX = 256
MODELS_MAX = 100

_ADDRESS_ALLOWED = "https://HOST[:PORT][/base], or http:// for a host of your own network"
_CREDENTIAL_ALLOWED = 'none, or {header: NAME, format: "Bearer {}"}'
_ADDRESS = re.compile(r"(https?)://(\[[0-9a-fA-F:.]{2,45}\]|[^/:@\[\]?#]{1,253})(?::([0-9]{1,5}))?(/[^?#]*)?")
#: A credential over plain HTTP goes only to what cannot be the public internet: a bare name, these suffixes, a private address.
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".svc", ".test")
_FORMAT_LENGTH_MAX = 64

#: What a credential may never be put in: framing, what Envoy or we own, and what decides how the body is read.
_NO_CREDENTIAL = frozenset((
    "accept", "connection", "content-encoding", "content-length", "content-type", "date", "expect", "host", "keep-alive",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-request-id", "traceparent", "tracestate",
    headers.CLIENT_TENANT,
))  # fmt: skip
_NO_CREDENTIAL_PREFIXES = (headers.INTERNAL_PREFIX, "x-envoy-", "x-forwarded-", "x-ratelimit-")


def read_providers(root: Section, problems: Problems) -> dict[str, Provider]:
    """Every provider by its name, also those with a problem, so that references to them still resolve."""
    return {
        name: _provider(name, Section(problems, line, node, f"provider {name}", ("address", "credential", "ca_file")))
        for name, line, node in root.named("providers", NAME, PROVIDERS_MAX)
    }


def read_scopes(root: Section, problems: Problems, providers: dict[str, Provider]) -> dict[str, Scope]:
    """Every scope by its name; its providers exist."""
    scopes = {}
    for name, line, node in root.named("scopes", SCOPE_NAME, SCOPES_MAX):
        section = Section(problems, line, node, f"scope {name}", ("providers", "models"))
        allowed = ", ".join(providers) or "the names of providers"
        names = section.texts("providers", providers.__contains__, allowed, PROVIDERS_MAX, None)
        models = section.texts("models", MODEL_PATTERN.has, f"{MODEL_PATTERN.allowed}; no `models` at all: any", MODELS_MAX, ())
        scopes[name] = Scope(name, frozenset(names), models)
    return scopes


def _provider(name: str, section: Section) -> Provider:
    host, port, tls, base_path = _address(section)
    header, form = _credential(section)
    if header and host and not tls and not is_private(host):
        section.wrong("address", f"would carry a credential to {host} without TLS", "https://, or a host of your own network")
    ca_file = section.text("ca_file", "an absolute path", "")
    if ca_file and not ca_file.startswith("/"):
        section.wrong("ca_file", f"is {ca_file!r}", "an absolute path, as Envoy sees it")
    if ca_file and host and not tls:
        section.wrong("ca_file", "is given, but the address has no TLS", "https:// in address, or no ca_file")
    return Provider(name, host, port, tls, base_path, header, form, ca_file)


def _address(section: Section) -> tuple[str, int, bool, str]:
    text = section.text("address", _ADDRESS_ALLOWED)
    if not text:
        return "", 0, True, ""
    match = _ADDRESS.fullmatch(text)
    host = match[2].lower().strip("[]") if match else ""
    if match is None or not (_is_ipv6(host) if match[2].startswith("[") else _is_host(host)):
        # What stands before an @ or behind a ? may be a secret, and this text is logged.
        section.wrong(
            "address", "has a user, a query or a fragment" if set(text) & set("@?#") else f"is {text!r}", _ADDRESS_ALLOWED
        )
        return "", 0, True, ""
    tls = match[1] == "https"
    port = int(match[3] or (443 if tls else 80))
    if not 1 <= port <= 65_535:
        section.wrong("address", f"has the port {port}", "1 to 65535")
    return host, port, tls, _base_path(section, match[4] or "")


def _base_path(section: Section, path: str) -> str:
    path = path.removesuffix("/")
    if path:
        try:
            segments = split_template(path)
        except ValueError as error:
            section.wrong("address", f"has a base path that {error}", "a plain path such as /openai")
            return ""
        if any(segment.name for segment in segments) or path.endswith("/"):
            section.wrong("address", f"has the base path {path!r}", "a plain path such as /openai, without {} and //")
    return path


def _credential(section: Section) -> tuple[str, str]:
    node: Node | None = section.node("credential")
    if node is None:
        section.missing("credential", _CREDENTIAL_ALLOWED)
        return "", ""
    if isinstance(node, Text):
        if node.text != "none":
            section.wrong("credential", f"is {node.text[:60]!r}", _CREDENTIAL_ALLOWED)
        return "", ""
    fields = Section(section.problems, section.line_of("credential"), node, f"{section.title}: credential", ("header", "format"))
    header = fields.text("header", HEADER_NAME.allowed).lower()
    if header and (not HEADER_NAME.has(header) or header in _NO_CREDENTIAL or header.startswith(_NO_CREDENTIAL_PREFIXES)):
        fields.wrong("header", f"is {header!r}", f"{HEADER_NAME.allowed}, and none that Envoy, HTTP or extauthz owns")
    form = fields.text("format", "text with {} once", "{}")
    if form and not _is_format(form):
        fields.wrong(
            "format",
            f"is {form!r}",
            f"ASCII text of at most {_FORMAT_LENGTH_MAX} characters that holds {{}} once, no other brace and no %",
        )
    # After a problem any name does; an empty one would make it an internal service, and its routes seem mixed.
    return header or "x", form


def _is_format(form: str) -> bool:
    # RFC 9110 section 5.5: visible ASCII and inner blanks. No `%`: Envoy's formatter would read a command.
    is_safe = form.isascii() and form.isprintable() and form == form.strip() and "%" not in form and len(form) <= _FORMAT_LENGTH_MAX
    return is_safe and form.count("{}") == 1 and form.count("{") == form.count("}") == 1


def is_private(host: str) -> bool:
    """Whether a host is of the operator's own network by its name or address alone; nothing is looked up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_SUFFIXES)
    return address.is_loopback or (address.is_private and not address.is_unspecified)


def _is_host(host: str) -> bool:
    if not HOST_NAME.has(host):
        return False
    # What ends in a number is an address or a mistake (WHATWG URL, host parsing): never `127.1` or `10.0.0.256`.
    if not host.rpartition(".")[2].isdigit():
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
