"""Start a program, wait until it serves, stop it by its pid. Every process here is on loopback and ends with its owner."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn


class DidNotStart(RuntimeError):
    """A program ended, or did not serve in time; the text carries the end of its output."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A child in a process group of its own, its output in a file.

    Args:
        command: the program and its arguments; never a secret among them.
        log: where its standard output and error go.
        environment: what is added to this process' own.
        stdin: bytes it reads from its standard input.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_began = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def output(self) -> str:
        """All it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Return once `ready` is true. Raises DidNotStart, with the child stopped, when it ends before or takes longer."""
        deadline = time.monotonic() + timeout_s
        try:
            while not ready():
                if self.exit_code is not None:
                    self._give_up(f"ended with {self.exit_code}")
                if time.monotonic() > deadline:
                    self._give_up(f"is not ready after {timeout_s:g} s")
                time.sleep(0.01)
        except BaseException:  # Ctrl-C included: nobody else may know of the child yet
            self.stop()
            raise

    def _give_up(self, why: str) -> NoReturn:
        said = self.log.read_bytes()[self._log_began :].decode(errors="replace")
        raise DidNotStart(f"{self.command[0]} {why}\n{said[-4000:]}")

    def send(self, number: signal.Signals) -> None:
        """A signal to the child alone."""
        self._child.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        return self._child.wait(timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL to its group. Returns when it is gone; twice does nothing."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGCONT)
            self._child.terminate()
            try:
                self._child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
