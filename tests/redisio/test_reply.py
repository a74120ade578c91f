"""A reply is as good as a future of asyncio's to all that await it, and continues its waiter at once."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

import pytest

from extauthz.redisio.reply import Reply

WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("WHERE", default="nowhere")


def reply() -> Reply:
    return Reply(1.0, 1.0)


def deliver_soon(waiting: Reply, value: Any) -> None:
    asyncio.get_running_loop().call_soon(waiting.deliver, value)


class Driver:
    """Runs a coroutine without a task, as the fast transport does."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.outcome: Any = None

    def step(self, _: object = None) -> None:
        try:
            waiting = self._coroutine.send(None)
        except StopIteration as stop:
            self.outcome = stop.value
            return
        except Exception as error:  # noqa: BLE001 — whatever the coroutine ends with is looked at
            self.outcome = error
            return
        waiting._asyncio_future_blocking = False
        waiting.add_done_callback(self.step)


async def twice(first: Reply, second: Reply) -> list[Any]:
    return [await first, await second]


async def test_task_gets_the_value() -> None:
    waiting = reply()
    deliver_soon(waiting, [1, None])
    assert await asyncio.create_task(_await(waiting)) == [1, None]


async def test_driver_continues_in_the_delivery_itself() -> None:
    first, second = reply(), reply()
    driver = Driver(twice(first, second))
    driver.step()
    first.deliver(b"1")
    assert driver.outcome is None
    second.deliver(b"2")
    assert driver.outcome == [b"1", b"2"]


async def test_error_is_raised_where_it_is_awaited() -> None:
    first, second = reply(), reply()
    driver = Driver(twice(first, second))
    driver.step()
    first.deliver(ValueError("no"))
    assert repr(driver.outcome) == "ValueError('no')"
    with pytest.raises(ValueError, match="no"):
        await first
    assert repr(first.exception()) == "ValueError('no')"


async def test_delivered_before_it_is_awaited() -> None:
    waiting = reply()
    waiting.deliver(None)
    assert [await waiting, await asyncio.wait_for(waiting, 1), waiting.exception()] == [None, None, None]
    assert waiting.done()


async def test_what_comes_after_the_first_is_dropped() -> None:
    waiting = reply()
    waiting.deliver(b"first")
    waiting.deliver(b"second")
    assert waiting.result() == b"first"
    assert not waiting.cancel()
    assert not waiting.cancelled()


async def test_cancelled_task_ends_and_the_late_reply_goes_nowhere() -> None:
    waiting = reply()
    task = asyncio.create_task(_await(waiting))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    waiting.deliver(b"late")
    assert waiting.cancelled()
    with pytest.raises(asyncio.CancelledError):
        waiting.exception()


async def test_wait_for_gives_up_and_gather_collects() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reply(), 0.001)
    first, second = reply(), reply()
    deliver_soon(second, 2)
    deliver_soon(first, ValueError("one"))
    outcomes = await asyncio.gather(first, second, second, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["one", "2", "2"]


async def test_several_wait_for_one() -> None:
    waiting = reply()
    tasks = [asyncio.create_task(_await(waiting)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    # asyncio's own rule: cancelling one of several waiters cancels what they wait for.
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [asyncio.CancelledError] * 3 == [type(outcome) for outcome in outcomes]
    shielded = reply()
    inner = [asyncio.create_task(_await(shielded)) for _ in range(3)]
    deliver_soon(shielded, 5)
    assert await asyncio.gather(*inner) == [5, 5, 5]


async def test_shield_protects_the_reply() -> None:
    waiting = reply()
    task = asyncio.create_task(_await(asyncio.shield(waiting)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not waiting.done()
    waiting.deliver(1)
    assert await waiting == 1


async def test_callbacks_can_be_taken_back() -> None:
    waiting = reply()
    called: list[str] = []
    callbacks = [lambda _, name=name: called.append(name) for name in "abc"]
    assert waiting.remove_done_callback(callbacks[0]) == 0
    for callback in callbacks:
        waiting.add_done_callback(callback)
    assert waiting.remove_done_callback(callbacks[1]) == 1
    waiting.deliver(1)
    await asyncio.sleep(0)
    assert called == ["a", "c"]
    alone = reply()
    alone.add_done_callback(callbacks[0])
    assert alone.remove_done_callback(callbacks[0]) == 1
    alone.deliver(1)
    assert called == ["a", "c"]


async def test_task_keeps_its_own_context() -> None:
    waiting = reply()
    seen: list[str] = []

    async def look() -> None:
        WHERE.set("in the task")
        await waiting
        seen.append(WHERE.get())

    task = asyncio.create_task(look())
    await asyncio.sleep(0)
    deliver_soon(waiting, 1)
    await task
    assert (seen, WHERE.get()) == (["in the task"], "nowhere")


async def test_no_result_before_there_is_one() -> None:
    with pytest.raises(asyncio.InvalidStateError):
        reply().result()
    with pytest.raises(asyncio.InvalidStateError):
        reply().exception()


async def _await(waiting: Any) -> Any:
    return await waiting
