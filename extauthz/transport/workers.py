"""Worker processes: started, asked every second whether they live, replaced when they do not, stopped together.

Each worker is a fresh process (spawned, not forked) that is given one end of a socket pair. Down the pair go a job, once, and then
questions; up come states, or why there will be none. All are msgpack behind a length of four bytes. A worker whose parent is gone
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
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec

from extauthz.errors import BadConfig, Problem
from extauthz.telemetry.metrics import Snapshot, merged

#: How often a worker is asked, and how long it may be silent before it is killed: one that cannot answer in 10 s decides nothing.
ASK_S: Final = 1.0
SILENT_S: Final = 10.0
#: A worker that was never heard of may still be starting.
START_S: Final = 20.0
#: A worker that ended is started again at once, and later the more often it ends: at most every 5 s.
RESTART_S: Final = 0.1
RESTART_MAX_S: Final = 5.0
SETTLED_S: Final = 10.0
#: Exit codes of a worker: drained; ended by an error of ours; cannot start as things are (a busy port, no master key, a Redis that
#: evicts).
DRAINED: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
#: After the grace of a drain, before SIGKILL.
LATE_S: Final = 2.0
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024

_ENDED: Final = (logging.ERROR, "a worker ended and is started again")
_TOLD_TO_END: Final = (logging.WARNING, "a worker was sent a SIGTERM from outside, drained, and is started again")
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


class State(msgspec.Struct, frozen=True, tag="state"):
    """How a worker is, and all it has counted since it started."""

    is_ready: bool
    has_redis: bool
    metrics: Snapshot


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why a worker does not start. The parent says it, once for all workers that found the same."""

    problems: tuple[Problem, ...]


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

    async def finish(self) -> None:
        """Close this end once everything is with the other; a second is enough for one that reads."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)


class Worker:
    """One worker process as its parent sees it."""

    def __init__(self, process: subprocess.Popen[bytes], control: Control) -> None:
        self.process = process
        self.control = control
        #: How long it has left questions without an answer, in seconds that this process was awake: a parent that was stopped a
        #: while must not take its workers for silent ones.
        self.silent_s = 0.0
        self.state: State | None = None
        self.problems: tuple[Problem, ...] = ()

    async def listen(self) -> None:
        """Take what it tells, until its end of the pair is closed."""
        with contextlib.suppress(EOFError, msgspec.DecodeError):
            while True:
                told = msgspec.msgpack.decode(await self.control.receive(), type=State | Refused)
                self.silent_s = 0.0
                if isinstance(told, State):
                    self.state = told
                else:
                    self.problems = told.problems


class Supervisor:
    """Keeps a number of workers running.

    Args:
        jobs: one per worker.
        module: the module a worker runs, `python -m MODULE`.
        grace_s: how long a worker may take to finish after SIGTERM.
        silent_s: how long a worker that serves may leave questions without an answer; then it is killed and replaced.
    """

    def __init__(self, jobs: Sequence[Job], module: str, grace_s: float, silent_s: float = SILENT_S) -> None:
        self._jobs = tuple(jobs)
        self._module = module
        self._grace_s = grace_s
        self._silent_s = silent_s
        self._ask_s = min(ASK_S, silent_s / 4)
        self._workers: dict[int, Worker] = {}
        self._served: set[int] = set()
        self._ended = Snapshot({}, {})
        #: A scrape comes on a thread of its own, and must see a worker either alive or ended, not both and not neither.
        self._moving = threading.Lock()
        self._stopping = asyncio.Event()
        #: Why workers refused to start, each thing once.
        self.problems: dict[Problem, None] = {}
        self.restarts = 0

    @property
    def states(self) -> list[State]:
        """The last state of each worker that told one."""
        with self._moving:
            return [worker.state for worker in self._workers.values() if worker.state]

    @property
    def is_ready(self) -> bool:
        """Whether every worker serves and none is being stopped."""
        states = self.states
        return not self._stopping.is_set() and len(states) == len(self._jobs) and all(state.is_ready for state in states)

    @property
    def snapshots(self) -> list[Snapshot]:
        """What living workers have counted, and what ended ones had: a counter never goes back because a worker did."""
        with self._moving:
            return [self._ended, *(worker.state.metrics for worker in self._workers.values() if worker.state)]

    def stop(self) -> None:
        """Begin to stop: SIGTERM to every worker. `run` returns once they are gone."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.process.terminate()

    def kill(self) -> None:
        """SIGKILL to every worker, at once."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.process.kill()

    async def run(self) -> None:
        """Keep the workers until stopped.

        Raises:
            BadConfig: a worker could not even start once, so all were stopped.
        """
        try:
            await asyncio.gather(*(self._keep(job) for job in self._jobs))
        except BaseException:
            self.kill()
            raise
        if self.problems:
            raise BadConfig(list(self.problems))

    async def _keep(self, job: Job) -> None:
        delay = RESTART_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                why = await self._life(job)
            except OSError as error:  # no memory, no process, no descriptor left: there may be later
                why = {"error": str(error)}
            if self._stopping.is_set():
                return
            self.restarts += 1
            delay = RESTART_S if time.monotonic() - began > SETTLED_S else min(delay * 2, RESTART_MAX_S)
            # A worker drains on a SIGTERM only, and this process sent none.
            level, message = _TOLD_TO_END if why.get("exit_code") == DRAINED else _ENDED
            _log.log(level, message, extra={"worker": job.index, "in_s": delay, **why})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _life(self, job: Job) -> dict[str, object]:
        """One worker from its start to its end; how it ended, for the log."""
        worker = await self._start(job)
        with self._moving:
            self._workers[job.index] = worker
        if self._stopping.is_set():  # stop() came while the process was being started and did not see it
            worker.process.terminate()
        code = await self._watch(worker)
        with self._moving:
            del self._workers[job.index]
            if worker.state is not None:
                self._served.add(job.index)
                self._ended = merged([self._ended, _counters_only(worker.state.metrics)])
        if code == REFUSED and job.index not in self._served:
            self.problems |= dict.fromkeys(worker.problems)
            self.stop()
        # One that served before is tried again: what is wrong now may be mended, and the other workers go on.
        return {"pid": worker.process.pid, "exit_code": code, "problems": [str(problem) for problem in worker.problems]}

    async def _start(self, job: Job) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs, _without_ctrl_c():
            # The descriptor keeps its number in the child, so the child is told it; nothing else is inherited.
            command = [sys.executable, "-m", self._module, str(theirs.fileno())]
            try:
                process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)  # noqa: ASYNC220 — a few ms
            except OSError:
                ours.close()
                raise
        control = await Control.of(ours)
        control.send(job)
        return Worker(process, control)

    async def _watch(self, worker: Worker) -> int:
        """Ask and listen until the worker's process has ended; its exit code."""
        listening = asyncio.ensure_future(worker.listen())
        deadline: float | None = None
        try:
            while (code := worker.process.poll()) is None:
                now = time.monotonic()
                if self._stopping.is_set():
                    deadline = deadline or now + self._grace_s + LATE_S
                if (deadline is not None and now > deadline) or worker.silent_s > self._patience_s(worker):
                    _log.error("a worker does not answer and is killed", extra={"pid": worker.process.pid})
                    worker.process.kill()
                worker.control.send(None)
                pause = 0.05 if self._stopping.is_set() or listening.done() else self._ask_s
                worker.silent_s += pause
                if listening.done():
                    await asyncio.sleep(pause)
                else:
                    await asyncio.wait({listening}, timeout=pause)
            await asyncio.wait({listening}, timeout=LATE_S)  # what it said last
        finally:
            listening.cancel()
            worker.control.close()
        return code

    def _patience_s(self, worker: Worker) -> float:
        return self._silent_s if worker.state else max(START_S, self._silent_s)


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """What is started in this block never sees SIGINT, also not before its first line: Ctrl-C reaches the whole group, and the
    parent decides. For the parent it waits until the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _counters_only(snapshot: Snapshot) -> Snapshot:
    """What an ended worker leaves behind: what it counted, not what it was."""
    return Snapshot({name: rows for name, rows in snapshot.values.items() if name.endswith("_total")}, snapshot.histograms)


async def as_worker(descriptor: int, run: Run) -> int:
    """A worker's side: take the job, run it, answer questions, and set the event when it is time to drain.

    Args:
        descriptor: the worker's end of the pair.
        run: the work. A BadConfig of it is told to the parent.

    Returns:
        The exit code.
    """
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    control = await Control.of(socket.socket(fileno=descriptor))
    tell: Callable[[], State] | None = None

    def hand_over(telling: Callable[[], State]) -> None:
        nonlocal tell
        tell = telling
        control.send(tell())

    async def answer() -> None:
        try:
            while True:
                await control.receive()
                if tell is not None:
                    control.send(tell())
        except EOFError:
            stop.set()

    try:
        job = msgspec.msgpack.decode(await control.receive(), type=Job)
    except EOFError:  # the parent is gone before it said anything
        return DRAINED
    answering = asyncio.ensure_future(answer())
    try:
        await run(job, stop, hand_over)
    except BadConfig as bad:
        control.send(Refused(bad.problems))
        return REFUSED
    except Exception:  # noqa: BLE001 (the worker loop: logged, and the parent starts another)
        _log.exception("a worker ended in an error of ours")
        return FAILED
    finally:
        answering.cancel()
        await control.finish()
    return DRAINED


def leave_no_core() -> None:
    """No core dump of a process that holds credentials (docs/security.md)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 — POSIX only

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
