"""A worker for the supervisor's tests: the real `as_worker` around work that is read, one word, from the file the job names."""

import asyncio
import signal
import sys
from pathlib import Path

from extauthz.errors import BadConfig, Problem
from extauthz.telemetry.metrics import REDIS_UP, RELOADS, Metrics
from extauthz.transport.workers import HandOver, Job, State, as_worker


async def run(job: Job, stop: asyncio.Event, hand_over: HandOver) -> None:
    word = Path(job.config).read_text()  # noqa: ASYNC240 (one word)
    if word == "refuse":
        raise BadConfig([Problem("--listen", 0, "is taken"), Problem(f"worker {job.index}", 0, "is one of them")])
    if word == "crash":
        raise ZeroDivisionError
    if word == "deaf":
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    metrics = Metrics()
    metrics.set(REDIS_UP, (), 1.0)

    def state() -> State:
        metrics.add(RELOADS, ("loaded",))  # counts how often it was asked
        return State(is_ready=True, has_redis=True, metrics=metrics.snapshot())

    hand_over(state)
    await (asyncio.Event() if word == "deaf" else stop).wait()
    metrics.add(RELOADS, ("refused",))
    hand_over(state)


if __name__ == "__main__":
    sys.exit(asyncio.run(as_worker(int(sys.argv[1]), run)))
