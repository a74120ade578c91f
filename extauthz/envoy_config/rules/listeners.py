"""Rules about where Envoy listens and how much it takes."""

import ipaddress
from collections.abc import Iterator

from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import Part
from extauthz.envoy_config.rules.rule import Found, Options, Rule

#: Envoy's own limit where none is set (`Listener.per_connection_buffer_limit_bytes`).
BUFFER_BYTES = 1024 * 1024
_BUFFERING = (
    "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
)


def admin_address(configuration: Configuration, _: Options) -> Iterator[Found]:
    for part in configuration.parts:
        address = part.get("admin", "address", "socket_address", "address")
        if address and not is_loopback(address.text):
            yield address.line, f"the admin port listens on {address.text}"


def is_loopback(address: str) -> bool:
    """Whether only this host can reach it. A name other than localhost is not trusted to be."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def buffer_limit(configuration: Configuration, options: Options) -> Iterator[Found]:
    for listener in configuration.parts:
        guarded = [manager for manager in configuration.managers if _holds(listener, manager.part)]
        if not any(each.type_name in _BUFFERING for manager in guarded for each in manager.before_ours()):
            continue
        limit = listener.get("per_connection_buffer_limit_bytes")
        if limit.number is None:
            yield listener.get("name").line, f"bodies over {BUFFER_BYTES} bytes are refused, which nobody chose"
        elif limit.number < (options.body_bytes_max or 0):
            yield limit.line, f"bodies over {limit.number} bytes are refused, the largest has {options.body_bytes_max}"


def _holds(listener: Part, manager: Part) -> bool:
    if not listener.get("filter_chains") and not listener.get("default_filter_chain"):
        return False
    return any(part.body.node is manager.node for part in listener.walk() if part.type_name)


def socket_modes(configuration: Configuration, _: Options) -> Iterator[Found]:
    for part in configuration.parts:
        pipe = part.get("pipe")
        mode = pipe.get("mode")
        if (mode.number or 0) & 0o002:
            yield mode.line, f"the socket {pipe.get('path').text} is writable for everybody"
        elif pipe.get("path").text.startswith("@"):
            yield pipe.get("path").line, f"the abstract socket {pipe.get('path').text} has no owner and no mode"


RULES = (
    Rule(
        "16-admin-address",
        "whoever reaches it reads the configuration and every secret in it, and can stop Envoy",
        "address: 127.0.0.1, or a pipe",
        admin_address,
    ),
    Rule(
        "21-buffer-limit",
        "a filter that reads the body holds all of it: a larger one gets 413, and ext_authz is never asked",
        "per_connection_buffer_limit_bytes on the listener, at least the largest body your clients send",
        buffer_limit,
    ),
    Rule(
        "26-socket-modes",
        "any process on the host can speak on it, or take its place, and answer with an allow",
        "a path in a folder of its own, and mode: 0660",
        socket_modes,
    ),
)
