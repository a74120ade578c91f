"""A worker that notes how long the garbage collector stopped it: CPU time of the thread, so that no other process counts.

`python -m bench.watched_worker CONFIG LISTEN NOTES`; the notes are written on SIGTERM. Everything else is the worker of `serve`.
"""

import asyncio
import gc
import json
import signal
import sys
import time
from pathlib import Path

import uvloop

from extauthz.cli.worker import run
from extauthz.transport.workers import Job


class _Notes:
    def __init__(self) -> None:
        self.pauses_ms: dict[int, list[float]] = {0: [], 1: [], 2: []}
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.pauses_ms[info["generation"]].append((time.thread_time() - self._began) * 1_000)


async def _work(config: str, listen: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run(Job(0, config, (listen,), "fast"), stop, lambda _state: None)


if __name__ == "__main__":
    notes = _Notes()
    gc.callbacks.append(notes)
    uvloop.run(_work(sys.argv[1], sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(notes.pauses_ms))
