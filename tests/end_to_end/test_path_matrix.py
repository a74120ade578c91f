"""Row 4: no spelling of a path reaches what the key may not reach, nor makes a provider see another path than was decided on."""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from demo.envoy_server import EnvoyServer
from demo.processes import free_port
from extauthz.envoy_config.render import bootstrap
from extauthz.envoy_config.yaml_text import to_yaml
from extauthz.gateway.load import load
from extauthz.settings import parse_listen
from tests.conftest import eventually
from tests.end_to_end.through import BODY, CHAT, CLOSED, Through
from tests.end_to_end.wire import Answer, Headers, http1, http1_headers, http2

#: What this test's key may reach at each provider, once every escape is undone, twice. A model is one segment, whatever it is.
AUTHORISED = {"first": re.compile(re.escape(CHAT)), "third": re.compile(r"/base/v1/models/[^/\\]+:generate")}

SPELLINGS = (
    CLOSED,
    f"{CHAT}/../../closed",
    f"{CHAT}/../../../v1/closed",
    f"{CHAT}/%2e%2e/%2e%2e/closed",
    f"{CHAT}/%2E%2E/%2E%2E/closed",
    f"{CHAT}/.%2e/%2e./closed",
    f"{CHAT}/..%2f..%2fclosed",
    f"{CHAT}/..%5c..%5cclosed",
    f"{CHAT}/..\\..\\closed",
    f"{CHAT}\\..\\..\\closed",
    f"{CHAT}/..;/..;/closed",
    f"{CHAT}/.;/../../closed",
    f"{CHAT};/../../closed",
    f"{CHAT};x=/../../closed",
    f"{CHAT}/%252e%252e/%252e%252e/closed",
    f"{CHAT}/%c0%ae%c0%ae/%c0%ae%c0%ae/closed",
    f"{CHAT}/\uff0e\uff0e/closed".encode().decode("latin-1"),
    f"{CHAT}/..%00/../closed",
    f"{CHAT}%00/../../closed",
    f"{CHAT}%23/../../closed",
    f"{CHAT}%3f/../../closed",
    f"{CHAT}#/../../closed",
    f"{CHAT}?/../../closed",
    f"{CHAT}?x=1#{CLOSED}",
    f"{CLOSED}?x={CHAT}",
    f"{CLOSED}#{CHAT}",
    f"{CLOSED};x=1",
    f"{CLOSED}/",
    f"{CLOSED}/.",
    f"{CLOSED}%20",
    f"{CLOSED}%0a",
    f"{CLOSED}%2f",
    "/v1/clos%65d",
    "/v1%2fclosed",
    "/%76%31/closed",
    "/V1/CLOSED",
    "//v1/closed",
    "/v1//closed",
    f"//{CHAT}//../../closed",
    "/./v1/closed",
    "/v1/./closed",
    "/../v1/closed",
    "/..%2fv1/closed",
    "http://gw.test/v1/closed",
    f"http://gw.test{CHAT}/../../closed",
    "http://gw.test@other.test/v1/closed",
    "v1/closed",
    "*",
    "?",
    f"{CHAT}/",
    f"{CHAT}%2f",
    f"{CHAT}\t/../../closed",
    f"{CHAT}\0/../../closed",
    "/v1/chat/%63ompletions",
    CHAT.upper(),
    "/v1/models/m%2f..%2f..%2fclosed:generate",
    "/v1/models/m/../../closed:generate",
    "/v1/models/..%2f..%2fclosed%3f:generate",
    "/v1/models/m%3a:generate",
    "/v1/models/:generate",
    "/v1/models/..:generate",
    "/v1/models/m;a=b:generate",
    "/v1/models/m:generate/../x:generate",
)
#: As a client of good will writes them.
CONTROLS = (CHAT, f"{CHAT}?a=/../b%2f", "/v1/models/m:generate")


@pytest.fixture(scope="module")
def listeners(running_system: Through) -> Iterator[dict[str, int]]:
    """The rendered listener; and one of an operator who left every normalisation off and every path to us."""
    gateway = load(running_system.system.gateway_file)
    document = bootstrap(gateway, [parse_listen(running_system.system.listen)])
    careless(document)
    document["admin"]["address"]["socket_address"]["port_value"] = free_port()
    port = free_port()
    document["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = port
    envoy = EnvoyServer(running_system.system.folder / "careless", to_yaml(document))
    headers = http1_headers("gw.test", BODY, [("authorization", f"Bearer {running_system.key}")])
    eventually(lambda: http1(port, "POST", CHAT, headers, BODY).status == 200)
    yield {"rendered": running_system.port, "careless": port}
    envoy.stop()


def careless(document: dict[str, Any]) -> None:
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["normalize_path"] = manager["merge_slashes"] = False
    manager["path_with_escaped_slashes_action"] = "KEEP_UNCHANGED"
    for host in manager["route_config"]["virtual_hosts"]:
        *routes, refusal = host["routes"]
        match = {"prefix": "/", "headers": [{"name": "x-extauthz-chain", "present_match": True}]}
        host["routes"] = [{"name": "all", "match": match, "route": routes[0]["route"]}, refusal]


class Cell(NamedTuple):
    listener: str
    version: str
    path: str


def ask(system: Through, listeners: dict[str, int], cell: Cell, number: Headers) -> Answer:
    port = listeners[cell.listener]
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {system.key}"), *number]
    if cell.version == "2":
        return http2(port, "POST", cell.path, "gw.test", headers, BODY)
    return http1(port, "POST", cell.path, http1_headers("gw.test", BODY, headers), BODY)


def unauthorised(entry: dict[str, Any]) -> bool:
    allowed = AUTHORISED.get(entry["provider"])
    return allowed is None or not allowed.fullmatch(unquote(unquote(entry["path"].partition("?")[0])))


@pytest.mark.prove(4)
def test_no_spelling_reaches_what_the_key_may_not(system: Through, listeners: dict[str, int]) -> None:
    asking = functools.partial(ask, system, listeners)

    def cells(paths: tuple[str, ...]) -> list[Cell]:
        return list(itertools.starmap(Cell, itertools.product(listeners, ("1.1", "2"), paths)))

    for cell, answer, seen in system.ask_all(asking, cells(CONTROLS)):
        assert (answer.status, [unauthorised(entry) for entry in seen]) == (200, [False]), cell
    results = system.ask_all(asking, cells(SPELLINGS))
    passed = sum(bool(seen) for _, _, seen in results)
    wrong = [f"{cell}: {e['provider']} saw {e['path']!r}" for cell, _, seen in results for e in seen if unauthorised(e)]
    figures = f"{len(SPELLINGS)} spellings, {len(results)} cells, {passed} spelled what is authorised, {len(wrong)} what is not"
    print(f"row 4: {figures}")
    assert wrong == [], "\n".join(wrong)
    assert [(cell, answer) for cell, answer, seen in results if answer.status >= 500 or bool(seen) != (answer.status == 200)] == []
    assert len(SPELLINGS) >= 40
