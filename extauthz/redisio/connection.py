"""The one connection of a worker to Redis: it connects, lets itself in, loads the scripts, and comes back for ever.

All commands of the worker share it. Commands fail at once while it is away; nothing is kept for later and nothing is sent twice.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Sequence
from typing import Any, Final

from extauthz.errors import Unavailable
from extauthz.redisio.errors import CommandFailed, NotSent, ServerBusy
from extauthz.redisio.link import Link
from extauthz.redisio.pipeline import pack
from extauthz.redisio.reply import Reply
from extauthz.redisio.script import Script
from extauthz.redisio.url import RedisUrl

logger = logging.getLogger("extauthz.redis")

#: From the first byte of the connection to the last reply of the handshake.
CONNECT_TIMEOUT_S: Final = 1.0
#: The wait before attempt n is random between half and all of min(BACKOFF_MAX_S, BACKOFF_S * 2^n): back within 0.5 s of the server.
BACKOFF_S: Final = 0.02
BACKOFF_MAX_S: Final = 0.4
#: A connection that lived for so long was a good one: the next attempt is made at once.
SETTLED_S: Final = 1.0
#: Replies to AUTH, SELECT and the loading of scripts must be right; to the others an error is fine.
_ACCESS_CODES: Final = frozenset({"NOAUTH", "WRONGPASS"})


class CannotConnect(Exception):
    """This attempt failed; the text says why and holds no secret."""


class _Away:
    """What stands in for a link while there is none."""

    is_flowing = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def submit(self, command: bytes, deadline: float) -> Reply:  # noqa: ARG002 — a link's signature
        raise NotSent(f"Redis is {self._reason}")

    submit_slow = submit


class Connection:
    """See the module.

    Args:
        url: where Redis is; a name is resolved anew for each attempt.
        scripts: loaded on every connect, before any other command is accepted.
        timeout_s: the longest a reply may take before the connection counts as stalled; greater than 0.
    """

    def __init__(self, url: RedisUrl, scripts: Sequence[Script] = (), *, timeout_s: float = 0.25) -> None:
        self._url = url
        self._scripts = tuple(scripts)
        self._timeout_s = timeout_s
        self._link: Link | _Away = _Away("not connected: not started")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._loads: dict[str, Reply] = {}
        self._said = ""
        #: How often it connected; another number means that another server may answer, or an emptied one.
        self.generation = 0

    def __repr__(self) -> str:
        return f"Connection({self._url.address}, {'connected' if self.is_connected else 'not connected'})"

    @property
    def is_connected(self) -> bool:
        """Whether a command would be written now: connected, let in, and the server answers in time."""
        return self._link.is_flowing

    @property
    def has_connected_once(self) -> bool:
        """Whether it ever was connected."""
        return self.generation > 0

    async def start(self) -> None:
        """Begin to connect and keep connecting until `close`. Returns after the first attempt, whether it succeeded or failed."""
        if self._keeper is not None:
            raise RuntimeError("started twice")
        self._loop = asyncio.get_running_loop()
        self._link = _Away("not connected yet")
        self._keeper = self._loop.create_task(self._keep(), name="redis connection")
        await self._tried.wait()

    async def close(self) -> None:
        """Close and stay closed. What is in flight ends with OutcomeUnknown."""
        link, self._link = self._link, _Away("closed")
        keeper = self._keeper
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if isinstance(link, Link):
            link.end("closed")
            await link.lost.wait()

    def submit(self, command: bytes, deadline: float) -> Reply:
        """Send one packed command in this loop turn's write. HOT.

        Args:
            command: exactly one, from `pack`.
            deadline: loop.time(), inf allowed; the connection's own timeout counts when it is sooner.

        Raises NotSent at once. The reply is bytes, int, None or a nested list, or raises OutcomeUnknown, ServerBusy, CommandFailed.
        """
        return self._link.submit(command, deadline)

    async def execute(self, *args: bytes | str | int, deadline: float | None = None) -> Any:
        """Pack and send one command and await its reply; see `submit` for the errors.

        Args:
            deadline: loop.time(); may be later than the connection's timeout, for a command that takes long. None: the timeout.
        """
        if deadline is None:
            return await self._link.submit(pack(*args), float("inf"))
        return await self._link.submit_slow(pack(*args), deadline)

    async def run(self, script: Script, command: bytes, deadline: float) -> Any:
        """A packed EVALSHA of the script; when the server does not know it, it is loaded and sent once more: it did not run. HOT.

        Raises ServerBusy when it is unknown a second time; else as `submit`.
        """
        try:
            return await self._link.submit(command, deadline)
        except CommandFailed as error:
            if error.code != "NOSCRIPT":
                raise
        self._load(script, deadline)
        try:
            return await self._link.submit(command, deadline)
        except CommandFailed as error:
            if error.code != "NOSCRIPT":
                raise
            raise ServerBusy("NOSCRIPT", f"NOSCRIPT twice for {script.name}") from error

    def _load(self, script: Script, deadline: float) -> None:
        """Put a SCRIPT LOAD into the pipeline unless one is in flight: what is sent after it finds the script."""
        loading = self._loads.get(script.sha)
        if loading is None or loading.done():
            self._loads[script.sha] = self._link.submit(pack("SCRIPT", "LOAD", script.source), deadline)

    # Connecting. One task for the whole life; the link tells it when it is lost.

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                link = await self._connect()
            except CannotConnect as error:
                self._link = _Away(f"not connected: {error}")
                self._say(logging.ERROR, f"cannot connect: {error}")
                attempt += 1
            else:
                connected_at = self._now()
                self._link = link
                self.generation += 1
                self._say(logging.INFO, "connected")
                self._tried.set()
                await link.lost.wait()
                attempt = 0 if self._now() - connected_at > SETTLED_S else attempt + 1
            self._tried.set()
            await asyncio.sleep(_backoff_s(attempt))

    async def _connect(self) -> Link:
        """A link that is let in and knows the scripts. Raises CannotConnect; then nothing of the attempt is left open."""
        loop = asyncio.get_running_loop()
        link = Link(loop, CONNECT_TIMEOUT_S, self._on_change, self._on_lost)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._open(loop, link)
                await self._shake_hands(link)
        except TimeoutError:
            reason = f"no answer within {CONNECT_TIMEOUT_S:g} s"
        except ssl.SSLError as error:
            reason = f"TLS failed: {error.reason or 'no reason given'}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
        except (Unavailable, CannotConnect) as error:
            reason = str(error)
        except BaseException:
            link.end("closed")
            raise
        else:
            link.settle(self._timeout_s)
            return link
        link.end(reason)
        raise CannotConnect(reason)

    async def _open(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        url = self._url
        context = url.tls()
        if url.path:
            await loop.create_unix_connection(lambda: link, url.path)
        else:
            await loop.create_connection(lambda: link, url.host, url.port, ssl=context)

    async def _shake_hands(self, link: Link) -> None:
        """Everything that a new connection needs, in one write."""
        url = self._url
        needed: list[tuple[str, bytes]] = []
        if url.password is not None:
            who = (url.username,) if url.username else ()
            needed.append(("user and password", pack("AUTH", *who, url.password.reveal())))
        if url.db:
            needed.append((f"database {url.db}", pack("SELECT", url.db)))
        needed += [(f"the script {script.name}", pack("SCRIPT", "LOAD", script.source)) for script in self._scripts]
        wished = [pack("CLIENT", "SETNAME", "extauthz"), pack("CLIENT", "NO-EVICT", "on")]
        deadline = self._now() + CONNECT_TIMEOUT_S
        replies = [link.submit(command, deadline) for _, command in needed]
        courtesies = [link.submit(command, deadline) for command in wished]
        for (what, _), reply in zip(needed, replies, strict=True):
            await _accepted(reply, what)
        for reply in courtesies:
            await _not_locked_out(reply)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _on_change(self, link: Link) -> None:
        if self._link is not link:
            return
        if link.refusal:
            self._say(logging.WARNING, f"{link.refusal}; commands are refused until that changes")
        else:
            self._say(logging.INFO, "connected")

    def _on_lost(self, link: Link) -> None:
        if self._link is link:
            self._link = _Away(f"not connected: {link.refusal}")
            self._say(logging.WARNING, f"connection {link.refusal}")

    def _say(self, level: int, what: str) -> None:
        """Log a change of state; the same state twice is said once."""
        if what != self._said:
            self._said = what
            logger.log(level, "%s: %s", self._url.address, what)


async def _accepted(reply: Reply, what: str) -> None:
    """The server's own text is not repeated: it may quote what it was sent."""
    try:
        await reply
    except CommandFailed as error:
        raise CannotConnect(f"the server refused {what} ({error.code})") from None


async def _not_locked_out(reply: Reply) -> None:
    """Servers that do not know a command, or a user who may not use it, are fine; not to be let in is not."""
    try:
        await reply
    except CommandFailed as error:
        if error.code in _ACCESS_CODES:
            raise CannotConnect(f"the server wants a user and password ({error.code})") from None


def _backoff_s(attempt: int) -> float:
    if attempt == 0:
        return 0.0
    bound: float = min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt)
    return random.uniform(bound / 2, bound)  # noqa: S311 — jitter, no secret
