"""The fast transport: our own HTTP/2 on asyncio or uvloop. Listening, deadlines, drain; a connection is `shell.Shell`."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from extauthz.transport import listening
from extauthz.transport.h2.limits import Limits
from extauthz.transport.h2.request import Kind, Route
from extauthz.transport.seam import Services
from extauthz.transport.shell import Shell

#: How late a passed deadline may be answered. The clock of uvloop counts milliseconds.
TICK_S = 0.005
#: Ticks without a call after which they stop; the next call that waits begins them again.
_IDLE_TICKS = 200
_SLOW_TICK_S = 0.5
_TLS_HANDSHAKE_WITHIN_S = 5.0

OnBug = Callable[[str, BaseException], None]


class FastServer:
    """Serves `services` over HTTP/2 without TLS, or with it when `ssl_context` is given.

    Args:
        on_bug: told of every exception that no handler may let out, with the method's path. Must not raise.
        limits: the bounds of each connection.
        ssl_context: a server's context; ALPN is set to h2 here.
    """

    def __init__(
        self, services: Services, *, on_bug: OnBug, limits: Limits | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.on_bug = on_bug
        self.routes: Mapping[bytes, Route] = _routes(services)
        self.is_tls = ssl_context is not None
        self.shells: set[Shell] = set()
        #: How connections ended that were ended by us: reason → count. The reasons are constants of `h2`.
        self.closed_because: dict[str, int] = {}
        self._ssl_context = ssl_context
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[Path, int]] = []
        self._tick: asyncio.TimerHandle | None = None
        self._slow_tick: asyncio.TimerHandle | None = None
        self._idle_ticks = 0
        if ssl_context is not None:
            ssl_context.set_alpn_protocols(["h2"])

    async def start(self, listen: str) -> None:
        """Listen on `unix:PATH` or `HOST:PORT`; may be called for several. Raises BadConfig when the address cannot be had."""
        found = listening.bind(listen)
        loop = asyncio.get_running_loop()
        tls_timeout = _TLS_HANDSHAKE_WITHIN_S if self._ssl_context is not None else None
        self._servers.append(
            await loop.create_server(
                lambda: Shell(self, loop), sock=found, ssl=self._ssl_context, ssl_handshake_timeout=tls_timeout
            )
        )
        self._remember_path(found.getsockname())
        if self._slow_tick is None:
            self._slow_tick = loop.call_later(_SLOW_TICK_S, self._on_slow_tick, loop)

    async def drain(self, grace_s: float) -> None:
        """Take no new connections, ask clients to open no more calls, finish those that run, then close."""
        self._stop_listening()
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        for shell in list(self.shells):
            shell.drain()
        while self.shells and loop.time() < until:
            for shell in list(self.shells):
                shell.close_when_drained()
            await asyncio.sleep(TICK_S)
        await self.close()

    async def close(self) -> None:
        """Close every connection; running handlers are cancelled and waited for, a second at most."""
        self._stop_listening()
        shells = list(self.shells)
        for shell in shells:
            shell.abort()
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.0
        while any(shell.has_work() for shell in shells) and loop.time() < until:  # noqa: ASYNC110 (no event per call for this)
            await asyncio.sleep(TICK_S)
        for handle in (self._tick, self._slow_tick):
            if handle is not None:
                handle.cancel()
        self._tick = self._slow_tick = None
        await asyncio.sleep(0)  # transports say goodbye in the next turn

    def watch_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        """A call waits: see to it that its deadline is noticed."""
        self._idle_ticks = 0
        if self._tick is None:
            self._tick = loop.call_later(TICK_S, self._on_tick, loop)

    def _on_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._idle_ticks += 1
        for shell in list(self.shells):
            if shell.connection.streams:
                self._idle_ticks = 0
                shell.tick(now)
        self._tick = loop.call_later(TICK_S, self._on_tick, loop) if self._idle_ticks < _IDLE_TICKS else None

    def _on_slow_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for shell in list(self.shells):
            shell.slow_tick(now, _SLOW_TICK_S)
            if shell.connection.streams:
                self.watch_deadlines(loop)
        self._slow_tick = loop.call_later(_SLOW_TICK_S, self._on_slow_tick, loop)

    def _remember_path(self, name: Any) -> None:
        """The file of a Unix socket, to remove it at the end."""
        if isinstance(name, str):
            self._paths.append((Path(name), Path(name).stat().st_ino))

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:  # else another process has taken it over
                    path.unlink()
        self._paths.clear()


def _routes(services: Services) -> dict[bytes, Route]:
    routes = {}
    for kind, handlers in (
        (Kind.UNARY, services.unary),
        (Kind.CLIENT_STREAM, services.client_stream),
        (Kind.SERVER_STREAM, services.server_stream),
    ):
        for path, handler in handlers.items():
            routes[path.encode()] = Route(path, kind, handler)
    return routes
