"""Promise 2: whatever a handler does, a client of either transport sees a message and status 0, or no message and another status.

To Envoy an empty CheckResponse is an allow, so an empty message with status OK must not exist on the wire.
"""

import asyncio
import random
from typing import Any

import grpc
import pytest

from extauthz.errors import BadConfig, Malformed, Missing, Refusal, Unavailable
from extauthz.transport.seam import Services
from tests.transport.conftest import Serve

PATH = "/test.Service/Any"

#: What a handler may return or raise, by name; half of it is nothing a handler should do.
RETURNED: dict[str, Any] = {
    "bytes": b"answer",
    "one octet": b"\0",
    "large": b"z" * 70_000,
    "empty": b"",
    "none": None,
    "text": "text",
    "empty text": "",
    "bytearray": bytearray(b"answer"),
    "empty bytearray": bytearray(),
    "view": memoryview(b"answer"),
    "number": 0,
    "true": True,
    "list": [],
}
RAISED: dict[str, BaseException] = {
    "malformed": Malformed("x"),
    "missing": Missing("x"),
    "unavailable": Unavailable("x"),
    "config": BadConfig([]),
    "refusal": Refusal("x", 403, "x"),
    "timeout": TimeoutError(),
    "cancelled": asyncio.CancelledError(),
    "value": ValueError("x"),
    "stop": StopIteration(b"answer"),
    "async stop": StopAsyncIteration(b"answer"),
    "exit of a generator": GeneratorExit(),
    "assertion": AssertionError(),
    "recursion": RecursionError(),
    "memory": MemoryError(),
    "base": BaseException("x"),
}
GOOD = {"bytes", "one octet", "large"}
PAUSES = ["at once", "after a turn", "after a future", "after a task", "in a task"]


async def handler(message: bytes, _deadline: float) -> Any:
    """Do what the message says: when, and what."""
    pause, _, what = message.decode().partition("|")
    if pause == "after a turn":
        await asyncio.sleep(0)
    elif pause == "after a future":
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, None)
        await future
    elif pause == "after a task":
        await asyncio.create_task(asyncio.sleep(0))
    if what in RAISED:
        raise RAISED[what]
    return RETURNED[what]


async def one(method: Any, pause: str, what: str) -> tuple[str, bytes | None, str]:
    """What the client saw: the message, or the status without one."""
    try:
        answer: bytes = await method(f"{pause}|{what}".encode())
    except grpc.aio.AioRpcError as error:
        return what, None, error.code().name
    return what, answer, "OK"


def judge(what: str, answer: bytes | None, status: str) -> str:
    """What is wrong with what the client saw; "" for nothing."""
    if what in GOOD:
        return "" if (answer, status) == (RETURNED[what], "OK") else f"{what}: {status}, {answer!r}"
    return "" if answer is None and status != "OK" else f"{what}: {status}, {answer!r}"


@pytest.mark.prove(2)
async def test_no_answer_is_empty_or_ambiguous(serve: Serve, transport: str, unix_address: str, proving: bool) -> None:
    served = await serve(transport, Services(unary={PATH: handler}), unix_address)
    source = random.Random(2)
    total = 10_000 if proving else 500
    whats = [*RETURNED, *RAISED]
    if transport == "grpcio":
        whats = [what for what in whats if what not in ("base", "exit of a generator")]  # asyncio lets these end the loop's run
    wrong: list[str] = []
    async with served.channel() as channel:
        method = channel.unary_unary(PATH)
        for begin in range(0, total, 50):
            picks = [(source.choice(PAUSES), source.choice(whats)) for _ in range(min(50, total - begin))]
            wrong += [bad for seen in await asyncio.gather(*(one(method, *pick) for pick in picks)) if (bad := judge(*seen))]
    print(f"\n  {transport}: {total} examples, {len(wrong)} empty or ambiguous")
    assert wrong == []
    assert served.bugs


@pytest.mark.parametrize("what", [*RETURNED, *RAISED])
@pytest.mark.parametrize("pause", PAUSES)
async def test_each_kind_on_the_fast_transport(serve: Serve, unix_address: str, pause: str, what: str) -> None:
    served = await serve("fast", Services(unary={PATH: handler}), unix_address)
    async with served.channel() as channel:
        assert judge(*await one(channel.unary_unary(PATH), pause, what)) == ""
