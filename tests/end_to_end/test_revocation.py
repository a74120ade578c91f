"""Promise 33: what an operator's command changed is in force on every sidecar when the command returns, though each caches.

Every request that is judged here began after the command had returned, while a load with the same key goes on.
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from tests.conftest import eventually_async
from tests.harness.messages import Answer
from tests.harness.record import MadeKey, Record, opened_record
from tests.harness.sidecar import Sidecar, environment_of, serving

WORKERS = 4
#: Requests that keep coming while an operator acts, on each worker.
LOAD = 4
#: Requests after the command, with the key that was revoked.
WHOLE, SLICE = 10_000, 400
HOUR_MS = 3_600_000


class Fleet(NamedTuple):
    """Four workers that all have the documents of one key in memory, under load."""

    sidecar: Sidecar
    record: Record
    redis_url: str
    key: MadeKey
    load: Counter[int]

    async def everywhere(self, count: int = WORKERS * 4) -> list[Answer]:
        """Requests that begin now, dealt out to all workers, 64 at a time."""
        answers: list[Answer] = []
        for begin in range(0, count, 64):
            some = range(begin, min(begin + 64, count))
            answers += await asyncio.gather(*(self.sidecar.check(self.key.text, number % WORKERS) for number in some))
        return answers

    async def refusals(self, count: int = WORKERS * 4) -> Counter[str]:
        """How often which code refused; what was allowed is under the empty code."""
        return Counter("" if answer.is_allow else answer.refused_by for answer in await self.everywhere(count))

    async def command(self, *arguments: str, stdin: bytes = b"") -> None:
        """The real command, as an operator gives it."""
        done = await asyncio.to_thread(
            subprocess.run,
            (sys.executable, "-m", "extauthz", *arguments),
            env={**os.environ, **environment_of(self.redis_url, self.sidecar.gateway.parent)},
            input=stdin,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr


@asynccontextmanager
async def fleet(redis_url: str, transport: str = "fast") -> AsyncIterator[Fleet]:
    async with (
        serving(redis_url, "--transport", transport, workers=WORKERS) as sidecar,
        opened_record(redis_url, sidecar.gateway.parent) as record,
    ):
        await record.tenant("acme", "open")
        await record.secret("acme", "openai", "first")
        whole = Fleet(sidecar, record, redis_url, await record.key("acme", ("chat",)), Counter())
        assert await whole.refusals() == {"": WORKERS * 4}
        is_over = asyncio.Event()

        async def keep_asking(worker: int) -> None:
            while not is_over.is_set():
                whole.load[(await sidecar.check(whole.key.text, worker)).status] += 1

        async def is_under_load() -> bool:
            return whole.load[200] >= 100

        load = [asyncio.ensure_future(keep_asking(worker)) for worker in range(WORKERS) for _ in range(LOAD)]
        try:
            await eventually_async(is_under_load)
            yield whole
        finally:
            is_over.set()
            await asyncio.gather(*load)


@pytest.mark.prove(33)
@pytest.mark.parametrize("transport", ["fast", "grpcio"])
async def test_no_request_passes_after_the_revoke_returned(transport: str, redis_url: str, proving: bool) -> None:
    count = WHOLE if proving else SLICE
    async with fleet(redis_url, transport) as running:
        await running.record.revoke(running.key.key_id)
        refusals = await running.refusals(count)
        print(f"row 33, {transport}: {refusals['']} of {count} passed after the revoke returned, {running.load[200]} before")
        assert refusals == {"key_revoked": count}


@pytest.mark.prove(33)
async def test_no_request_passes_after_the_command_returned(redis_url: str, proving: bool) -> None:
    count = WHOLE if proving else SLICE
    async with fleet(redis_url) as running:
        await running.command("key", "revoke", running.key.key_id)
        assert await running.refusals(count) == {"key_revoked": count}


async def test_every_change_of_a_tenant_acts_on_the_next_request_and_so_does_its_reversal(redis_url: str) -> None:
    """Suspended and resumed, a limit lowered and raised, a plan, a credential: all over the cached documents of all workers."""
    whole = WORKERS * 4
    async with fleet(redis_url) as running:
        record = running.record
        for changes, code in (
            ({"is_active": False}, "tenant_suspended"),
            ({"limits": (("requests", 1, HOUR_MS),)}, "rate_limit_exceeded"),
            ({"plan": "no-such-plan"}, "plan_unusable"),
            ({"secrets": ()}, "no_credential"),
        ):
            before = {name: getattr(await record.read("acme"), name) for name in changes}
            await record.change("acme", **changes)
            assert (changes, await running.refusals()) == (changes, {code: whole})
            await record.change("acme", **before)
            assert (before, await running.refusals()) == (before, {"": whole})


async def test_the_commands_act_on_the_next_request(redis_url: str) -> None:
    whole = WORKERS * 4
    async with fleet(redis_url) as running:
        await running.command("tenant", "suspend", "acme")
        assert await running.refusals() == {"tenant_suspended": whole}
        await running.command("tenant", "resume", "acme")
        assert await running.refusals() == {"": whole}
        await running.command("secret", "set", "acme", "openai", stdin=b"second")
        sent = {answer.request_headers["authorization"] for answer in await running.everywhere()}
        assert sent == {"Bearer second"}
        await running.command("tenant", "set", "acme", "--limit", "requests=1/hour")
        assert await running.refusals() == {"rate_limit_exceeded": whole}


async def test_a_limit_that_was_lowered_counts_what_passed_before(redis_url: str) -> None:
    """Lowered to a little more than what was used: just the rest passes, over all workers together."""
    async with (
        serving(redis_url, workers=WORKERS) as sidecar,
        opened_record(redis_url, sidecar.gateway.parent) as record,
    ):
        await record.tenant("acme", "open")
        await record.secret("acme", "openai", "first")
        quiet = Fleet(sidecar, record, redis_url, await record.key("acme", ("chat",)), Counter())
        assert await quiet.refusals(40) == {"": 40}
        await record.change("acme", limits=(("requests", 45, HOUR_MS),))
        assert await quiet.refusals(40) == {"": 5, "rate_limit_exceeded": 35}
