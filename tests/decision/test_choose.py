"""Steps 4 and 5 in the whole decision: breakers, their probes, and what passes while Redis is gone."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from demo.redis_server import RedisServer
from extauthz import keyspace
from extauthz.admission.admit import Admission
from extauthz.breaker import commands
from extauthz.breaker.outcomes import record_outcome
from extauthz.breaker.states import HALF_OPEN, OPEN
from extauthz.clock import SystemClock
from extauthz.credentials.store import SecretRef
from extauthz.decision.check import UNCONFIRMED_S, Checker
from extauthz.decision.choose import SHORTENED_S
from extauthz.limits.local_share import LocalShare
from extauthz.secret import Secret
from tests.conftest import eventually_async
from tests.harness.deciding import Deciding, deciding
from tests.harness.gateways import gateway, limit, plan
from tests.harness.messages import Answer, check_request

MESSAGES = "/v1/messages"


@pytest.fixture
async def system(redis_url: str, tmp_path: Path) -> AsyncIterator[Deciding]:
    async with deciding(redis_url, tmp_path) as system:
        yield system


class Breakers:
    """An operator's hand on the breakers; this worker polls at once."""

    def __init__(self, system: Deciding) -> None:
        self._system = system
        self._execute = system.record.server.execute

    async def open(self, *providers: str) -> None:
        for provider in providers:
            await commands.open_by_hand(self._execute, provider)
        await self._system.core.breakers.poll()

    async def half_open(self, provider: str) -> None:
        """Opened for a millisecond, which is over."""
        await commands.open_by_hand(self._execute, provider, 1)

        async def is_over() -> bool:
            await self._system.core.breakers.poll()
            return self._system.core.breakers.states == {provider: HALF_OPEN}

        await eventually_async(is_over)

    async def close(self, *providers: str) -> None:
        for provider in providers:
            await commands.close_by_hand(self._execute, provider)
        await self._system.core.breakers.poll()

    async def is_probed(self, provider: str) -> bool:
        return bool(await self._execute("EXISTS", keyspace.breaker_probe(provider)))


def provider_of(answer: Answer) -> str:
    """The provider whose credential was injected; the refusal's code without one."""
    value = answer.request_headers.get("authorization") or answer.request_headers.get("x-api-key") or ""
    return value.rpartition("-")[2] if answer.is_allow else answer.refused_by


async def test_an_open_breaker_leads_to_the_next_provider_and_back(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    seen = [provider_of(await system.check(key.text))]
    await breakers.open("openai")
    assert system.core.breakers.states == {"openai": OPEN}
    seen.append(provider_of(await system.check(key.text)))
    await breakers.open("backup")
    answer = await system.check(key.text)
    seen.append(provider_of(answer))
    assert (answer.status, answer.response_headers["retry-after"]) == (503, "1")
    await breakers.close("openai", "backup")
    seen.append(provider_of(await system.check(key.text)))
    assert seen == ["openai", "backup", "no_provider", "openai"]


async def test_five_failures_open_and_what_was_remembered_is_forgotten(system: Deciding) -> None:
    key = await system.acme()
    for _ in range(3):
        assert provider_of(await system.check(key.text)) == "openai"
    for _ in range(5):
        await record_outcome(system.core.redis, "openai", success=False)
    await system.core.breakers.poll()
    assert provider_of(await system.check(key.text)) == "backup"


async def test_a_fallback_whose_breaker_is_open_is_in_no_chain(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)

    async def chain() -> str:
        return (await system.check(key.text, chains=True)).request_headers["x-extauthz-chain"]

    async def is_whole() -> bool:
        return await chain() == "chain:openai+backup"

    await eventually_async(is_whole)
    await breakers.open("backup")
    assert await chain() == "chain:openai"
    await breakers.half_open("backup")
    assert await chain() == "chain:openai"
    assert not await breakers.is_probed("backup")
    await breakers.close("backup")
    assert await chain() == "chain:openai+backup"


async def test_one_request_probes_a_half_open_breaker(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    await breakers.half_open("openai")
    answers = await asyncio.gather(*(system.check(key.text) for _ in range(20)))
    assert sorted(provider_of(answer) for answer in answers) == ["backup"] * 19 + ["openai"]
    assert await breakers.is_probed("openai")
    await record_outcome(system.core.redis, "openai", success=True)
    await system.core.breakers.poll()
    assert provider_of(await system.check(key.text)) == "openai"


async def test_without_another_provider_only_the_probe_passes(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    await breakers.half_open("anthropic")
    answers = await asyncio.gather(*(system.check(key.text, path=MESSAGES) for _ in range(5)))
    assert sorted(provider_of(answer) for answer in answers) == ["anthropic"] + ["no_provider"] * 4


async def test_a_probe_is_not_remembered_for_the_next_request(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    await breakers.half_open("anthropic")
    seen = [provider_of(await system.check(key.text, path=MESSAGES)) for _ in range(3)]
    assert seen == ["anthropic", "no_provider", "no_provider"]


async def given_back(breakers: Breakers, provider: str) -> None:
    async def is_free() -> bool:
        return not await breakers.is_probed(provider)

    await eventually_async(is_free)


async def test_a_probe_refused_by_a_limit_is_given_back(system: Deciding) -> None:
    key, breakers = await system.acme("one"), Breakers(system)
    await system.record.tenant("other", "none")
    await system.record.secret("other", "anthropic", "credential-of-other-for-anthropic")
    other = await system.record.key("other", ("chat",))
    assert (await system.check(key.text)).is_allow
    await breakers.half_open("anthropic")
    assert (await system.check(key.text, path=MESSAGES)).status == 429
    await given_back(breakers, "anthropic")
    assert provider_of(await system.check(other.text, path=MESSAGES)) == "anthropic"


async def test_a_probe_refused_by_a_changed_document_is_given_back_and_taken_again(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    assert (await system.check(key.text, path=MESSAGES)).is_allow
    await breakers.half_open("anthropic")
    await system.record.change("acme", is_active=False)
    answer = await system.check(key.text, path=MESSAGES)
    assert (answer.status, answer.refused_by) == (403, "tenant_suspended")
    await given_back(breakers, "anthropic")


async def test_a_probe_whose_credential_does_not_open_is_given_back(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    await system.record.server.execute("SET", keyspace.secret("acme", "anthropic", "default", 1), b"no envelope")
    await breakers.half_open("anthropic")
    answer = await system.check(key.text, path=MESSAGES)
    assert (answer.status, answer.refused_by) == (503, "unavailable")
    await given_back(breakers, "anthropic")


async def test_a_probe_whose_credential_comes_too_late_is_given_back(system: Deciding) -> None:
    """The request's own deadline is over by then, and is not the deadline of giving back."""
    key, breakers, source = await system.acme(), Breakers(system), system.core.credentials._source
    loop, fetched = asyncio.get_running_loop(), asyncio.Event()

    class Slow:
        async def get(self, ref: SecretRef) -> Secret:
            await fetched.wait()
            return await source.get(ref)

    system.core.credentials._source = Slow()
    await breakers.half_open("anthropic")
    deadline = loop.time() + 0.1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await system.core.check(check_request(key.text, path=MESSAGES), deadline)
    fetched.set()
    await given_back(breakers, "anthropic")
    assert provider_of(await system.check(key.text, path=MESSAGES)) == "anthropic"


async def test_a_probe_of_a_tenant_with_too_many_limits_is_given_back(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    limits = tuple((f"limit-{number}", 1, 60_000) for number in range(33))
    await system.record.change("acme", limits=limits)
    await breakers.half_open("anthropic")
    answer = await system.check(key.text, path=MESSAGES)
    assert (answer.status, answer.refused_by) == (503, "plan_unusable")
    await given_back(breakers, "anthropic")


async def test_a_tenants_own_breaker_shortens_its_chain_and_nobody_elses(system: Deciding) -> None:
    key = await system.acme("free")
    await system.record.tenant("other", "none")
    await system.record.secret("other", "openai", "credential-of-other-for-openai")
    other = await system.record.key("other", ("chat",))
    execute = system.record.server.execute
    for _ in range(2):  # chosen, then remembered
        assert provider_of(await system.check(key.text)) == "openai"
    clock = await execute("TIME")
    until = int(clock[0]) * 1000 + 5_000
    await execute("SET", keyspace.tenant_breaker("acme", "openai"), until)
    for _ in range(2):
        assert provider_of(await system.check(key.text)) == "backup"
        assert provider_of(await system.check(other.text)) == "openai"
    await execute("SET", keyspace.tenant_breaker("acme", "backup"), until)
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (503, "no_provider")
    await execute("DEL", keyspace.tenant_breaker("acme", "openai"))
    answer = await system.check(key.text)
    assert provider_of(answer) == "openai"
    assert answer.response_headers["x-ratelimit-remaining"] == "95", "what the breakers refused was not counted"


async def test_breakers_stay_as_they_were_while_redis_does_not_answer(system: Deciding) -> None:
    breakers = Breakers(system)
    await breakers.open("openai")
    version = system.core.breakers.version
    await system.core.redis.close()
    await asyncio.gather(system.core.breakers.poll(), return_exceptions=True)
    assert (system.core.breakers.states, system.core.breakers.version) == ({"openai": OPEN}, version)


# Redis gone: the plan decides.


class Gone:
    """A decision whose Redis can be stopped, and whose clock can be put forward."""

    def __init__(self, system: Deciding, server: RedisServer) -> None:
        self.system = system
        self.server = server
        self.later_s = 0.0
        core, loop = system.core, asyncio.get_running_loop()
        policy = core.checker.policy
        assert policy is not None
        checker = Checker(
            identities=core.identities,
            chooser=core.checker._chooser,
            breakers=core.breakers,
            probes=core.probes,
            admission=Admission(core.redis),
            local_share=LocalShare(),
            now=lambda: loop.time() + self.later_s,
            unix_ms=SystemClock().unix_ms,
        )
        checker.install(policy)
        core.check._checker = core.checker = checker

    async def stop(self) -> None:
        self.server.stop()

        async def is_gone() -> bool:
            return not self.system.core.redis.is_connected

        await eventually_async(is_gone)

    async def statuses(self, key: str, number: int) -> list[int]:
        return [(await self.system.check(key)).status for _ in range(number)]


@pytest.fixture
async def gone(tmp_path: Path) -> AsyncIterator[Gone]:
    server = RedisServer(tmp_path / "redis")
    plans = {
        "free": plan("free", limit("requests", 10)),
        "half": plan("half", limit("requests", 10), share=0.5, sidecars=1),
        "third-of-two": plan("third-of-two", limit("requests", 10), limit("key", 4, "key"), share=0.66, sidecars=2),
        "unlimited": plan("unlimited", share=1.0, sidecars=1),
    }
    try:
        async with deciding(server.url, tmp_path, dataclasses.replace(gateway(), plans=plans)) as system:
            yield Gone(system, server)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("plan_name", "expected"),
    [
        ("free", [503] * 8),
        ("half", [200] * 5 + [429] * 3),
        ("third-of-two", [200] * 1 + [429] * 7),  # floor(0.66 x 4 / 2)
        ("unlimited", [503] * 8),  # without a limit there is no share of it
    ],
)
async def test_a_plan_decides_what_passes_without_redis(gone: Gone, plan_name: str, expected: list[int]) -> None:
    key = await gone.system.acme("free")
    await gone.system.record.change("acme", plan=plan_name)
    assert await gone.statuses(key.text, 2) == [200, 200]
    await gone.stop()
    assert await gone.statuses(key.text, 8) == expected


async def test_what_the_local_share_says_is_its_own_numbers(gone: Gone) -> None:
    key = await gone.system.acme("half")
    assert (await gone.system.check(key.text)).is_allow
    await gone.stop()
    answers = [await gone.system.check(key.text) for _ in range(6)]
    assert [answer.response_headers.get("x-ratelimit-remaining") for answer in answers] == ["4", "3", "2", "1", "0", "0"]
    refused = answers[-1]
    assert (refused.refused_by, refused.response_headers["retry-after"]) == ("rate_limit_exceeded", "1")


@pytest.mark.parametrize(("later_s", "status"), [(UNCONFIRMED_S - 1, 200), (UNCONFIRMED_S + 0.001, 503)])
async def test_a_local_share_ends_thirty_seconds_after_redis_last_spoke(gone: Gone, later_s: float, status: int) -> None:
    key = await gone.system.acme("half")
    assert (await gone.system.check(key.text)).is_allow
    await gone.stop()
    assert await gone.statuses(key.text, 1) == [200]
    gone.later_s = later_s
    assert await gone.statuses(key.text, 1) == [status]


async def test_a_key_that_is_not_in_memory_is_unavailable_and_not_unknown(gone: Gone) -> None:
    key = await gone.system.acme("half")
    await gone.stop()
    answer = await gone.system.check(key.text)
    assert (answer.status, answer.refused_by) == (503, "unavailable")
    assert int(answer.response_headers["retry-after"]) >= 1


async def test_a_refusal_that_memory_alone_supports_is_unavailable(gone: Gone) -> None:
    """Whoever was suspended may have been resumed: nobody can say so now."""
    key = await gone.system.acme("half")
    await gone.system.record.change("acme", is_active=False)
    assert await gone.statuses(key.text, 2) == [403, 403]
    await gone.stop()
    assert await gone.statuses(key.text, 2) == [503, 503]


async def test_a_redis_that_comes_back_empty_refuses_and_no_share_stands_in(gone: Gone) -> None:
    key = await gone.system.acme("half")
    assert (await gone.system.check(key.text)).is_allow
    await gone.stop()
    assert await gone.statuses(key.text, 3) == [200] * 3
    gone.server.restart()

    async def is_back() -> bool:
        return gone.system.core.redis.is_connected

    await eventually_async(is_back)
    # What was only in its memory is gone with it: an emptied Redis refuses until the record is published again.
    assert await gone.statuses(key.text, 2) == [503, 503]


async def test_a_tenant_whose_providers_are_down_gets_another_at_once(system: Deciding) -> None:
    """Nothing is admitted while every provider is down, so only a confirmation reads a changed document."""
    await system.record.tenant("acme", "none")
    await system.record.secret("acme", "openai", "credential-of-acme-for-openai")
    key = await system.record.key("acme", ("chat",))
    assert provider_of(await system.check(key.text)) == "openai"
    await Breakers(system).open("openai")
    assert [provider_of(await system.check(key.text)) for _ in range(2)] == ["no_provider"] * 2
    await system.record.secret("acme", "backup", "credential-of-acme-for-backup")
    assert provider_of(await system.check(key.text)) == "backup"
    await Breakers(system).open("openai", "backup")
    await system.record.revoke(key.key_id)
    assert (await system.check(key.text)).refused_by == "key_revoked"


async def test_a_probe_without_an_outcome_is_made_again_by_a_key_that_went_to_the_fallback(system: Deciding) -> None:
    key, breakers = await system.acme(), Breakers(system)
    await breakers.half_open("openai")
    assert [provider_of(await system.check(key.text)) for _ in range(3)] == ["openai", "backup", "backup"]
    await system.record.server.execute("DEL", keyspace.breaker_probe("openai"))  # the end of its lease

    async def probes() -> bool:
        return provider_of(await system.check(key.text)) == "openai"

    await eventually_async(probes, 2 * SHORTENED_S)


@pytest.mark.parametrize("learned_by", ["admission", "confirmation"])
async def test_no_local_share_rests_on_documents_known_to_be_out_of_force(gone: Gone, learned_by: str) -> None:
    """The key was revoked and this worker was told so, but could not read the documents before Redis went."""
    record = gone.system.record
    key = await gone.system.acme("half")
    assert (await gone.system.check(key.text)).is_allow
    await record.revoke(key.key_id)
    await record.server.execute("SET", keyspace.tenant_document("acme"), b"of a newer version")
    headers = {"x-api-key": key.text, **({"x-tenant-id": "other"} if learned_by == "confirmation" else {})}
    assert (await gone.system.check(headers=headers)).refused_by == "unavailable"
    await gone.stop()
    assert await gone.statuses(key.text, 2) == [503, 503]
