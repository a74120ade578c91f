"""The accident: authentication fails, the chain goes on all the same, and the request is counted in a bucket that is nobody's."""

import ast
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

import extauthz
from extauthz import keyspace
from extauthz.admission.admit import prepare
from extauthz.breaker import commands
from extauthz.decision import refusals
from extauthz.decision.decision import Allowed, Link, Passage
from extauthz.errors import Refusal
from extauthz.gateway.model import FailureMode
from extauthz.secret import Secret
from extauthz.tenants import api_key
from extauthz.tenants.cache import Identity
from tests.harness.deciding import Deciding, deciding
from tests.harness.messages import Answer
from tests.harness.record import MadeKey, key_document, tenant_document

Prepare = Callable[[Deciding], Awaitable[MadeKey]]
UNKNOWN = api_key.mint("test")[0].reveal().decode()


class Case(NamedTuple):
    """A refusal: how it comes about, and what is sent. KEY stands for the key that was made."""

    code: str
    status: int
    make: Prepare
    fields: Mapping[str, Any] = MappingProxyType({})
    key: str = "KEY"
    reaches_admission: bool = False


def acme(**fields: Any) -> Prepare:
    async def make(system: Deciding) -> MadeKey:
        return await system.acme("bench", **fields)

    return make


async def suspended(system: Deciding) -> MadeKey:
    key = await system.acme("bench")
    await system.record.change("acme", is_active=False)
    return key


async def revoked(system: Deciding) -> MadeKey:
    key = await system.acme("bench")
    await system.record.revoke(key.key_id)
    return key


async def poor(system: Deciding) -> MadeKey:
    await system.record.tenant("poor", "bench")
    return await system.record.key("poor", ("chat",))


async def without_providers(system: Deciding) -> MadeKey:
    key = await system.acme("bench")
    for provider in ("openai", "backup"):
        await commands.open_by_hand(system.record.server.execute, provider)
    await system.core.breakers.poll()
    return key


async def emptied(system: Deciding) -> MadeKey:
    key = await system.acme("bench")
    await system.record.server.execute("FLUSHALL")
    return key


async def half_published(system: Deciding) -> MadeKey:
    key = await system.acme("bench")
    await system.record.server.execute("DEL", keyspace.tenant_document("acme"))
    return key


async def on_no_plan(system: Deciding) -> MadeKey:
    await system.record.tenant("acme", "of-another-file")
    return await system.record.key("acme", ("chat",))


async def unconfigured(system: Deciding) -> MadeKey:
    system.core.checker._policy = None
    return await system.acme("bench")


async def spent(system: Deciding) -> MadeKey:
    key = await system.acme("one")
    assert (await system.check(key.text)).is_allow
    return key


STRICT = {"path": "/v1/strict"}
CASES = (
    Case("key_missing", 401, acme(), key=""),
    Case("key_malformed", 401, acme(), key="junk"),
    Case("key_ambiguous", 401, acme(), {"headers": {"x-api-key": "KEY", "api-key": UNKNOWN}}),
    Case("key_unknown", 401, acme(), key=UNKNOWN),
    Case("key_revoked", 401, revoked),
    Case("key_expired", 401, acme(expires_at_ms=1)),
    Case("tenant_suspended", 403, suspended),
    Case("tenant_mismatch", 403, acme(), {"headers": {"x-api-key": "KEY", "x-tenant-id": "other"}}),
    Case("network_not_allowed", 403, acme(networks=("10.0.0.0/8",))),
    Case("scope_not_granted", 403, acme(scopes=("strict",))),
    Case("provider_not_allowed", 403, acme(providers=("gemini",))),
    Case("no_credential", 403, poor),
    Case("model_not_found", 403, acme(), {**STRICT, "model": "o1"}),
    Case("model_unreadable", 400, acme(), STRICT),
    Case("model_ambiguous", 400, acme(), {**STRICT, "model": "gpt-4o-mini", "llm": {"other_spelling": True}}),
    Case("model_disagrees", 400, acme(), {"path": "/v1beta/models/gpt-4o-mini:generateContent", "model": "gpt-4o"}),
    Case("path_refused", 400, acme(), {"path": "/v1/../v1/chat/completions"}),
    Case("route_not_found", 404, acme(), {"path": "/nowhere"}),
    Case("no_provider", 503, without_providers),
    Case("unavailable", 503, emptied),
    Case("unavailable", 503, half_published),
    Case("plan_unusable", 503, on_no_plan),
    Case("not_configured", 503, unconfigured),
    Case("rate_limit_exceeded", 429, spent, reaches_admission=True),
)


def test_every_refusal_there_is_has_a_case() -> None:
    assert {case.code for case in CASES} == refusals.CODES


@pytest.fixture
async def system(redis_url: str, tmp_path: Path) -> AsyncIterator[Deciding]:
    async with deciding(redis_url, tmp_path) as system:
        yield system


async def counters(system: Deciding) -> dict[bytes, bytes]:
    """Every counter in Redis and what it has counted, whosever it is, also in a spelling that is not ours."""
    execute = system.record.server.execute
    found = [key for key in await execute("KEYS", "*") if await execute("TYPE", key) == b"string"]
    known = (b":doc", b":epoch", b":marker", b":index:", b":owner:", b":secret:", b":kek:", b":identity", b":breaker:")
    return {key: await execute("GET", key) for key in found if not any(part in key for part in known)}


def nobodys(counted: dict[bytes, bytes], tenants: set[str]) -> list[bytes]:
    """Counters that belong neither to one of these tenants nor to a limit over all of them."""
    shared = keyspace.shared_counter("platform", "fixed60000")
    own = tuple(keyspace.counter(tenant, "x", "w").partition(b":x:")[0] + b":" for tenant in tenants)
    return [key for key in counted if key != shared and not key.startswith(own)]


class Watched:
    """What happened to Redis' counters and to admission while a request was refused."""

    def __init__(self, system: Deciding) -> None:
        self._system = system
        self.admissions = 0
        self._admit = system.core.checker._admit
        system.core.checker._admit = self._counted  # type: ignore[assignment]

    async def _counted(self, *arguments: Any) -> Any:
        self.admissions += 1
        return await self._admit(*arguments)

    async def refuse(self, case: Case) -> tuple[Answer, list[str]]:
        """The answer, and every way in which the chain went on after it had refused."""
        key = await case.make(self._system)
        self.admissions = 0
        fields = dict(case.fields)
        if "headers" in fields:
            fields["headers"] = {name: value.replace("KEY", key.text) for name, value in fields["headers"].items()}
        before = await counters(self._system)
        for _ in range(2):
            answer = await self._system.check(case.key.replace("KEY", key.text), **fields)
        after = await counters(self._system)
        wrong = []
        if answer.is_allow:
            wrong.append("it was allowed")
        if after != before:
            wrong.append(f"it was counted: {after.items() ^ before.items()}")
        if nobodys(after, {"acme", "poor"}):
            wrong.append(f"a counter is nobody's: {nobodys(after, {'acme', 'poor'})}")
        if self.admissions and not case.reaches_admission:
            wrong.append(f"it reached admission {self.admissions} times")
        return answer, wrong


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {getattr(case.make, '__name__', '')}")
async def test_a_refusal_ends_the_chain(system: Deciding, case: Case) -> None:
    answer, wrong = await Watched(system).refuse(case)
    assert ((answer.status, answer.refused_by), wrong) == ((case.status, case.code), [])


async def test_what_is_counted_is_a_tenants(system: Deciding) -> None:
    key = await system.acme("bench")
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert (await system.check(key.text, path=path)).is_allow
    counted = await counters(system)
    assert len(counted) == 1 + 1 + 2 + 1  # tenant, key, endpoint x 2, platform
    assert nobodys(counted, {"acme"}) == []
    assert len(nobodys(counted, {"other"})) == 4


class GoesOn:
    """The accident: a chain that takes whoever it does not know for the anonymous tenant, and goes on."""

    def __init__(self, system: Deciding, statuses: set[int], *, counts: bool, asks_admission: bool = False) -> None:
        self._system = system
        self._real: Any = system.core.checker
        self._statuses = statuses
        self._counts = counts
        self._asks_admission = asks_admission
        self.policy = self._real.policy

    async def check(self, *arguments: Any) -> Allowed:
        try:
            allowed: Allowed = await self._real.check(*arguments)
        except Refusal as refusal:
            if refusal.http_status not in self._statuses:
                raise
        else:
            return allowed
        prepared = prepare("anonymous", b"", "anonymous", b"", "openai", ())
        if self._counts:
            await self._system.core.redis.execute("INCR", keyspace.counter("", "requests", "fixed60000"))
        if self._asks_admission:
            await self._real._admit(prepared, math.inf)
            raise refusals.route_not_found()
        anonymous = Identity(tenant_document("anonymous", "", ()), key_document("anonymous", "a" * 16, b"", ()), 0.0)
        compiled = self._real.policy.routes[0]
        link = Link(compiled.providers[0], Secret(b"the platform's"))
        return Allowed(Passage(anonymous, compiled, (link,), prepared, FailureMode(), None, math.inf, takes_chain=False), -1, 0, 0)


NAIVE = {
    "allows": ({"counts": False}, "it was allowed"),
    "counts": ({"counts": True}, "it was counted"),
    "counts for nobody": ({"counts": True}, "a counter is nobody's"),
    "asks": ({"counts": False, "asks_admission": True}, "it reached admission"),
}


@pytest.mark.parametrize("kind", NAIVE)
async def test_the_checker_sees_a_chain_that_goes_on(system: Deciding, kind: str) -> None:
    options, expected = NAIVE[kind]
    watched = Watched(system)
    naive: Any = GoesOn(system, {401}, **options)
    system.core.check._checker = naive
    _, wrong = await watched.refuse(next(case for case in CASES if case.code == "key_unknown"))
    assert any(text.startswith(expected) for text in wrong), wrong


def allows_built_without_an_admission(root: Path) -> list[str]:
    """Where `Allowed(…)` is called elsewhere than inside `if reply[0] == ADMITTED:` of decision/check.py."""
    wrong = []
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text())
        admitted = {
            id(call)
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test) == "reply[0] == ADMITTED"
            for statement in branch.body
            for call in ast.walk(statement)
        }
        for node in ast.walk(tree):
            is_call = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Allowed"
            if is_call and (file.relative_to(root).as_posix() != "decision/check.py" or id(node) not in admitted):
                wrong.append(f"{file.relative_to(root)}:{node.lineno}")  # type: ignore[attr-defined]
    return wrong


def test_an_allow_is_built_in_one_place_after_an_admission() -> None:
    assert allows_built_without_an_admission(Path(inspect.getfile(extauthz)).parent) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("decision/check.py", "if reply[0] != DENIED:\n    allowed = Allowed(passage, 0, 0, 0)\n"),
        ("decision/check.py", "if reply[0] == ADMITTED:\n    pass\nelse:\n    allowed = Allowed(passage, 0, 0, 0)\n"),
        ("services/check.py", "if reply[0] == ADMITTED:\n    allowed = decision.Allowed(passage, 0, 0, 0)\n"),
    ],
)
def test_the_checker_sees_an_allow_built_elsewhere(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    assert len(allows_built_without_an_admission(tmp_path)) == 1


def test_an_allow_cannot_be_built_without_an_identity_a_credential_and_a_reply() -> None:
    for of, needs in (
        (Passage, ("identity", "route", "chain", "prepared")),
        (Allowed, ("passage", "rule", "remaining", "reset_ms")),
    ):
        parameters = inspect.signature(of).parameters
        for name in needs:
            assert parameters[name].default is inspect.Parameter.empty, name
            assert "None" not in str(parameters[name].annotation), name
    with pytest.raises(ValueError, match="leads to a provider"):
        Passage(None, None, (), None, None, None, 0.0, takes_chain=False)  # type: ignore[arg-type]
