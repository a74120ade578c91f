"""What kind of server answers, and whether it may hold counters: asked once at start, and again after it changed."""

from dataclasses import dataclass
from typing import Final, Protocol

from extauthz.errors import BadConfig, Problem
from extauthz.redisio.errors import CommandFailed

#: The oldest server whose scripts and commands are the ones we use.
VERSION_MIN: Final = (6, 2)
_POLICY: Final = "noeviction"


class Executes(Protocol):
    """What is needed of a connection."""

    async def execute(self, *args: bytes | str | int, deadline: float | None = None) -> object:
        """One command and its reply."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says of itself.

    Args:
        product: `redis` or `valkey`.
        version: major, minor, patch.
        run_id: another one means another process.
        replication_id: another one means another history: a failover, or a restart.
        role: `master` or `slave`.
        mode: `standalone`, `sentinel` or `cluster`.
        maxmemory_policy: empty when the server does not tell.
        is_append_only: whether it writes an append-only file.
    """

    product: str
    version: tuple[int, int, int]
    run_id: str
    replication_id: str
    role: str
    mode: str
    maxmemory_policy: str
    is_append_only: bool


async def check_server(connection: Executes, source: str = "EXTAUTHZ_REDIS_URL") -> ServerFacts:
    """Ask the server, and refuse one that could lose counters or that is too old.

    Args:
        connection: connected.
        source: which setting named this server, for the error.

    Raises BadConfig with every problem at once; CommandFailed NOPERM when the user may not use INFO; else as `Connection.submit`.
    """
    info = _fields(await connection.execute("INFO"))
    facts = ServerFacts(
        product="valkey" if "valkey_version" in info else "redis",
        version=_version(info.get("valkey_version") or info.get("redis_version", "")),
        run_id=info.get("run_id", ""),
        replication_id=info.get("master_replid", ""),
        role=info.get("role", ""),
        mode=info.get("server_mode") or info.get("redis_mode", ""),
        maxmemory_policy=await _policy(connection) or info.get("maxmemory_policy", ""),
        is_append_only=info.get("aof_enabled") == "1",
    )
    if problems := [Problem(source, 0, what, allowed) for what, allowed in _wrong_with(facts)]:
        raise BadConfig(problems)
    return facts


def _wrong_with(facts: ServerFacts) -> list[tuple[str, str]]:
    """What is wrong, and what to do."""
    wrong = []
    if facts.version[:2] < VERSION_MIN:
        wrong.append((f"the server is {facts.product} {_dotted(facts.version)}", "Redis 6.2 or later, or Valkey"))
    if facts.maxmemory_policy != _POLICY:
        found = f"is {facts.maxmemory_policy}" if facts.maxmemory_policy else "cannot be read"
        wrong.append(
            (
                f"the server's maxmemory-policy {found}: it may drop counters, and a limit would let more through",
                "in redis.conf 'maxmemory-policy noeviction', or 'redis-cli CONFIG SET maxmemory-policy noeviction'",
            )
        )
    return wrong


async def _policy(connection: Executes) -> str:
    """What CONFIG says; empty where the user or the service does not allow it."""
    try:
        reply = await connection.execute("CONFIG", "GET", "maxmemory-policy")
    except CommandFailed:
        return ""
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode(errors="replace")
    return ""


def _fields(reply: object) -> dict[str, str]:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _version(text: str) -> tuple[int, int, int]:
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(".")]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
