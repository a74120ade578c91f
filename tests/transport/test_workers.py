"""The supervisor over real processes: what it replaces, what it gives up, and what it still knows of those that ended."""

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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from extauthz.errors import BadConfig, Problem
from extauthz.telemetry.metrics import REDIS_UP, RELOADS, merged
from extauthz.transport import workers
from extauthz.transport.workers import MESSAGE_BYTES_MAX, Control, Job, Supervisor
from tests.conftest import eventually_async
from tests.harness.sidecar import is_alive

MODULE = "tests.transport.small_worker"


class Kept:
    """A supervisor that runs, and its workers as the system shows them."""

    def __init__(self, supervisor: Supervisor, words: list[Path]) -> None:
        self.supervisor = supervisor
        self.words = words
        self.running = asyncio.ensure_future(supervisor.run())

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.supervisor._workers.values()]

    def counted(self, label: str = "loaded") -> float:
        rows = merged(self.supervisor.snapshots).values.get(RELOADS.name, [])
        return dict(rows).get((label,), 0.0)

    async def until_ready(self) -> None:
        await eventually_async(self._is_ready, 15)

    async def _is_ready(self) -> bool:
        return self.supervisor.is_ready

    async def until_replaced(self, pid: int) -> None:
        async def is_replaced() -> bool:
            return pid not in self.pids and self.supervisor.is_ready

        await eventually_async(is_replaced, 15)


@asynccontextmanager
async def kept(folder: Path, *words: str, grace_s: float = 5.0, silent_s: float = 10.0) -> AsyncIterator[Kept]:
    """Workers that do what their word says, until the end of the block."""
    files = [folder / str(index) for index in range(len(words))]
    for file, word in zip(files, words, strict=True):
        file.write_text(word)
    jobs = [Job(index, str(file), (), "fast") for index, file in enumerate(files)]
    whole = Kept(Supervisor(jobs, MODULE, grace_s, silent_s), files)
    try:
        yield whole
    finally:
        pids = whole.pids
        whole.supervisor.kill()
        with contextlib.suppress(BadConfig):
            await whole.running
        assert not [pid for pid in pids if is_alive(pid)]


async def test_a_killed_worker_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    async with kept(tmp_path, "serve", "serve") as running:
        await running.until_ready()
        killed, other = running.pids
        os.kill(killed, signal.SIGKILL)
        await running.until_replaced(killed)
        assert other in running.pids
        assert running.supervisor.restarts == 1


async def test_a_worker_that_somebody_else_ends_is_replaced_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept(tmp_path, "serve", "serve") as running:
        await running.until_ready()
        for number in (signal.SIGTERM, signal.SIGKILL):
            ended = running.pids[0]
            os.kill(ended, number)
            await running.until_replaced(ended)
    told = [(record.levelname, record.message, vars(record)["exit_code"]) for record in caplog.records]
    assert told == [
        ("WARNING", "a worker was sent a SIGTERM from outside, drained, and is started again", 0),
        ("ERROR", "a worker ended and is started again", -signal.SIGKILL),
    ]


async def test_a_worker_that_does_not_answer_is_killed_and_replaced(tmp_path: Path) -> None:
    async with kept(tmp_path, "serve", silent_s=0.5) as running:
        await running.until_ready()
        hanging = running.pids[0]
        os.kill(hanging, signal.SIGSTOP)
        await running.until_replaced(hanging)
        assert not is_alive(hanging)


async def test_a_worker_that_answers_is_not_killed(tmp_path: Path) -> None:
    async with kept(tmp_path, "serve", silent_s=0.5) as running:
        await running.until_ready()
        asked = running.counted()

        async def was_asked_for_long() -> bool:
            return running.counted() >= asked + 12  # every 0.125 s: three times the silence that would end it

        await eventually_async(was_asked_for_long, 8)
        assert running.supervisor.restarts == 0


async def test_a_parent_that_was_stopped_for_a_while_does_not_take_its_workers_for_silent(tmp_path: Path) -> None:
    async with kept(tmp_path, "serve", silent_s=0.5) as running:
        await running.until_ready()
        asked = running.counted()
        time.sleep(1.5)  # noqa: ASYNC251 (nothing of this process runs, as under SIGSTOP)

        async def was_asked_again() -> bool:
            return running.counted() >= asked + 4

        await eventually_async(was_asked_again)
        assert running.supervisor.restarts == 0


async def test_counters_never_go_back_when_workers_die_and_gauges_are_of_the_living(tmp_path: Path) -> None:
    seen: list[float] = []
    is_over = threading.Event()
    async with kept(tmp_path, "serve", "serve", silent_s=0.2) as running:
        await running.until_ready()

        def scrape() -> None:
            while not is_over.is_set():
                seen.append(running.counted())

        scraping = threading.Thread(target=scrape)
        scraping.start()
        try:
            for _ in range(3):
                pid = running.pids[0]
                os.kill(pid, signal.SIGKILL)
                await running.until_replaced(pid)
        finally:
            is_over.set()
            scraping.join()
        assert len(seen) > 100
        assert seen == sorted(seen)
        assert running.counted() >= 2 + 3
        assert dict(merged(running.supervisor.snapshots).values[REDIS_UP.name]) == {(): 2.0}


async def test_what_a_worker_said_last_is_kept(tmp_path: Path) -> None:
    """SIGTERM to a worker alone: it drains, tells its last counts, and another takes its place."""
    async with kept(tmp_path, "serve") as running:
        await running.until_ready()
        pid = running.pids[0]
        os.kill(pid, signal.SIGTERM)
        await running.until_replaced(pid)
        assert running.counted("refused") == 1


async def test_a_worker_that_cannot_start_stops_all_and_each_thing_is_said_once(tmp_path: Path) -> None:
    async with kept(tmp_path, "refuse", "serve", "refuse") as running:
        with pytest.raises(BadConfig) as caught:
            await asyncio.wait_for(running.running, 15)
        assert set(caught.value.problems) <= {
            Problem("--listen", 0, "is taken"),
            Problem("worker 0", 0, "is one of them"),
            Problem("worker 2", 0, "is one of them"),
        }
        assert len(set(caught.value.problems)) == len(caught.value.problems) >= 2
        assert running.pids == []


async def test_a_worker_that_served_and_cannot_start_again_is_tried_again_beside_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept(tmp_path, "serve", "serve") as running:
        await running.until_ready()
        killed, other = running.pids
        running.words[0].write_text("refuse")
        os.kill(killed, signal.SIGKILL)

        async def was_refused() -> bool:
            return running.supervisor.restarts >= 2

        await eventually_async(was_refused, 15)
        assert other in running.pids
        assert not running.supervisor.is_ready
        told = [vars(record)["problems"] for record in caplog.records if record.message == "a worker ended and is started again"]
        assert [[], ["--listen: is taken", "worker 0: is one of them"]] == told[:2]
        running.words[0].write_text("serve")
        await running.until_ready()


async def test_a_worker_that_crashes_is_started_later_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with kept(tmp_path, "crash") as running:

        async def has_crashed_often() -> bool:
            return running.supervisor.restarts >= 3

        await eventually_async(has_crashed_often, 15)
        waits = [vars(record)["in_s"] for record in caplog.records if record.name == "extauthz.workers"]
        assert waits[:3] == [0.2, 0.4, 0.8]


async def test_stopping_lets_workers_finish_and_kills_those_that_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LATE_S", 0.1)
    async with kept(tmp_path, "serve", "deaf", grace_s=0.3) as running:
        await running.until_ready()
        pids = running.pids
        running.supervisor.stop()
        assert not running.supervisor.is_ready
        await asyncio.wait_for(running.running, 10)
        assert not [pid for pid in pids if is_alive(pid)]
        assert running.counted("refused") == 1


async def test_a_second_stop_ends_at_once(tmp_path: Path) -> None:
    async with kept(tmp_path, "deaf", grace_s=60) as running:
        await running.until_ready()
        running.supervisor.stop()
        running.supervisor.kill()
        await asyncio.wait_for(running.running, 5)


async def test_a_stop_while_workers_start_leaves_none(tmp_path: Path) -> None:
    async with kept(tmp_path, "serve", "serve", "serve") as running:
        await eventually_async(lambda: _has_started(running))
        pids = running.pids
        running.supervisor.stop()
        await asyncio.wait_for(running.running, 15)
        assert not [pid for pid in pids if is_alive(pid)]


async def test_a_system_without_processes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, refusals = subprocess.Popen, iter([True, True, False])

    class Scarce(real):  # type: ignore[misc,valid-type]
        def __init__(self, *args: object, **options: object) -> None:
            if next(refusals, False):
                raise OSError(11, "Resource temporarily unavailable")
            super().__init__(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", Scarce)
    async with kept(tmp_path, "serve") as running:
        await running.until_ready()
        assert [record.levelno for record in caplog.records if record.name == "extauthz.workers"] == [logging.ERROR] * 2


def test_a_worker_whose_parent_is_gone_ends(tmp_path: Path) -> None:
    """Before it was told its job, and while it works."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", MODULE, str(theirs.fileno())], pass_fds=(theirs.fileno(),))
    ours.close()
    assert process.wait(15) == 0


async def test_ctrl_c_does_not_reach_a_worker_at_any_moment(tmp_path: Path) -> None:
    """Also not while it imports: SIGINT is blocked before its first line."""
    async with kept(tmp_path, "serve") as running:
        await eventually_async(lambda: _has_started(running))
        pid, until = running.pids[0], time.monotonic() + 1.0
        while time.monotonic() < until and not running.supervisor.is_ready:
            os.kill(pid, signal.SIGINT)
            await asyncio.sleep(0.01)
        await running.until_ready()
        assert running.pids == [pid]
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


async def _has_started(running: Kept) -> bool:
    return bool(running.pids)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0", id="half a length"),
        pytest.param(b"\0\0\0\x05abcd", id="half a message"),
        pytest.param((MESSAGE_BYTES_MAX + 1).to_bytes(4, "big") + b"x", id="a length beyond the bound"),
    ],
)
async def test_what_is_no_message_is_the_end(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    control = await Control.of(ours)
    with theirs:
        theirs.sendall(sent)
    with pytest.raises(EOFError):
        await control.receive()
    control.close()
    control.send(None)
    await control.finish()


async def test_messages_arrive_whole_however_they_are_cut() -> None:
    ours, theirs = socket.socketpair()
    control = await Control.of(ours)
    with theirs:
        for byte in b"\0\0\0\x03abc\0\0\0\x01z":
            theirs.sendall(bytes([byte]))
            await asyncio.sleep(0)
        assert [await control.receive(), await control.receive()] == [b"abc", b"z"]
    await control.finish()
