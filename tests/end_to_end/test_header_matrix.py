"""Row 3: whatever a client sends in whatever header, a provider gets one credential header, ours, and nothing that is internal."""

import functools
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.end_to_end.through import BODY, CHAT, CREDENTIALS, RUN, SINGLE, TENANT, Through
from tests.end_to_end.wire import Answer, Headers, http1, http1_chunked, http1_headers, http2

CANARY = "CANARY"

HEADERS = (
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "proxy-authorization",
    "x-bf-vk",
    "cookie",
    "xi-api-key",
    "x-tenant-id",
    "x-extauthz-chain",
    "x-extauthz-credential-first",
    "x-extauthz-credential-second",
    "x-extauthz-tenant",
    "x-extauthz-key-id",
    "x-extauthz-scope",
    "x-extauthz-path",
    "x-extauthz-base",
    # No name of ours yet: whatever begins so is taken from a client.
    "x-extauthz-admin",
    "x-envoy-original-path",
    "x-envoy-original-host",
)


#: Of these exactly one reaches a provider, and it is ours.
CREDENTIAL_HEADERS = frozenset(HEADERS[:8])


class Form(NamedTuple):
    """How the value stands in the request: as headers, and as trailers."""

    headers: Callable[[str, str], Headers]
    trailers: Callable[[str, str], Headers] = lambda _name, _value: ()


FORMS: dict[str, Form] = {
    "plain": Form(lambda name, value: [(name, value)]),
    "bearer": Form(lambda name, value: [(name, f"Bearer {value}")]),
    "title case": Form(lambda name, value: [(name.title(), value)]),
    "upper case": Form(lambda name, value: [(name.upper(), value)]),
    "twice": Form(lambda name, value: [(name, value), (name, value)]),
    "empty, then full": Form(lambda name, value: [(name, ""), (name, value)]),
    "in two spellings": Form(lambda name, value: [(name, value), (name.title(), value)]),
    "a list": Form(lambda name, value: [(name, f"a, {value}, b")]),
    "blanks around": Form(lambda name, value: [(name, f" \t{value}\t ")]),
    "long": Form(lambda name, value: [(name, value + "x" * 4000)]),
    "not ASCII": Form(lambda name, value: [(name, f"\xe9{value}\xff")]),
    "underscores": Form(lambda name, value: [(name.replace("-", "_"), value)]),
    "blank before the colon": Form(lambda name, value: [(f"{name} ", value)]),
    "folded": Form(lambda name, value: [(name, f"a\r\n {value}")]),
    "injected": Form(lambda name, value: [("x-other", f"a\r\n{name}: {value}")]),
    "with a NUL": Form(lambda name, value: [(name, f"{value}\0")]),
    "named as hop by hop": Form(lambda name, value: [("connection", f"close, {name}"), (name, value)]),
    "in a trailer": Form(lambda _name, _value: [], lambda name, value: [(name, value)]),
}
#: Reaches a provider only through a chain of two, through a chain of one, or as an internal service.
PATHS = (CHAT, SINGLE, RUN)
VERSIONS = ("1.1", "2")
#: What stands there: something foreign, or the client's own good key.
VALUES = ("foreign", "own")


class Cell(NamedTuple):
    header: str
    form: str
    version: str
    path: str
    value: str


def cells() -> Iterator[Cell]:
    for cell in itertools.starmap(Cell, itertools.product(HEADERS, FORMS, VERSIONS, PATHS, VALUES)):
        # The client's own key says nothing new in the headers that are ours.
        if cell.value == "foreign" or not cell.header.startswith(("x-extauthz-", "x-envoy-")):
            yield cell


def ask(system: Through, cell: Cell, number: Headers) -> Answer:
    value = system.key if cell.value == "own" else CANARY
    form = FORMS[cell.form]
    added, trailers = form.headers(cell.header, value), form.trailers(cell.header, value)
    # The good key stands in another header than the one in question.
    bearer = ("x-api-key", system.key) if cell.header == "authorization" else ("authorization", f"Bearer {system.key}")
    headers: Headers = [("content-type", "application/json"), *number, bearer, *added]
    if cell.version == "2":
        return http2(system.port, "POST", cell.path, "h", headers, BODY, trailers)
    if trailers:
        return http1_chunked(system.port, "POST", cell.path, [("host", "h"), ("connection", "close"), *headers], BODY, trailers)
    return http1(system.port, "POST", cell.path, http1_headers("h", BODY, headers), BODY)


def wrong_with(entry: dict[str, Any], key: str) -> list[str]:
    """What in this request must not have reached this provider."""
    headers: list[list[str]] = entry["headers"]
    shown = json.dumps(headers)
    wrong = [text for text in (CANARY, key) if text in shown]
    ours = {name for name, _ in headers if name.startswith(("x-extauthz-", "x-envoy-", "x-forwarded", "x-tenant"))}
    identity = {"x-extauthz-tenant", "x-extauthz-key-id", "x-extauthz-scope"}
    credentials = [(name, value) for name, value in headers if name in CREDENTIAL_HEADERS]
    if entry["provider"] == "service":
        wrong += [] if ours == identity and not credentials else [f"internal: {ours}, {credentials}"]
        wrong += [] if ["x-extauthz-tenant", TENANT] in map(list, headers) else ["another tenant"]
    else:
        wrong += [] if not ours else [f"internal: {ours}"]
        wrong += [] if credentials == [CREDENTIALS[entry["provider"]]] else [f"credentials: {credentials}"]
    return wrong


def chosen(proving: bool) -> list[Cell]:
    """All cells, or a seeded slice in which every header stands in every form, and 100 more."""
    every = list(cells())
    if proving:
        return every
    choose = random.Random(3)
    choose.shuffle(every)
    one_each = {(cell.header, cell.form): cell for cell in every}
    return [*one_each.values(), *every[:100]]


@pytest.mark.prove(3)
def test_no_header_of_a_client_reaches_a_provider_as_a_credential_or_as_ours(system: Through, proving: bool) -> None:
    system.fail_over()
    leaks: list[str] = []
    reached = Counter[str]()
    asked = chosen(proving)
    for cell, answer, seen in system.ask_all(functools.partial(ask, system), asked):
        reached[cell.version] += bool(seen)
        assert bool(seen) == (answer.status == 200), (cell, answer)
        leaks += [f"{cell} at {entry['provider']}: {what}" for entry in seen for what in wrong_with(entry, system.key)]
    figures = f"{len(asked)} cells, {sum(reached.values())} reached a provider {dict(reached)}, {len(leaks)} leaks"
    print(f"row 3: {figures}")
    assert leaks == [], "\n".join(leaks[:20])
    assert len(asked) >= 400
    # A matrix in which nothing passes shows nothing.
    assert min(reached.values()) >= 50
