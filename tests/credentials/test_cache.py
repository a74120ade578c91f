"""Opened secrets in memory: how long they are used, who waits for a fetch, and what an outage may still serve."""

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest
import redis.asyncio

from extauthz import keyspace
from extauthz.clock import SystemClock
from extauthz.credentials.cache import Bounds, Credentials
from extauthz.credentials.errors import DoesNotOpen
from extauthz.credentials.store import SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.errors import ExtauthzError, Malformed, Missing, Unavailable
from extauthz.secret import Secret
from tests.credentials.places import REF, ManualClock, RedisPy, Shelf, keyring_of

VALUE = Secret(b"sk-canary")


class Bench:
    """A memory over one shelf and a clock held still, and every alarm it gave."""

    def __init__(self, bounds: Bounds | None = None, **holds: Secret | BaseException) -> None:
        self.clock = ManualClock()
        self.shelf = Shelf({REF: VALUE})
        self.alarms: list[tuple[SecretRef, str]] = []
        self.credentials = Credentials(self.shelf, self.clock, lambda ref, error: self.alarms.append((ref, str(error))), bounds)

    def after(self, seconds: float) -> None:
        self.clock.now += seconds


async def _settled() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_secret_is_asked_for_once_and_then_in_memory_for_five_minutes() -> None:
    bench = Bench()
    assert bench.credentials.in_memory(REF) is None
    assert bench.credentials.fresh_until(REF) == 0.0
    assert await bench.credentials.fetch(REF) == VALUE
    assert bench.credentials.fresh_until(REF) == bench.clock.now + 300
    bench.after(299.99)
    assert bench.credentials.in_memory(REF) == VALUE
    assert await bench.credentials.fetch(REF) == VALUE
    assert bench.shelf.asked == [REF]
    bench.after(0.01)
    assert bench.credentials.in_memory(REF) is None
    assert await bench.credentials.fetch(REF) == VALUE
    assert bench.shelf.asked == [REF, REF]


async def test_the_five_minutes_begin_when_the_source_is_asked() -> None:
    bench = Bench()
    bench.shelf.gate.clear()
    asked_at = bench.clock.now
    fetch = asyncio.create_task(bench.credentials.fetch(REF))
    await _settled()
    bench.after(3)
    bench.shelf.gate.set()
    await fetch
    assert bench.credentials.fresh_until(REF) == asked_at + 300


async def test_every_field_of_a_reference_is_another_secret() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    others = (REF._replace(tenant_id=""), REF._replace(provider="x"), REF._replace(name="x"), REF._replace(version=2))
    for other in others:
        assert bench.credentials.in_memory(other) is None
        with pytest.raises(Missing):
            await bench.credentials.fetch(other)


async def test_a_thousand_who_ask_at_once_are_one_command_at_redis(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        keyring = keyring_of(b"a")
        ref = await RedisStore(RedisPy(client), keyring).put("acme", "openai", "default", VALUE)
        counting = RedisPy(client)
        credentials = Credentials(RedisStore(counting, keyring), SystemClock(), lambda *_: None)
        assert await asyncio.gather(*(credentials.fetch(ref) for _ in range(1_000))) == [VALUE] * 1_000
        assert counting.commands == ["MGET"]


async def test_a_thousand_who_ask_for_what_is_not_there_are_one_question() -> None:
    bench = Bench()
    bench.shelf.holds.clear()
    outcomes = await asyncio.gather(*(bench.credentials.fetch(REF) for _ in range(1_000)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Missing] * 1_000
    assert bench.shelf.asked == [REF]


async def test_a_fetch_outlives_all_who_wait_for_it() -> None:
    bench = Bench()
    bench.shelf.gate.clear()
    waiting = [asyncio.create_task(bench.credentials.fetch(REF)) for _ in range(20)]
    await _settled()
    for task in waiting:
        task.cancel()
    assert [type(outcome) for outcome in await asyncio.gather(*waiting, return_exceptions=True)] == [asyncio.CancelledError] * 20
    bench.shelf.gate.set()
    await _settled()
    assert bench.credentials.in_memory(REF) == VALUE
    assert bench.shelf.asked == [REF]


async def test_a_cancelled_caller_cancels_nobody_else() -> None:
    bench = Bench()
    bench.shelf.gate.clear()
    first, second = (asyncio.create_task(bench.credentials.fetch(REF)) for _ in range(2))
    await _settled()
    first.cancel()
    await _settled()
    bench.shelf.gate.set()
    assert await second == VALUE


@pytest.mark.parametrize("error", [Unavailable("down"), Missing("none"), DoesNotOpen("refused"), Malformed("cut off")], ids=repr)
async def test_a_failure_nobody_waits_for_any_more_is_silent(error: ExtauthzError) -> None:
    """The test fails by a warning of asyncio when a task's error is never looked at."""
    bench = Bench()
    bench.shelf.holds[REF] = error
    bench.shelf.gate.clear()
    waiting = asyncio.create_task(bench.credentials.fetch(REF))
    await _settled()
    waiting.cancel()
    await asyncio.wait([waiting])
    bench.credentials.fetch_in_background(REF)
    bench.shelf.gate.set()
    await _settled()
    gc.collect()
    assert bench.credentials.in_memory(REF) is None


async def test_what_is_not_there_is_remembered_for_a_second() -> None:
    bench = Bench()
    bench.shelf.holds.clear()
    with pytest.raises(Missing):
        await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = VALUE
    bench.after(0.99)
    with pytest.raises(Missing):
        await bench.credentials.fetch(REF)
    bench.credentials.fetch_in_background(REF)
    await _settled()
    assert bench.shelf.asked == [REF]
    bench.after(0.01)
    assert await bench.credentials.fetch(REF) == VALUE
    assert bench.shelf.asked == [REF, REF]


async def test_a_silent_source_is_not_remembered() -> None:
    bench = Bench()
    bench.shelf.holds[REF] = Unavailable("down")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = VALUE
    assert await bench.credentials.fetch(REF) == VALUE


async def test_while_the_source_is_silent_a_secret_is_served_for_ten_minutes_and_not_longer() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    fetched_at = bench.clock.now
    bench.shelf.holds[REF] = Unavailable("down")
    served_until = 0.0
    while bench.clock.now < fetched_at + 700:
        try:
            found = bench.credentials.in_memory(REF) or await bench.credentials.fetch(REF)
            assert found == VALUE
            served_until = bench.clock.now
        except Unavailable:
            break
        await _settled()
        bench.after(0.25)
    assert served_until == fetched_at + 599.75
    # From the fifth minute on it is asked about once a second, not once a request.
    assert 300 <= len(bench.shelf.asked) - 1 <= 302


async def test_while_the_source_is_silent_only_the_first_waits_for_its_silence() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = Unavailable("down")
    bench.after(300)
    assert await bench.credentials.fetch(REF) == VALUE
    bench.after(1)
    bench.shelf.gate.clear()
    assert await asyncio.wait_for(bench.credentials.fetch(REF), 1.0) == VALUE
    bench.shelf.gate.set()
    await _settled()
    assert len(bench.shelf.asked) == 3


async def test_what_the_source_says_after_an_outage_counts_for_all_who_follow() -> None:
    """The price of not waiting: the one request that asked first got what memory had, though the secret was deleted meanwhile."""
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = Unavailable("down")
    bench.after(300)
    assert await bench.credentials.fetch(REF) == VALUE
    bench.shelf.holds[REF] = Missing("deleted")
    bench.after(1)
    assert await bench.credentials.fetch(REF) == VALUE
    await _settled()
    assert bench.credentials.in_memory(REF) is None
    with pytest.raises(Missing):
        await bench.credentials.fetch(REF)


async def test_the_last_second_of_an_outage_is_not_a_whole_one() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = Unavailable("down")
    fetched_at = bench.clock.now
    bench.after(599.5)
    assert await bench.credentials.fetch(REF) == VALUE
    assert bench.credentials.fresh_until(REF) == fetched_at + 600


async def test_when_the_source_answers_again_five_new_minutes_begin() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = Unavailable("down")
    bench.after(400)
    assert await bench.credentials.fetch(REF) == VALUE
    bench.shelf.holds[REF] = VALUE
    bench.after(1)
    assert await bench.credentials.fetch(REF) == VALUE
    await _settled()
    assert bench.credentials.fresh_until(REF) == bench.clock.now + 300


@pytest.mark.parametrize(
    "error", [Missing("deleted"), DoesNotOpen("refused"), Malformed("cut off"), ExtauthzError("WRONGTYPE")], ids=repr
)
async def test_an_answer_of_the_source_ends_what_memory_has(error: ExtauthzError) -> None:
    """Only silence is bridged; a secret that was deleted or does not open any more is not served for another five minutes."""
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = error
    bench.after(300)
    with pytest.raises(Missing if isinstance(error, Missing) else DoesNotOpen):
        await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = Unavailable("down")
    bench.after(1)
    with pytest.raises(Unavailable):
        await bench.credentials.fetch(REF)


async def test_what_does_not_open_is_unavailable_and_told_once_a_second() -> None:
    bench = Bench()
    bench.shelf.holds[REF] = DoesNotOpen("refused")
    for _ in range(3):
        with pytest.raises(DoesNotOpen) as caught:
            await bench.credentials.fetch(REF)
        assert isinstance(caught.value, Unavailable)
    assert bench.alarms == [(REF, "refused")]
    bench.after(1)
    bench.credentials.fetch_in_background(REF)
    await _settled()
    assert bench.alarms == [(REF, "refused")] * 2


@pytest.mark.parametrize("kind", [Missing, DoesNotOpen])
async def test_a_refusal_that_is_remembered_keeps_nothing_of_who_was_refused(kind: type[Missing | DoesNotOpen]) -> None:
    """An exception that is kept holds the frames of a request, and with them its key."""
    bench = Bench()
    bench.shelf.holds[REF] = kind("no")

    class Request:
        pass

    async def asked() -> "weakref.ref[Request]":
        request = Request()
        with pytest.raises(kind):
            await bench.credentials.fetch(REF)
        return weakref.ref(request)

    requests = [await asked() for _ in range(3)]
    bench.shelf.holds.clear()
    await _settled()  # this turn of the loop holds the answer it brought
    gc.collect()
    assert len(bench.credentials._refused) == 1
    assert [request() for request in requests] == [None] * 3
    assert bench.shelf.asked == [REF]


async def test_a_bug_in_a_source_is_an_error_and_the_next_asks_again() -> None:
    bench = Bench()
    bench.shelf.holds[REF] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = VALUE
    assert await bench.credentials.fetch(REF) == VALUE


async def test_a_source_that_never_answers_is_unavailable() -> None:
    bench = Bench(Bounds(fetch_s=0.01))
    bench.shelf.gate.clear()
    with pytest.raises(Unavailable, match=r"within 0\.01 s"):
        await bench.credentials.fetch(REF)
    bench.shelf.gate.set()
    assert await bench.credentials.fetch(REF) == VALUE


async def test_a_fetch_in_the_background_serves_the_next_request() -> None:
    bench = Bench()
    for _ in range(3):
        bench.credentials.fetch_in_background(REF)
    await _settled()
    bench.credentials.fetch_in_background(REF)
    await _settled()
    assert bench.credentials.in_memory(REF) == VALUE
    assert bench.shelf.asked == [REF]


async def test_what_is_forgotten_is_asked_for_again_and_others_stay() -> None:
    bench = Bench()
    other, platform = REF._replace(tenant_id="acme2"), REF._replace(tenant_id="")
    bench.shelf.holds |= {other: VALUE, platform: VALUE}
    for ref in (REF, other, platform):
        await bench.credentials.fetch(ref)
    bench.credentials.forget("acme")
    assert [bench.credentials.in_memory(ref) for ref in (REF, other, platform)] == [None, VALUE, VALUE]
    assert len(bench.credentials) == 2


async def test_forgetting_ends_a_refusal() -> None:
    bench = Bench()
    bench.shelf.holds.clear()
    with pytest.raises(Missing):
        await bench.credentials.fetch(REF)
    bench.shelf.holds[REF] = VALUE
    bench.credentials.forget("acme")
    assert await bench.credentials.fetch(REF) == VALUE


async def test_a_fetch_that_began_before_forgetting_is_not_remembered() -> None:
    bench = Bench()
    bench.shelf.gate.clear()
    before = asyncio.create_task(bench.credentials.fetch(REF))
    await _settled()
    bench.credentials.forget("acme")
    after = asyncio.create_task(bench.credentials.fetch(REF))
    await _settled()
    assert bench.shelf.asked == [REF, REF], "the second asks for itself"
    bench.credentials.forget("acme")
    bench.shelf.gate.set()
    assert [await before, await after] == [VALUE, VALUE]
    assert bench.credentials.in_memory(REF) is None


async def test_a_forgotten_fetch_neither_answers_for_the_next_nor_ends_it() -> None:
    bench = Bench()
    bench.shelf.gate.clear()
    before, gate = asyncio.create_task(bench.credentials.fetch(REF)), bench.shelf.gate
    await _settled()
    bench.credentials.forget("acme")
    bench.shelf.gate = asyncio.Event()
    after = [asyncio.create_task(bench.credentials.fetch(REF)) for _ in range(2)]
    await _settled()
    gate.set()
    assert await before == VALUE
    assert bench.credentials.in_memory(REF) is None
    after.append(asyncio.create_task(bench.credentials.fetch(REF)))
    await _settled()
    bench.shelf.holds[REF] = newer = Secret(b"sk-newer")
    bench.shelf.gate.set()
    assert await asyncio.gather(*after) == [newer] * 3
    assert bench.credentials.in_memory(REF) == newer
    assert bench.shelf.asked == [REF, REF]


async def test_memory_is_bounded_and_the_oldest_makes_room() -> None:
    bench = Bench(Bounds(entries_max=100))
    refs = [REF._replace(version=number) for number in range(1, 251)]
    bench.shelf.holds = dict.fromkeys(refs, VALUE)
    for ref in refs:
        await bench.credentials.fetch(ref)
        assert len(bench.credentials) <= 100
    assert [ref for ref in refs if bench.credentials.in_memory(ref)] == refs[150:]


async def test_memory_is_bounded_in_bytes() -> None:
    bench = Bench(Bounds(bytes_max=1_000))
    refs = [REF._replace(version=number) for number in range(1, 31)]
    bench.shelf.holds = dict.fromkeys(refs, Secret(b"v" * 100))
    for ref in refs:
        await bench.credentials.fetch(ref)
    assert [ref for ref in refs if bench.credentials.in_memory(ref)] == refs[20:]
    bench.credentials.forget("acme")
    for ref in refs:
        await bench.credentials.fetch(ref)
    assert [ref for ref in refs if bench.credentials.in_memory(ref)] == refs[20:]


async def test_what_is_not_there_is_bounded_too() -> None:
    bench = Bench(Bounds(entries_max=10))
    bench.shelf.holds.clear()
    for number in range(1, 30):
        with pytest.raises(Missing):
            await bench.credentials.fetch(REF._replace(version=number))
    assert len(bench.credentials._refused) == 10


async def test_fetches_under_way_are_bounded() -> None:
    bench = Bench(Bounds(fetches_max=10))
    bench.shelf.holds = dict.fromkeys([REF._replace(version=number) for number in range(20)], VALUE)
    bench.shelf.gate.clear()
    waiting = [asyncio.create_task(bench.credentials.fetch(REF._replace(version=number))) for number in range(10)]
    await _settled()
    with pytest.raises(Unavailable, match="10 secrets"):
        await bench.credentials.fetch(REF._replace(version=10))
    bench.credentials.fetch_in_background(REF._replace(version=11))
    bench.shelf.gate.set()
    assert await asyncio.gather(*waiting) == [VALUE] * 10
    assert await bench.credentials.fetch(REF._replace(version=10)) == VALUE
    assert bench.credentials.in_memory(REF._replace(version=11)) is None


async def test_closing_ends_every_fetch_and_drops_everything() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.shelf.gate.clear()
    waiting = asyncio.create_task(bench.credentials.fetch(REF._replace(version=2)))
    await _settled()
    await bench.credentials.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(bench.credentials) == 0
    assert not bench.credentials._tasks


@pytest.mark.parametrize("change", [{"fresh_s": 301.0}, {"fresh_s": 0.0}, {"served_s": 601.0}, {"served_s": 299.0}], ids=repr)
def test_bounds_beyond_what_is_promised_are_an_error(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fresh for 300 s at most"):
        replace(Bounds(), **change)  # type: ignore[arg-type]


async def test_a_stopped_redis_serves_what_is_in_memory_and_nothing_else(redis_url: str) -> None:
    """The real store, with its connection gone."""
    clock = ManualClock()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        keyring = keyring_of(b"a")
        store = RedisStore(RedisPy(client), keyring)
        ref, never_read = [await store.put("acme", "openai", "default", VALUE) for _ in range(2)]
        credentials = Credentials(store, clock, lambda *_: None)
        await credentials.fetch(ref)
    gone = redis.asyncio.Redis.from_url("redis://127.0.0.1:1")
    store._redis = RedisPy(gone)
    clock.now += 599
    assert await credentials.fetch(ref) == VALUE
    with pytest.raises(Unavailable):
        await credentials.fetch(never_read)
    clock.now += 1
    with pytest.raises(Unavailable):
        await credentials.fetch(ref)
    await gone.aclose()


async def test_neither_memory_nor_its_errors_show_a_secret(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor do they keep the frames that an error passed through, whose variables held keys."""
    caplog.set_level(0)
    alarms: list[DoesNotOpen] = []
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        store = RedisStore(RedisPy(client), keyring_of(b"a"))
        ref = await store.put("acme", "openai", "default", VALUE)
        other = await store.put("acme", "openai", "default", VALUE)
        credentials = Credentials(store, SystemClock(), lambda _, error: alarms.append(error))
        await credentials.fetch(ref)
        await client.copy(keyspace.secret(*ref).decode(), keyspace.secret(*other).decode(), replace=True)
        with pytest.raises(DoesNotOpen):
            await credentials.fetch(other)
    shown = repr(list(credentials._opened.values())) + repr(vars(credentials)) + repr(alarms) + caplog.text
    assert "canary" not in shown
    assert "._Opened(" not in shown
    error: BaseException | None = alarms[0].__cause__
    assert error is not None
    while error is not None:
        assert error.__traceback__ is None
        error = error.__cause__


async def test_what_may_not_even_be_served_is_dropped_from_memory() -> None:
    bench = Bench()
    await bench.credentials.fetch(REF)
    bench.after(599.99)
    bench.credentials.forget_expired()
    assert len(bench.credentials) == 1
    bench.after(0.01)
    bench.credentials.forget_expired()
    assert (len(bench.credentials), bench.credentials._opened_bytes) == (0, 0)
