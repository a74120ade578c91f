"""What the tests of this room share: a place for secrets that a test controls, real Redis behind redis-py, a clock held still."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis.asyncio

from extauthz.credentials.keyring import Keyring, LocalKek
from extauthz.credentials.store import SecretRef
from extauthz.errors import Missing, Unavailable
from extauthz.secret import Secret

T = TypeVar("T")

REF = SecretRef("acme", "openai", "default", 1)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits; one that waits fails."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def keyring_of(*keys: bytes) -> Keyring:
    """Keys by their first byte are enough for a test: `keyring_of(b"a")`."""
    return Keyring([LocalKek(Secret(key.ljust(32, b"."))) for key in keys])


class ManualClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def unix_ms(self) -> int:
        return int(self.now * 1_000)


class RedisPy:
    """redis-py with the errors of this project, as the control plane has it; counts, and fails when it is told to.

    Args:
        fails_at: the number of the command, from 1, whose outcome is lost. `runs` says whether it was executed.
    """

    def __init__(self, client: "redis.asyncio.Redis", fails_at: int = 0, *, runs: bool = False) -> None:
        self._client = client
        self.commands: list[bytes | str | int] = []
        self._fails_at = fails_at
        self._runs = runs

    async def execute(self, *args: bytes | str | int) -> Any:
        self.commands.append(args[0])
        is_lost = len(self.commands) == self._fails_at
        if is_lost and not self._runs:
            raise Unavailable("not sent")
        try:
            reply = await self._client.execute_command(*args)  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise Unavailable("Redis did not answer") from error
        if is_lost:
            raise Unavailable("the reply was lost")
        return reply


class Shelf:
    """A CredentialSource with what a test puts on it.

    Attributes:
        holds: what `get` answers: a Secret is returned, an exception raised, nothing is Missing.
        gate: `get` waits for it.
    """

    def __init__(self, holds: dict[SecretRef, Secret | BaseException] | None = None) -> None:
        self.holds: dict[SecretRef, Secret | BaseException] = holds or {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[SecretRef] = []

    async def get(self, ref: SecretRef) -> Secret:
        self.asked.append(ref)
        await self.gate.wait()
        found = self.holds.get(ref, Missing("not on this shelf"))
        if isinstance(found, BaseException):
            raise found
        return found
