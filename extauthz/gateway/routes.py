"""The section `routes` of the gateway file. No two routes can match the same request, so their order means nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from extauthz.gateway.model import ROUTE_PROVIDERS_MAX, Provider, Route, Scope, Shape
from extauthz.gateway.names import HOST_NAME, NAME
from extauthz.gateway.section import Problems, Section, shown
from extauthz.gateway.templates import PATH_ALLOWED, Segment, overlap, split_template
from extauthz.gateway.tree import Items

ROUTES_MAX = 500
HOSTS_MAX = 32
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TIMEOUT_MS_MIN = 100
TIMEOUT_MS_MAX = 3_600_000
TIMEOUT_MS_DEFAULT = 60_000

_FIELDS = ("name", "hosts", "path", "methods", "scope", "providers", "shape", "timeout")
_SHAPES = get_args(Shape)


@dataclass(slots=True)
class _Read:
    """A route with where it stands; `segments` is None when its path is wrong."""

    route: Route
    line: int
    segments: tuple[Segment, ...] | None


def read_routes(
    root: Section, problems: Problems, known: tuple[Mapping[str, Provider], Mapping[str, Scope]], check_timeout_ms: int
) -> tuple[Route, ...]:
    """Every route; its scope and providers are among the known, and the scope allows the providers.

    No route's timeout is shorter than `check_timeout_ms`: Envoy would give up while the decision may still come.
    """
    node = root.node("routes")
    if not isinstance(node, Items) or not 1 <= len(node.items) <= ROUTES_MAX:
        if node is None:
            root.missing("routes", f"a list of 1 to {ROUTES_MAX} routes")
        else:
            root.wrong("routes", f"is {shown(node)}", f"a list of 1 to {ROUTES_MAX} routes")
        return ()
    read = []
    for index, item in enumerate(node.items):
        section = Section(problems, item.line, item, f"route {index + 1}", _FIELDS)
        if not section.is_broken:
            read.append(_route(section, *known, max(TIMEOUT_MS_MIN, check_timeout_ms)))
    _refuse_same_names(read, problems)
    _refuse_overlaps(read, problems)
    return tuple(each.route for each in read)


def _route(section: Section, providers: Mapping[str, Provider], scopes: Mapping[str, Scope], timeout_ms_min: int) -> _Read:
    name = section.word("name", NAME)
    if name:
        section.title = f"route {name}"
    hosts = section.texts(
        "hosts", lambda host: host == "*" or HOST_NAME.has(host), f"'*', or {HOST_NAME.allowed}", HOSTS_MAX, ("*",)
    )
    if "*" in hosts and len(hosts) > 1:
        section.wrong("hosts", "has '*' beside others", "'*' alone, or names")
    methods = section.texts("methods", METHODS.__contains__, ", ".join(METHODS), len(METHODS), ("POST",))
    path, segments = _path(section)
    scope = section.text("scope", ", ".join(scopes) or "the name of a scope")
    if scope and scope not in scopes:
        section.wrong("scope", f"is {scope!r}", ", ".join(scopes) or "the name of a scope")
    chain = _chain(section, providers, scopes.get(scope))
    shape = cast("Shape", section.choice("shape", _SHAPES, "openai"))
    timeout_ms = section.duration_ms("timeout", timeout_ms_min, TIMEOUT_MS_MAX, TIMEOUT_MS_DEFAULT)
    return _Read(Route(name, hosts, path, methods, scope, chain, shape, timeout_ms), section.line, segments)


def _path(section: Section) -> tuple[str, tuple[Segment, ...] | None]:
    path = section.text("path", PATH_ALLOWED)
    if not path:
        return "", None
    try:
        return path, split_template(path)
    except ValueError as error:
        section.wrong("path", f"{path[:80]!r} {error}", PATH_ALLOWED)
        return "", None


def _chain(section: Section, providers: Mapping[str, Provider], scope: Scope | None) -> tuple[str, ...]:
    allowed = ", ".join(providers) or "the names of providers"
    chain = section.texts("providers", providers.__contains__, allowed, ROUTE_PROVIDERS_MAX, None)
    if len({providers[name].is_internal for name in chain}) > 1:
        section.wrong("providers", "mixes providers with and without a credential", "all with `credential: none`, or none")
    # A scope that is not there, or whose own list is wrong, is said where it is wrong.
    if scope is not None and scope.providers:
        for name in chain:
            if name not in scope.providers:
                allowed = ", ".join(sorted(scope.providers))
                section.wrong("providers", f"has {name!r}, which scope {scope.name} does not allow", allowed)
    return chain


def _refuse_same_names(read: list[_Read], problems: Problems) -> None:
    lines: dict[str, int] = {}
    for each in read:
        first = lines.setdefault(each.route.name, each.line)
        if each.route.name and first != each.line:
            problems.add(each.line, f"route {each.route.name}: another route on line {first} has this name", "each name once")


def _refuse_overlaps(read: list[_Read], problems: Problems) -> None:
    # Only paths of the same number of segments can overlap, so 500 routes are not 125,000 comparisons.
    by_length: dict[int, list[_Read]] = {}
    for each in read:
        if each.segments is None:
            continue
        others = by_length.setdefault(len(each.segments), [])
        for other in others:
            if _both_match(each, other):
                what = f"route {each.route.name}: {each.route.path} matches requests that {other.route.path} matches too"
                problems.add(
                    each.line, f"{what} (route {other.route.name}, line {other.line})", "one route for each host, method and path"
                )
                break
        others.append(each)


def _both_match(one: _Read, other: _Read) -> bool:
    if not set(one.route.methods) & set(other.route.methods):
        return False
    hosts, others = set(one.route.hosts), set(other.route.hosts)
    if not (hosts & others or (hosts and others and "*" in hosts | others)):
        return False
    return overlap(one.segments or (), other.segments or ())
