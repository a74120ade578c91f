"""`grpc.health.v1.Health`: Check and Watch, a status per name. Readiness is real: configured, and Redis reached once.

The names: `` and each service for readiness, `redis` for Redis' state at this moment, `liveness` which is serving as long as
anybody answers. A blip of Redis does not unready a pod, because every pod would go at once: the decisions refuse meanwhile.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping

from google.protobuf.message import DecodeError

from extauthz import _pb
from extauthz.errors import Malformed, Missing

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
READINESS = ("", AUTHORIZATION)
REDIS = "redis"
LIVENESS = "liveness"

SERVING = 1
NOT_SERVING = 2
SERVICE_UNKNOWN = 3
#: How often a watched name is looked at, seconds.
WATCH_S = 0.25

_ANSWERS: dict[int, bytes] = {
    status: _pb.HealthCheckResponse(status=status).SerializeToString() for status in (SERVING, NOT_SERVING, SERVICE_UNKNOWN)
}


class HealthService:
    """Answers for the names it is given.

    Args:
        names: what to call for each name, whether it serves now.
    """

    def __init__(self, names: Mapping[str, Callable[[], bool]]) -> None:
        self._names = names
        self._is_ending = False

    def end(self) -> None:
        """Let every watcher hear what is so now, and end its stream: a drain does not wait for clients that never leave."""
        self._is_ending = True

    def _status(self, message: bytes) -> int:
        try:
            name = _pb.HealthCheckRequest.FromString(message).service
        except DecodeError as error:
            raise Malformed("the message is no HealthCheckRequest") from error
        serves = self._names.get(name)
        if serves is None:
            return SERVICE_UNKNOWN
        return SERVING if serves() else NOT_SERVING

    async def check(self, message: bytes, _deadline: float) -> bytes:
        """One status. Raises Missing for a name that is not served, which is NOT_FOUND by the protocol."""
        status = self._status(message)
        if status == SERVICE_UNKNOWN:
            raise Missing("no such service")
        return _ANSWERS[status]

    async def watch(self, message: bytes, deadline: float) -> AsyncIterator[bytes]:
        """The status now, and again whenever it changes, until the deadline or the client's end."""
        told = 0
        now = asyncio.get_running_loop().time
        while now() < deadline:
            status = self._status(message)
            if status != told:
                told = status
                yield _ANSWERS[status]
            if self._is_ending:
                return
            await asyncio.sleep(WATCH_S if deadline == math.inf else min(WATCH_S, max(0.0, deadline - now())))
