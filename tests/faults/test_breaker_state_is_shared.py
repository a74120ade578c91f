"""The accident: each process has its own breaker, so of ten sidecars nine go on sending requests to a dead provider."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: A process with a breaker. It reads words from its standard input, `fail` or `state`, and answers each with a line.
PROGRAM = """
import asyncio, sys

class Shared:
    async def start(self):
        from extauthz.breaker.poller import BreakerPoller
        from extauthz.breaker.script import SCRIPTS
        from extauthz.redisio.connection import Connection
        from extauthz.redisio.url import RedisUrl
        self.connection = Connection(RedisUrl.parse(sys.argv[2]), SCRIPTS)
        await self.connection.start()
        self.poller = BreakerPoller(self.connection, ["openai"])
    async def fail(self):
        from extauthz.breaker.outcomes import record_outcome
        await record_outcome(self.connection, "openai", success=False)
    async def state(self):
        await self.poller.poll()
        return self.poller.states.get("openai", 0)

class LocalToTheProcess:
    failures = 0
    async def start(self):
        pass
    async def fail(self):
        self.failures += 1
    async def state(self):
        return int(self.failures >= 5)

async def main():
    breaker = {"shared": Shared, "local": LocalToTheProcess}[sys.argv[1]]()
    await breaker.start()
    for line in sys.stdin:
        print(await getattr(breaker, line.strip())(), flush=True)

asyncio.run(main())
"""


class Member:
    """One process of the fleet."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def ask(self, word: str) -> str:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(word + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()


@contextmanager
def member(kind: str, url: str) -> Iterator[Member]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Member(child)
        finally:
            child.kill()


def states_after_five_failures_in_two_processes(kind: str, url: str) -> tuple[list[str], list[str]]:
    """What each process says before and after; the failures are spread over both."""
    with member(kind, url) as one, member(kind, url) as other:
        before = [one.ask("state"), other.ask("state")]
        for each in (one, one, one, other, other):
            each.ask("fail")
        return before, [one.ask("state"), other.ask("state")]


def test_failures_seen_by_two_processes_open_one_breaker_that_both_obey(redis_url: str) -> None:
    assert states_after_five_failures_in_two_processes("shared", redis_url) == (["0", "0"], ["1", "1"])


def test_the_checker_sees_a_breaker_that_is_local_to_a_process(redis_url: str) -> None:
    with pytest.raises(AssertionError):
        assert states_after_five_failures_in_two_processes("local", redis_url) == (["0", "0"], ["1", "1"])
