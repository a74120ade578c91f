"""What this worker knows of all providers' breakers: at most one poll old, read without waiting."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from extauthz import keyspace
from extauthz.breaker.states import CLOSED, state_of
from extauthz.errors import ExtauthzError
from extauthz.redisio.connection import Connection
from extauthz.redisio.pipeline import pack

POLL_INTERVAL_S: Final = 1.0
_TIME: Final = pack("TIME")


class BreakerPoller:
    """Reads every provider's breaker once a second. While Redis does not answer the last states stay in force.

    Args:
        connection: of this worker.
        providers: names, without duplicates; `watch` gives others.
        interval_s: from one poll to the next.

    Attributes:
        states: provider to OPEN or HALF_OPEN; those not in it are closed. Replaced as a whole, never changed. HOT.
        version: grows with every change of `states`, so that what was decided with another one can be told. HOT.
        polled_at: loop.time() of the last poll that Redis answered; 0.0 before.
    """

    __slots__ = ("_command", "_connection", "_interval_s", "_providers", "_task", "polled_at", "states", "version")

    def __init__(self, connection: Connection, providers: Iterable[str] = (), *, interval_s: float = POLL_INTERVAL_S) -> None:
        self._connection = connection
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self.states: dict[str, int] = {}
        self.version = 0
        self.polled_at = 0.0
        self.watch(providers)

    def watch(self, providers: Iterable[str]) -> None:
        """Poll these from now on: the gateway file has changed. What is known of those that stay is kept."""
        self._providers = tuple(providers)
        self._command = pack("MGET", *(keyspace.breaker(provider) for provider in self._providers)) if self._providers else b""
        self._put({provider: state for provider, state in self.states.items() if provider in self._providers})

    def start(self) -> None:
        """Begin to poll, at once and then every interval. Does not wait for Redis."""
        self._task = asyncio.get_running_loop().create_task(self._poll_for_ever(), name="breaker poller")

    async def close(self) -> None:
        """Stop polling; the last states stay."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def poll(self) -> None:
        """Read all breakers and Redis' clock in one write. Raises Unavailable or CommandFailed; then nothing has changed."""
        providers, command = self._providers, self._command
        if not providers:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._interval_s
        reading = self._connection.submit(command, deadline)
        clock = self._connection.submit(_TIME, deadline)
        values: list[bytes | None] = await reading
        seconds, micros = await clock
        if providers is not self._providers:
            return
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        states = {provider: state_of(value, now_ms) for provider, value in zip(providers, values, strict=True)}
        self._put({provider: state for provider, state in states.items() if state != CLOSED})
        self.polled_at = loop.time()

    def _put(self, states: dict[str, int]) -> None:
        if states != self.states:
            self.states = states
            self.version += 1

    async def _poll_for_ever(self) -> None:
        while True:
            # The connection logs why it is away; here the last states simply stay.
            with contextlib.suppress(ExtauthzError):
                await self.poll()
            await asyncio.sleep(self._interval_s)
