"""The operator's file, from bytes to a `Gateway` in which everything holds, or to every problem at once.

Reads one file and nothing else: no name is looked up, no address connected to, no referenced file opened. What is allowed in each
section is in `providers.py`, `routes.py` and `plans.py`; docs/configuration.md says it in prose.
"""

import hashlib
import ipaddress
from pathlib import Path
from types import MappingProxyType

from extauthz.errors import BadConfig, Problem
from extauthz.gateway.model import Gateway, Listener
from extauthz.gateway.plans import read_default_plan, read_plans
from extauthz.gateway.providers import read_providers, read_scopes
from extauthz.gateway.routes import read_routes
from extauthz.gateway.section import Problems, Section
from extauthz.gateway.tree import Entries, read_tree

FILE_BYTES_MAX = 1 << 20
PORT_MAX = 65_535
BODY_BYTES_MIN = 1_024
BODY_BYTES_MAX = 64 << 20
BODY_BYTES_DEFAULT = 4 << 20
CHECK_TIMEOUT_MS_MIN = 10
CHECK_TIMEOUT_MS_MAX = 10_000
CHECK_TIMEOUT_MS_DEFAULT = 1_000
TRUSTED_HOPS_MAX = 16

_SECTIONS = ("listener", "providers", "scopes", "routes", "plans", "default_plan", "failure_mode")
_LISTENER_FIELDS = ("address", "port", "admin_port", "body_bytes_max", "check_timeout_ms", "trusted_hops")


def load(path: Path | str) -> Gateway:
    """The checked values of a gateway file. Raises BadConfig with every problem, also when the file cannot be read."""
    return parse(read(path), str(path))


def read(path: Path | str) -> bytes:
    """The file's bytes, at most FILE_BYTES_MAX. Raises BadConfig."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadConfig([Problem(str(path), 0, f"cannot be read: {why}", "a readable YAML file")]) from error
    if len(data) > FILE_BYTES_MAX:
        raise BadConfig([Problem(str(path), 0, "is too large", f"at most {FILE_BYTES_MAX} bytes")])
    return data


def parse(data: bytes, file: str) -> Gateway:
    """The same from bytes; `file` is what the problems name."""
    problems = Problems(file)
    root = Section(problems, 1, read_tree(data, file, problems.found), "the gateway file", _SECTIONS)
    providers = read_providers(root, problems)
    scopes = read_scopes(root, problems, providers)
    plans = read_plans(root, problems)
    listener = _listener(root, problems)
    gateway = Gateway(
        listener,
        MappingProxyType(providers),
        MappingProxyType(scopes),
        read_routes(root, problems, (providers, scopes), listener.check_timeout_ms),
        MappingProxyType(plans),
        read_default_plan(root, plans),
        hashlib.sha256(data).hexdigest(),
    )
    if problems.found:
        raise BadConfig(sorted(problems.found, key=lambda problem: problem.line))
    return gateway


def _listener(root: Section, problems: Problems) -> Listener:
    node = root.node("listener") or Entries(root.line)
    section = Section(problems, root.line_of("listener"), node, "listener", _LISTENER_FIELDS)
    address = section.text("address", "an IPv4 or IPv6 address", "127.0.0.1")
    try:
        ipaddress.ip_address(address or "::")
    except ValueError:
        section.wrong("address", f"is {address!r}", "an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::")
    port = section.integer("port", 1, PORT_MAX, 10_000)
    admin_port = section.integer("admin_port", 1, PORT_MAX, 9_901)
    if port == admin_port:
        section.wrong("admin_port", f"is the port of the listener too, {port}", "two different ports")
    return Listener(
        address,
        port,
        admin_port,
        section.integer("body_bytes_max", BODY_BYTES_MIN, BODY_BYTES_MAX, BODY_BYTES_DEFAULT),
        section.integer("check_timeout_ms", CHECK_TIMEOUT_MS_MIN, CHECK_TIMEOUT_MS_MAX, CHECK_TIMEOUT_MS_DEFAULT),
        section.integer("trusted_hops", 0, TRUSTED_HOPS_MAX, 0),
    )
