"""Worker processes: started, asked every second whether they live, replaced when they do not, stopped together.

Each worker is a fresh process (spawned, not forked) with one end of a socket pair as its file descriptor CONTROL_FD. Down the pair
go a job, once, and then questions; up come states. Both are msgpack behind a length of four bytes. A worker whose parent is gone
reads the end of the stream and drains, so no worker outlives its parent for longer than its grace.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from extauthz.telemetry.metrics import Snapshot

#: The descriptor a worker finds its end of the pair on.
CONTROL_FD: Final = 3
#: How often a worker is asked, and how long it may be silent before it is killed: one that cannot answer in 10 s decides nothing.
ASK_S: Final = 1.0
SILENT_S: Final = 10.0
#: A worker that ended is started again at once, and later the more often it ends: at most every 5 s.
RESTART_S: Final = 0.1
RESTART_MAX_S: Final = 5.0
SETTLED_S: Final = 10.0
#: Exit code of a worker that will never start as it is: a busy port, a missing master key, a Redis that evicts.
REFUSED: Final = 2
#: After the grace of a drain, before SIGKILL.
LATE_S: Final = 2.0
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024

_log = logging.getLogger("extauthz.workers")


class Job(msgspec.Struct, frozen=True):
    """What a worker is to do. No secret is in it: those come from the environment and its files.

    Attributes:
        listens: addresses as `--listen` takes them, already this worker's own.
        transport: `fast` or `grpcio`.
    """

    index: int
    config: str
    listens: tuple[str, ...]
    transport: str


class State(msgspec.Struct, frozen=True):
    """How a worker is, and all it has counted since it started."""

    is_ready: bool
    has_redis: bool
    metrics: Snapshot


#: Hands over what tells the worker's state; called again whenever the parent should know at once.
HandOver = Callable[[Callable[[], State]], None]
#: A worker's work: gets the job and the event that says "drain and return".
Run = Callable[[Job, asyncio.Event, HandOver], Awaitable[None]]


class Control:
    """One end of the pair, as messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, end: socket.socket) -> "Control":
        """Take over a connected socket."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: msgspec.Struct | None) -> None:
        """Write one message; None is a question. Nothing happens when the other side is gone: `receive` says so."""
        if self._writer.is_closing():
            return
        data = msgspec.msgpack.encode(message)
        self._writer.write(len(data).to_bytes(4, "big") + data)

    async def receive(self) -> bytes:
        """The next message, still encoded. Raises EOFError when the other side is gone or talks nonsense."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > MESSAGE_BYTES_MAX:
                raise EOFError
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError from error

    def close(self) -> None:
        """Close this end; the other reads its end of stream."""
        self._writer.close()


class Worker:
    """One worker process as its parent sees it."""

    def __init__(self, process: subprocess.Popen[bytes], control: Control, started_at: float) -> None:
        self.process = process
        self.control = control
        self.started_at = started_at
        self.heard_at = started_at
        self.state: State | None = None


class Supervisor:
    """Keeps a number of workers running.

    Args:
        jobs: one per worker.
        module: the module a worker runs, `python -m MODULE`.
        grace_s: how long a worker may take to finish after SIGTERM.
    """

    def __init__(self, jobs: Sequence[Job], module: str, grace_s: float) -> None:
        self._jobs = tuple(jobs)
        self._module = module
        self._grace_s = grace_s
        self._workers: dict[int, Worker] = {}
        self._last: list[Snapshot] = []
        self._stopping = asyncio.Event()
        self._is_refused = False
        self.restarts = 0

    @property
    def states(self) -> list[State]:
        """The last state of each worker that told one."""
        return [worker.state for worker in self._workers.values() if worker.state]

    @property
    def is_ready(self) -> bool:
        """Whether every worker serves and none is being stopped."""
        states = self.states
        return not self._stopping.is_set() and len(states) == len(self._jobs) and all(state.is_ready for state in states)

    @property
    def snapshots(self) -> list[Snapshot]:
        """What living workers have counted, and what ended ones had: a counter never goes back because a worker did."""
        return [*self._last, *(state.metrics for state in self.states)]

    def stop(self) -> None:
        """Begin to stop: SIGTERM to every worker. `run` returns once they are gone."""
        self._stopping.set()
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()

    def kill(self) -> None:
        """SIGKILL to every worker, at once."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.process.kill()

    async def run(self) -> bool:
        """Keep the workers until stopped. False when a worker refused to start, and so all were stopped."""
        await asyncio.gather(*(self._keep(job) for job in self._jobs))
        return not self._is_refused

    async def _keep(self, job: Job) -> None:
        delay = RESTART_S
        while not self._stopping.is_set():
            worker = await self._start(job)
            self._workers[job.index] = worker
            if self._stopping.is_set():  # stop() came while the process was being started and did not see it
                worker.process.terminate()
            code = await self._watch(worker)
            del self._workers[job.index]
            if worker.state is not None:
                self._last.append(Snapshot(_counters_only(worker.state.metrics), worker.state.metrics.histograms))
            if code == REFUSED:
                self._is_refused = True
                self.stop()
            if self._stopping.is_set():
                return
            self.restarts += 1
            delay = RESTART_S if time.monotonic() - worker.started_at > SETTLED_S else min(delay * 2, RESTART_MAX_S)
            _log.error("a worker ended and is started again", extra={"worker": job.index, "exit_code": code, "in_s": delay})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _start(self, job: Job) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            # The descriptor keeps its number in the child, so the child is told it; nothing else is inherited.
            process = subprocess.Popen(  # noqa: ASYNC220 — it returns as soon as the child runs, a few ms
                [sys.executable, "-m", self._module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        control = await Control.of(ours)
        control.send(job)
        return Worker(process, control, time.monotonic())

    async def _watch(self, worker: Worker) -> int:
        """Ask and listen until the worker's process has ended; its exit code."""
        listening = asyncio.ensure_future(self._listen(worker))
        try:
            deadline: float | None = None
            while (code := worker.process.poll()) is None:
                now = time.monotonic()
                if self._stopping.is_set():
                    deadline = deadline or now + self._grace_s + LATE_S
                if now > (deadline or worker.heard_at + SILENT_S):
                    _log.error("a worker does not answer and is killed", extra={"pid": worker.process.pid})
                    worker.process.kill()
                worker.control.send(None)
                await asyncio.wait({listening}, timeout=0.05 if self._stopping.is_set() or listening.done() else ASK_S)
                if listening.done():
                    await asyncio.sleep(0.01)
        finally:
            listening.cancel()
            worker.control.close()
        return code

    async def _listen(self, worker: Worker) -> None:
        with contextlib.suppress(EOFError):
            while True:
                worker.state = msgspec.msgpack.decode(await worker.control.receive(), type=State)
                worker.heard_at = time.monotonic()


def _counters_only(snapshot: Snapshot) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """What an ended worker leaves behind: what it counted, not what it was."""
    return {name: rows for name, rows in snapshot.values.items() if name.endswith("_total")}


async def as_worker(descriptor: int, run: Run) -> None:
    """A worker's side: take the job, run it, answer questions, and set the event when it is time to drain.

    Args:
        descriptor: the worker's end of the pair.
        run: the work.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    control = await Control.of(socket.socket(fileno=descriptor))
    job = msgspec.msgpack.decode(await control.receive(), type=Job)
    state: list[Callable[[], State]] = []

    def hand_over(tell: Callable[[], State]) -> None:
        state[:] = [tell]
        control.send(tell())

    async def answer() -> None:
        try:
            while True:
                await control.receive()
                if state:
                    control.send(state[0]())
        except EOFError:
            stop.set()

    answering = asyncio.ensure_future(answer())
    try:
        await run(job, stop, hand_over)
    finally:
        answering.cancel()
        control.close()


def leave_no_core() -> None:
    """No core dump of a process that holds credentials (docs/security.md)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 — POSIX only

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
