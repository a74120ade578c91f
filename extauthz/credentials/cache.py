"""Opened secrets in memory: the credentials of a decision. It adds to its source time, bounds and one fetch for many callers.

    memory has it, opened less than 5 min ago       answered, without asking anybody
    memory has it, opened less than 10 min ago      the source is asked; only when it does not answer, what memory has is served
    the same, and the source did not answer before  what memory has is served at once, and the source is asked for those who follow
    memory has none, or an older one                the source is asked, and its answer is the answer
    the source says "not here", or "does not open"  what memory had is dropped

A reference names one version, and a version never changes: a new value is never hidden by an old one, it has another name.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from extauthz.clock import Clock
from extauthz.credentials.errors import DoesNotOpen
from extauthz.credentials.store import CredentialSource, SecretRef
from extauthz.errors import ExtauthzError, Missing, Unavailable
from extauthz.secret import Secret

#: Told once for every fetch of a secret that is there and does not open: for the log and the audit log. Must not raise.
Alarm: TypeAlias = Callable[[SecretRef, DoesNotOpen], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much. Times in seconds. Raises ValueError for more than what is promised.

    Attributes:
        fresh_s: how long an opened secret is used without asking again; at most 300.
        served_s: how long after it was opened it may still be served while the source does not answer; at most 600, and not less
            than `fresh_s`.
        retry_s: while the source does not answer, how often it is asked.
        refused_s: how long "not here" and "does not open" are remembered.
        fetch_s: how long one fetch may take.
        entries_max: secrets in memory; the one fetched longest ago makes room.
        bytes_max: their values together; 8 KiB x 50,000 would be 400 MB.
        fetches_max: fetches under way; one more is Unavailable at once.
    """

    fresh_s: float = 300.0
    served_s: float = 600.0
    retry_s: float = 1.0
    refused_s: float = 1.0
    fetch_s: float = 5.0
    entries_max: int = 50_000
    bytes_max: int = 67_108_864
    fetches_max: int = 4_096

    def __post_init__(self) -> None:
        if not 0 < self.fresh_s <= 300 or not self.fresh_s <= self.served_s <= 600:
            raise ValueError("a credential is fresh for 300 s at most, and served for 600 s at most")


class _Opened(msgspec.Struct, gc=False):
    """A secret in memory, as an object the garbage collector does not visit.

    50,000 of them as plain objects, with their Secrets and references, made a full collection 17 ms longer. This way it is as
    short as without them, and an answer from memory takes 0.1 us more. Hence bytes and no Secret, and a `repr` without them.

    Attributes:
        is_doubtful: the source did not answer when it was asked again.
    """

    value: bytes
    fresh_until: float
    served_until: float
    is_doubtful: bool = False

    def __repr__(self) -> str:
        return f"_Opened(fresh_until={self.fresh_until}, served_until={self.served_until}, is_doubtful={self.is_doubtful})"


class Credentials:
    """The credentials of a worker. For one event loop.

    Args:
        source: the places a secret may be in.
        clock: its `monotonic` is the clock of the event loop.
        alarm: see Alarm.
    """

    def __init__(self, source: CredentialSource, clock: Clock, alarm: Alarm, bounds: Bounds | None = None) -> None:
        self._source = source
        self._now = clock.monotonic
        self._alarm = alarm
        self._bounds = bounds or Bounds()
        #: In the order in which they were fetched. Keys are plain tuples, equal to their references, for the collector's sake.
        self._opened: dict[tuple[str, str, str, int], _Opened] = {}
        self._opened_bytes = 0
        #: Until when a refusal is repeated without asking, its kind and text, in the order in which they came. No exceptions: one
        #: that is kept and raised again keeps the frames of who caught it.
        self._refused: dict[SecretRef, tuple[float, type[Missing | DoesNotOpen], str]] = {}
        #: The fetch whose answer will be remembered. `forget` takes it out; the task itself goes on for those who wait.
        self._under_way: dict[SecretRef, asyncio.Task[Secret | ExtauthzError]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def in_memory(self, ref: SecretRef) -> Secret | None:
        """The secret, when it need not be asked for now; None says nothing about whether there is one. Hot: 0.25 us.

        That is for `fresh_s`, and for `retry_s` at a time, up to `served_s`, while the source was asked and did not answer.
        """
        opened = self._opened.get(ref)
        if opened is not None and opened.fresh_until > self._now():
            return Secret(opened.value)
        return None

    def fresh_until(self, ref: SecretRef) -> float:
        """The time of the loop's clock until which `in_memory` answers; 0.0 when it does not know the secret."""
        opened = self._opened.get(ref)
        return 0.0 if opened is None else opened.fresh_until

    async def fetch(self, ref: SecretRef) -> Secret:
        """The secret, from memory or from the source. All who ask at one time wait for one fetch, which none of them can cancel.

        Raises Missing (no place has it), DoesNotOpen (it is there and cannot be used), Unavailable. None of them is an allow.
        """
        if (found := self.in_memory(ref)) is not None:
            return found
        refusal = self._refused.get(ref)
        if refusal is not None and refusal[0] > self._now():
            raise refusal[1](refusal[2])
        task = self._begin(ref)
        opened = self._opened.get(ref)
        if opened is not None and opened.is_doubtful and opened.served_until > self._now():
            return Secret(opened.value)  # The source did not answer last time: nobody waits for its next silence.
        if task is None:
            raise Unavailable(f"{self._bounds.fetches_max} secrets are being fetched already")
        outcome = await asyncio.shield(task)
        if isinstance(outcome, ExtauthzError):
            raise outcome.with_traceback(None)
        return outcome

    def fetch_in_background(self, ref: SecretRef) -> None:
        """Have it in memory for the next request, if it can be had. Nothing is raised, and nothing begun that is under way."""
        refusal = self._refused.get(ref)
        if self.in_memory(ref) is None and (refusal is None or refusal[0] <= self._now()):
            self._begin(ref)

    def forget(self, tenant_id: str) -> None:
        """Drop all of a tenant (the platform's when empty), and remember nothing of what is being fetched for it.

        Takes time with the entries of all tenants: 1 ms for 50,000.
        """
        for key in [key for key in self._opened if key[0] == tenant_id]:
            self._drop(key)
        for ref in [ref for ref in self._refused if ref.tenant_id == tenant_id]:
            del self._refused[ref]
        for ref in [ref for ref in self._under_way if ref.tenant_id == tenant_id]:
            del self._under_way[ref]

    async def close(self) -> None:
        """End the fetches under way and drop everything. Who still waits is cancelled."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._opened.clear()
        self._opened_bytes = 0

    def __len__(self) -> int:
        """How many secrets are in memory, fresh or not."""
        return len(self._opened)

    def forget_expired(self) -> None:
        """Drop what may not even be served while the source is silent. The oldest come first, so it ends at the first young one."""
        now = self._now()
        while self._opened:
            key, opened = next(iter(self._opened.items()))
            if opened.served_until > now:
                return
            self._drop(key)

    def _begin(self, ref: SecretRef) -> asyncio.Task[Secret | ExtauthzError] | None:
        """The fetch of this secret that is under way, or a new one; None at the bound."""
        task = self._under_way.get(ref)
        if task is None and len(self._tasks) < self._bounds.fetches_max:
            task = asyncio.get_running_loop().create_task(self._fetch(ref), name="fetch a credential")
            self._under_way[ref] = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task

    async def _fetch(self, ref: SecretRef) -> Secret | ExtauthzError:
        """Ask the source once and remember what it says, unless `forget` came between. An answer of the source is returned, never
        raised: a task nobody waits for any more may fail in silence. What is no answer is a bug, and is raised.
        """
        asked_at = self._now()
        outcome: Secret | ExtauthzError
        try:
            async with asyncio.timeout(self._bounds.fetch_s):
                outcome = await self._source.get(ref)
        except TimeoutError:
            outcome = Unavailable(f"a secret was not fetched within {self._bounds.fetch_s} s")
        except (Missing, Unavailable) as error:
            outcome = error
        except ExtauthzError as error:
            outcome = DoesNotOpen("a secret is stored in a form that cannot be read")
            outcome.__cause__ = error
        finally:
            # Whoever stands here now is this fetch, or nobody (forgotten), or a newer one, which is not this one's to end.
            is_wanted = self._under_way.get(ref) is asyncio.current_task()
            if is_wanted:
                del self._under_way[ref]
        if isinstance(outcome, ExtauthzError):
            _without_frames(outcome)
        if isinstance(outcome, DoesNotOpen):
            self._alarm(ref, outcome)
        return self._remembered(ref, asked_at, outcome) if is_wanted else outcome

    def _remembered(self, ref: SecretRef, asked_at: float, outcome: Secret | ExtauthzError) -> Secret | ExtauthzError:
        """Put an answer into memory; while the source does not answer, this is what memory has. Counted from when it was asked."""
        bounds = self._bounds
        if isinstance(outcome, Secret):
            self._keep(ref, _Opened(outcome.reveal(), asked_at + bounds.fresh_s, asked_at + bounds.served_s))
            return outcome
        if isinstance(outcome, Missing | DoesNotOpen):
            self._drop(ref)
            self._refused.pop(ref, None)
            while len(self._refused) >= bounds.entries_max:
                del self._refused[next(iter(self._refused))]
            kind = Missing if isinstance(outcome, Missing) else DoesNotOpen
            self._refused[ref] = (self._now() + bounds.refused_s, kind, str(outcome))
            return outcome
        opened = self._opened.get(ref)
        now = self._now()
        if opened is None or opened.served_until <= now:
            return outcome
        opened.is_doubtful = True
        opened.fresh_until = min(now + bounds.retry_s, opened.served_until)
        return Secret(opened.value)

    def _keep(self, ref: SecretRef, opened: _Opened) -> None:
        """The newest at the end, the oldest out until the bounds hold: it is also the next to be of no use."""
        self._drop(ref)
        self._refused.pop(ref, None)
        self._opened[ref[:]] = opened
        self._opened_bytes += len(opened.value)
        while len(self._opened) > self._bounds.entries_max or self._opened_bytes > self._bounds.bytes_max:
            self._drop(next(iter(self._opened)))

    def _drop(self, key: tuple[str, str, str, int]) -> None:
        opened = self._opened.pop(key, None)
        if opened is not None:
            self._opened_bytes -= len(opened.value)


def _without_frames(error: BaseException | None) -> None:
    """An error that is kept must not keep the frames it passed through: their variables held keys."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
