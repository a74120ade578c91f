"""Row 1: no error, timeout, cancellation or broken reply anywhere in the decision ends in an allow.

Two kinds of fault. The n-th time that a function of the decision path is entered, resumed after an await, or left, it raises
instead, for every n and for each kind of error. And the n-th reply of Redis is another than Redis gave, for every n and each of a
list of broken replies. Each is done to requests that may pass (a fault must not let them pass half-checked) and to requests that
may not (nothing may let them pass).
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from extauthz import keyspace
from extauthz.errors import Malformed, Missing, Unavailable
from extauthz.redisio.errors import CommandFailed, NotSent, OutcomeUnknown
from tests.harness.deciding import Deciding, deciding
from tests.harness.messages import Answer, check_request
from tests.harness.record import MadeKey

ROOMS = tuple(
    f"/extauthz/{room}" for room in ("services", "decision", "admission", "tenants", "limits", "breaker/probe", "credentials")
)
ERRORS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: RuntimeError("injected"),
    "cancel": asyncio.CancelledError,
    "deadline": TimeoutError,
    "unavailable": lambda: Unavailable("injected"),
    "missing": lambda: Missing("injected"),
    "malformed": lambda: Malformed("injected"),
}
REPLIES: dict[str, Any] = {
    "empty bytes": b"",
    "zero bytes": b"\0\0\0\0",
    "none": None,
    "empty list": [],
    "one number": [0],
    "a number": 0,
    "ok": b"OK",
    "nones": [None] * 4,
    "empties": [b""] * 4,
    "text": b"0.0000000000000000",
    "unknown code": [9, 0, 0, 0],
    "not sent": NotSent("injected"),
    "unknown outcome": OutcomeUnknown("injected"),
    "failed": CommandFailed("ERR", "ERR injected"),
    "cancel": asyncio.CancelledError(),
    "never": "never",
}


@dataclass(frozen=True)
class Case:
    """A request in a state of the world; `may_pass` without a fault."""

    name: str
    may_pass: bool
    fields: dict[str, Any]
    prepare: Callable[[Deciding, MadeKey], Awaitable[None]]


async def _nothing(_system: Deciding, _key: MadeKey) -> None:
    return


async def _warm(system: Deciding, key: MadeKey) -> None:
    await system.check(key.text, path="/v1/strict", model="gpt-4o-mini")
    await system.check(key.text)


async def _suspended_after(system: Deciding, key: MadeKey) -> None:
    await _warm(system, key)
    await system.record.change("acme", is_active=False)


async def _revoked_after(system: Deciding, key: MadeKey) -> None:
    await _warm(system, key)
    await system.record.revoke(key.key_id)


async def _spent(system: Deciding, _key: MadeKey) -> None:
    await system.record.change("acme", limits=(("requests", 1, 3_600_000),))
    await system.check(_key.text)


async def _resumed_after(system: Deciding, key: MadeKey) -> None:
    await system.record.change("acme", is_active=False)
    await system.check(key.text)
    await system.record.change("acme", is_active=True)


async def _tenant_breaker_open(system: Deciding, key: MadeKey) -> None:
    await _warm(system, key)
    await system.record.server.execute("SET", keyspace.tenant_breaker("acme", "openai"), "99999999999999")


CASES = (
    Case("cold", True, {}, _nothing),
    Case("warm", True, {}, _warm),
    Case("strict", True, {"path": "/v1/strict", "model": "gpt-4o-mini"}, _warm),
    Case("resumed", True, {}, _resumed_after),
    Case("tenant breaker", True, {}, _tenant_breaker_open),
    Case("suspended", False, {}, _suspended_after),
    Case("revoked", False, {}, _revoked_after),
    Case("spent", False, {}, _spent),
    Case("model", False, {"path": "/v1/strict", "model": "o1"}, _warm),
    Case("ambiguous model", False, {"path": "/v1/strict", "model": "gpt-4o-mini", "llm": {"other_spelling": True}}, _warm),
    Case("other tenant", False, {"headers": {"x-api-key": "KEY", "x-tenant-id": "other"}}, _warm),
    Case("no key", False, {"headers": {"x-api-key": ""}}, _warm),
    Case("no route", False, {"path": "/nowhere"}, _warm),
)


class Injector:
    """Raises the n-th time that a frame of the decision path is entered, resumed or left."""

    def __init__(self, at: int, make: Callable[[], BaseException]) -> None:
        self.at = at
        self.make = make
        self.seen = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "return") and any(room in frame.f_code.co_filename for room in ROOMS):
            self.seen += 1
            if self.seen == self.at:
                self.where = f"{event} of {frame.f_code.co_qualname}"
                raise self.make()


class FaultyRedis:
    """The real connection, but for the n-th reply."""

    def __init__(self, real: Any, at: int, reply: Any) -> None:
        self._real = real
        self.at = at
        self.reply = reply
        self.seen = 0

    async def _instead(self, real: Awaitable[Any]) -> Any:
        self.seen += 1
        answer = await real
        if self.seen != self.at:
            return answer
        if self.reply == "never":
            await asyncio.sleep(30)
        if isinstance(self.reply, BaseException):
            raise self.reply
        return self.reply

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        return await self._instead(self._real.execute(*arguments, **options))

    async def run(self, *arguments: Any) -> Any:
        return await self._instead(self._real.run(*arguments))


async def outcome(system: Deciding, message: bytes, injector: Injector | None = None) -> Answer | BaseException:
    """What Envoy would get: an answer, or an error that the transport makes a gRPC error of."""

    async def call() -> bytes:
        if injector is not None:
            sys.setprofile(injector)
        try:
            return await system.core.check(message, asyncio.get_running_loop().time() + 0.5)
        finally:
            sys.setprofile(None)

    task = asyncio.ensure_future(call())
    done, _ = await asyncio.wait({task}, timeout=0.2)
    if not done:
        task.cancel()
        await asyncio.wait({task})
        return TimeoutError()
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or Answer(task.result())


async def fresh(system: Deciding, case: Case, redis_url: str) -> bytes:
    """The state of the case, from an empty Redis, and its message."""
    await system.record.server.execute("FLUSHALL")
    system.core.identities._held.clear()
    system.core.identities._unknown.clear()
    for tenant_id in ("acme", ""):
        system.core.credentials.forget(tenant_id)
    key = await system.acme("free")
    await case.prepare(system, key)
    fields = dict(case.fields)
    if "headers" in fields:
        fields["headers"] = {name: value.replace("KEY", key.text) for name, value in fields["headers"].items()}
    return check_request(key.text, **fields)


# A fault between the making of a coroutine and its first step leaves it unawaited: the fault's doing, and nothing to warn of.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
@pytest.mark.prove(1)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_fault_in_the_decision_allows(case: Case, redis_url: str, tmp_path: Path, proving: bool) -> None:
    allows: list[str] = []
    faults = 0
    async with deciding(redis_url, tmp_path) as system:
        message = await fresh(system, case, redis_url)
        counting = Injector(0, RuntimeError)
        plain = await outcome(system, message, counting)
        assert isinstance(plain, Answer), plain
        assert plain.is_allow == case.may_pass, plain.body
        assert counting.seen > 10
        kinds = list(ERRORS) if proving else [list(ERRORS)[CASES.index(case) % len(ERRORS)]]
        step = 1 if proving else max(1, counting.seen // 12)
        for kind in kinds:
            for at in range(1, counting.seen + 1, step):
                message = await fresh(system, case, redis_url)
                injector = Injector(at, ERRORS[kind])
                found = await outcome(system, message, injector)
                if injector.seen < at:
                    continue
                faults += 1
                if isinstance(found, Answer) and found.is_allow:
                    allows.append(f"{case.name}: {kind} at {injector.where}")
                elif isinstance(found, Answer):
                    assert found.data
    print(f"row 1, {case.name}: {faults} faults, {len(allows)} allows")
    assert allows == []
    assert faults


@pytest.mark.prove(1)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_broken_reply_of_redis_allows(case: Case, redis_url: str, tmp_path: Path, proving: bool) -> None:
    allows: list[str] = []
    faults = 0
    kinds = list(REPLIES) if proving else [name for number, name in enumerate(REPLIES) if number % 4 == CASES.index(case) % 4]
    for kind in kinds:
        at, more = 1, True
        while more:
            async with deciding(redis_url, tmp_path) as system:
                message = await fresh(system, case, redis_url)
                faulty = FaultyRedis(system.core.redis, at, REPLIES[kind])
                system.core.identities._redis = faulty
                system.core.checker._admit.__self__._run = faulty.run  # type: ignore[attr-defined]
                system.core.credentials._source._sources[0]._redis = faulty  # type: ignore[attr-defined]
                found = await outcome(system, message)
            more = faulty.seen >= at
            if more:
                faults += 1
                if isinstance(found, Answer) and found.is_allow:
                    allows.append(f"{case.name}: {kind} at reply {at}")
            at += 1
    print(f"row 1, {case.name}: {faults} broken replies, {len(allows)} allows")
    assert allows == []
