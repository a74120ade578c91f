import asyncio
import math

import pytest

from extauthz import _pb
from extauthz.errors import Malformed, Missing
from extauthz.services import health
from extauthz.services.health import AUTHORIZATION, LIVENESS, NOT_SERVING, READINESS, REDIS, SERVING, HealthService


class State:
    """What the names say; a test sets it."""

    def __init__(self) -> None:
        self.is_ready = False
        self.service = HealthService(
            {**dict.fromkeys(READINESS, lambda: self.is_ready), REDIS: lambda: False, LIVENESS: lambda: True}
        )

    async def check(self, name: str) -> int:
        answer = await self.service.check(question(name), math.inf)
        return int(_pb.HealthCheckResponse.FromString(answer).status)


def question(name: str) -> bytes:
    return bytes(_pb.HealthCheckRequest(service=name).SerializeToString())


def status(answer: bytes) -> int:
    return int(_pb.HealthCheckResponse.FromString(answer).status)


@pytest.mark.parametrize("name", READINESS)
async def test_readiness_is_what_the_sidecar_says_now(name: str) -> None:
    state = State()
    assert await state.check(name) == NOT_SERVING
    state.is_ready = True
    assert await state.check(name) == SERVING
    state.is_ready = False
    assert await state.check(name) == NOT_SERVING


async def test_liveness_does_not_depend_on_redis() -> None:
    state = State()
    assert (await state.check(REDIS), await state.check(LIVENESS)) == (NOT_SERVING, SERVING)


def test_the_whole_server_and_its_one_service_are_ready_together() -> None:
    assert READINESS == ("", AUTHORIZATION)


async def test_an_unknown_name_is_not_found_and_no_status() -> None:
    with pytest.raises(Missing):
        await State().check("envoy.service.ratelimit.v3.RateLimitService")


@pytest.mark.parametrize("message", [b"\x0a", b"\xff\xff", b"\x0a\x05ab"])
async def test_what_is_no_request_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        await State().service.check(message, math.inf)
    with pytest.raises(Malformed):
        await anext(State().service.watch(message, math.inf))


async def test_no_status_is_zero_bytes() -> None:
    state = State()
    for is_ready in (False, True):
        state.is_ready = is_ready
        assert await state.service.check(question(""), math.inf)


async def test_a_watcher_hears_every_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WATCH_S", 0.001)
    state = State()
    heard = []
    watching = state.service.watch(question(""), math.inf)
    for is_ready in (False, True, False, True):
        state.is_ready = is_ready
        heard.append(status(await asyncio.wait_for(anext(watching), 2)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watching), 0.05)
    assert heard == [NOT_SERVING, SERVING, NOT_SERVING, SERVING]


async def test_a_watcher_of_an_unknown_name_is_told_so_and_hears_more() -> None:
    """By the protocol a watch of an unknown name stays open: the name may come to be served."""
    watching = State().service.watch(question("nobody"), math.inf)
    assert status(await anext(watching)) == health.SERVICE_UNKNOWN
    await watching.aclose()  # type: ignore[attr-defined]


async def test_a_watch_ends_at_its_deadline() -> None:
    deadline = asyncio.get_running_loop().time() + 0.05
    answers = [answer async for answer in State().service.watch(question(""), deadline)]
    assert [status(answer) for answer in answers] == [NOT_SERVING]
