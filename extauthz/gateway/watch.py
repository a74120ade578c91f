"""The gateway file while it changes: each new content once, as its values or as what is wrong with it.

The folder is watched and not the file, because a Kubernetes ConfigMap swaps a symlink beside it and editors rename over it. What
the system does not report (a symlink into another folder, a network file system, a folder that is not there yet) is found by
reading the file again every few seconds. Never raises for a file, however bad it is; whoever asks keeps what it had.
"""

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

# The documented low-level interface, https://watchfiles.helpmanual.io/api/rust_backend/
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from extauthz.errors import BadConfig
from extauthz.gateway.load import parse, read
from extauthz.gateway.model import Gateway

#: Changes closer together than this are one change: an editor that empties the file and then writes it is seen once.
STEP_MS = 100
#: A stream of changes delays a reload by this at most.
DEBOUNCE_MS = 1_000
#: The file is read again after this long without a change, and a folder that cannot be watched is tried again.
POLL_MS = 2_000


async def watch(path: Path | str, known: str | BadConfig | None = None) -> AsyncGenerator[Gateway | BadConfig, None]:
    """Yield once for each content that differs from the one before, until it is closed.

    Args:
        path: the gateway file; it need not be there.
        known: what the caller's own `load` gave: the digest of the gateway, or what was wrong. It is not yielded again, and nothing
            that changed since is lost. None: whatever the first look finds is yielded.
    """
    seen = known if isinstance(known, str) else None
    told = known.problems if isinstance(known, BadConfig) else ()
    async with aclosing(_occasions(Path(path).parent)) as occasions:
        async for _ in occasions:
            now, content = await asyncio.to_thread(_look, path)
            if now != seen:
                seen = now
                # Off the event loop: 500 routes take longer than a Check may wait.
                found = await asyncio.to_thread(_judge, path, content)
                if not (isinstance(found, BadConfig) and found.problems == told):
                    yield found
                told = ()


async def _occasions(folder: Path) -> AsyncGenerator[None, None]:
    """When to look: once the folder is watched, after each change in it, and every POLL_MS."""
    is_closed = threading.Event()
    try:
        while True:
            try:
                # The watch begins before the first look, so no change falls between them. `watchfiles.awatch` begins it with its
                # first wait, too late for that.
                watcher = RustNotify([str(folder)], False, False, 0, False, False)
                while True:
                    yield
                    await asyncio.to_thread(watcher.watch, DEBOUNCE_MS, STEP_MS, POLL_MS, is_closed)
            except (OSError, WatchfilesRustInternalError):
                # The folder is not there, may not be read, or the system has no watches left: reading still works, or will.
                yield
                await asyncio.sleep(POLL_MS / 1_000)
    finally:
        # A thread may still wait: it ends within a step.
        is_closed.set()


def _look(path: Path | str) -> tuple[str, bytes | BadConfig]:
    """What tells this content from others, and the content; or why it cannot be read, as both."""
    try:
        data = read(path)
    except BadConfig as bad:
        return str(bad), bad
    return hashlib.sha256(data).hexdigest(), data


def _judge(path: Path | str, content: bytes | BadConfig) -> Gateway | BadConfig:
    if isinstance(content, BadConfig):
        return content
    try:
        return parse(content, str(path))
    except BadConfig as bad:
        return bad
