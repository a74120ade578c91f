"""The Redis that is the record until a control plane exists, over redis-py: commands one after the other on one connection.

Foreign exceptions end here, by the table below. Nothing here is on a request's path.
"""

import re
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import redis.asyncio
from redis import exceptions as foreign
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from extauthz.errors import ExtauthzError, Unavailable
from extauthz.redisio.url import RedisUrl
from extauthz.secret import Secret

#: What one command may take before the server counts as silent.
TIMEOUT_S = 5.0
#: A command is sent again after a lost connection this often. Every write of this room may be sent twice: see publish.lua.
RETRIES = 2
RETRY_S = 0.2

Command = tuple[bytes | str | int, ...]

#: What Unavailable says for redis-py's exceptions, the first that fits; the texts are ours, since theirs may repeat arguments.
_TABLE: tuple[tuple[type[Exception], str], ...] = (
    (foreign.AuthenticationError, "refused the user name or password"),
    (foreign.AuthorizationError, "refused the user's rights"),
    (foreign.NoPermissionError, "refused the user's rights"),
    (foreign.BusyLoadingError, "is still loading its data"),
    (foreign.TimeoutError, "did not answer in time"),
    (foreign.ConnectionError, "cannot be reached"),
    (foreign.ReadOnlyError, "is a read-only replica: name the primary"),
    (foreign.OutOfMemoryError, "is out of memory"),
    (foreign.MovedError, "is part of a cluster, which this command does not speak to yet"),
    (foreign.ClusterError, "is a cluster that is down"),
    (foreign.ResponseError, "answered with an error"),
    (foreign.RedisError, "failed"),
    (OSError, "cannot be reached"),
)
_WRAPPED = re.compile(r": -(READONLY|OOM) ")
_OF_CODE = {"READONLY": "is a read-only replica: name the primary", "OOM": "is out of memory"}


class Damaged(Unavailable):
    """What is stored is not what was written. Nothing was written over it."""


class Emptied(Damaged):
    """This Redis lost what it held, whole or in part. Nothing was written: a record with holes must not grow."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: this Redis was emptied or restored in part. Restore its backup (append-only file), or empty it whole "
            "(FLUSHALL), create the tenants and keys again and restart the sidecars"
        )


class NoRecord(Damaged):
    """This Redis holds nothing of ours: it is new, or it was emptied whole. Nothing was written."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"Redis at {where} holds no record: begin with `extauthz tenant create`, or restore its backup if it had one"
        )


class Conflict(ExtauthzError):
    """It exists already, or others changed it all the time. Nothing was written."""


def _address(at: RedisUrl) -> dict[str, Any]:
    if at.path:
        return {"unix_socket_path": at.path}
    if not at.is_tls:
        return {"host": at.host, "port": at.port}
    return {
        "host": at.host,
        "port": at.port,
        "ssl": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": at.ca_file or None,
        "ssl_certfile": at.certificate_file or None,
        "ssl_keyfile": at.key_file or None,
    }


class Server:
    """A way to the record. One task uses it at a time: then it is one connection.

    Args:
        url: see redisio/url.py; the sidecar takes the same. Raises BadConfig.
    """

    def __init__(self, url: Secret) -> None:
        at = RedisUrl.parse(url.reveal().decode())
        #: Where it is, without user and password.
        self.where = at.path or f"{at.host}:{at.port}"
        self._client = redis.asyncio.Redis(
            **_address(at),
            db=at.db,
            username=at.username or None,
            password=at.password.reveal().decode() if at.password else None,
            protocol=2,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(ConstantBackoff(RETRY_S), RETRIES, supported_errors=(foreign.ConnectionError,)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connection back; twice does nothing."""
        await self._client.aclose()

    async def execute(self, *args: bytes | str | int) -> Any:
        """One command and its reply."""
        return (await self.execute_all([args]))[0]

    async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
        """Commands in one round trip, not as a transaction. Raises the first error; those after it were executed all the same."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(await pipeline.execute())
        except (foreign.RedisError, OSError) as error:
            raise self._mapped(error) from error

    def _mapped(self, error: Exception) -> Unavailable:
        # Redis 6.2 wraps an error inside a script, and redis-py then knows it for an error only.
        wrapped = _WRAPPED.search(str(error)) if isinstance(error, foreign.ResponseError) else None
        text = _OF_CODE[wrapped[1]] if wrapped else next(text for theirs, text in _TABLE if isinstance(error, theirs))
        return Unavailable(f"Redis at {self.where} {text}")
