"""Seeded lives of the memory against an oracle with the whole history: what it answers is what somebody may still use."""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from extauthz.credentials.cache import Bounds, Credentials
from extauthz.credentials.errors import DoesNotOpen
from extauthz.credentials.store import SecretRef
from extauthz.errors import Missing, Unavailable
from extauthz.secret import Secret
from tests.credentials.places import ManualClock, Shelf

REFS = [
    SecretRef("acme", "openai", "default", 1),
    SecretRef("acme", "openai", "default", 2),
    SecretRef("other", "openai", "default", 1),
]
BOUNDS = Bounds(fresh_s=300, served_s=600, entries_max=2)


class Lives(RuleBasedStateMachine):
    """Time goes on, the store changes, falls silent and comes back, and tenants are forgotten, in any order.

    Attributes:
        answered: of each reference, when the store last gave its value and which; absent once it said something else.
        silent: when the store was last seen not to answer for a reference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.answered: dict[SecretRef, tuple[float, Secret]] = {}
        self.silent: dict[SecretRef, float] = {}
        self.refused: dict[SecretRef, float] = {}

    @initialize()
    def begin(self) -> None:
        self.shelf = Shelf(dict.fromkeys(REFS, Secret(b"one")))
        self.credentials = Credentials(self.shelf, self.clock, lambda *_: None, BOUNDS)

    def teardown(self) -> None:
        self.runner.run(self.credentials.close())
        self.runner.close()

    @rule(seconds=st.sampled_from([0.5, 1.0, 299.5, 300.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(says=st.sampled_from([Secret(b"one"), Unavailable("down")]))
    def everything(self, says: Secret | BaseException) -> None:
        self.shelf.holds = dict.fromkeys(REFS, says)

    @rule(
        ref=st.sampled_from(REFS),
        holds=st.sampled_from([Secret(b"two"), Missing("none"), DoesNotOpen("refused")]),
        seconds=st.sampled_from([0.0, 300.0]),
    )
    def change(self, ref: SecretRef, holds: Secret | BaseException, seconds: float) -> None:
        self.shelf.holds[ref] = holds
        self.clock.now += seconds
        self.fetch(ref, background=False)

    @rule()
    def forget(self) -> None:
        self.credentials.forget("acme")
        for ref in REFS[:2]:
            for history in (self.answered, self.silent, self.refused):
                history.pop(ref, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 299.5, 300.0]), ref=st.sampled_from(REFS), background=st.booleans())
    def fetch_later(self, seconds: float, ref: SecretRef, *, background: bool) -> None:
        self.clock.now += seconds
        self.fetch(ref, background=background)

    @rule(ref=st.sampled_from(REFS), background=st.booleans())
    def fetch(self, ref: SecretRef, *, background: bool) -> None:
        asked_before = len(self.shelf.asked)
        before = self.answered.get(ref) if ref in self.silent else None
        outcome = self.runner.run(self._fetched(ref, background=background))
        assert len(self.shelf.asked) <= asked_before + 1
        now = self.clock.now
        if len(self.shelf.asked) > asked_before:
            self._learn(ref, now)
        elif isinstance(outcome, Missing | DoesNotOpen):
            assert now < self.refused[ref] + 1, "a refusal was repeated for too long"
        if isinstance(outcome, Secret) and (ref not in self.answered or outcome != self.answered[ref][1]):
            # The store was silent when it was last asked. Nobody waits for whether it still is; what it says counts from then on.
            assert before is not None
            assert outcome == before[1]
            assert now - before[0] < 600
        elif isinstance(outcome, Secret):
            self._is_allowed(ref, outcome)
        elif isinstance(outcome, Unavailable) and not isinstance(outcome, DoesNotOpen):
            assert isinstance(self.shelf.holds.get(ref), Unavailable)

    async def _fetched(self, ref: SecretRef, *, background: bool) -> Secret | Exception | None:
        outcome: Secret | Exception | None = None
        try:
            if background:
                self.credentials.fetch_in_background(ref)
            else:
                outcome = await self.credentials.fetch(ref)
        except (Missing, Unavailable) as error:
            outcome = error
        for _ in range(5):
            await asyncio.sleep(0)
        return outcome

    def _learn(self, ref: SecretRef, now: float) -> None:
        """The oracle was there when the store was asked."""
        said = self.shelf.holds.get(ref, Missing(""))
        if isinstance(said, Secret):
            self.answered[ref] = (now, said)
            self.silent.pop(ref, None)
        elif isinstance(said, Missing | DoesNotOpen):
            self.answered.pop(ref, None)
            self.refused[ref] = now
        else:
            self.silent[ref] = now

    def _is_allowed(self, ref: SecretRef, found: Secret) -> None:
        """The last value the store gave, within its time; beyond five minutes only while the store was just seen to be silent."""
        answered_at, value = self.answered[ref]
        age = self.clock.now - answered_at
        assert found == value
        assert age < 600
        assert age < 300 or self.silent.get(ref, 0.0) >= answered_at

    @invariant()
    def memory_answers_only_what_is_allowed(self) -> None:
        if not hasattr(self, "credentials"):
            return
        assert len(self.credentials) <= 2
        for ref in REFS:
            found = self.credentials.in_memory(ref)
            assert (found is not None) == (self.credentials.fresh_until(ref) > self.clock.now)
            if found is not None:
                self._is_allowed(ref, found)
                age = self.clock.now - self.answered[ref][0]
                assert age < 300 or self.clock.now < self.silent[ref] + 1, "an outage is believed for a second at a time"


@pytest.mark.prove(23)
def test_no_life_of_the_memory_answers_what_nobody_may_use_any_more(proving: bool) -> None:
    """The row on the store of the failure table."""
    examples = 1_000 if proving else 60
    print(f"row 23, credential store: {examples} lives of 50 steps")
    run_state_machine_as_test(
        Lives,
        settings=settings(max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)),
    )
