"""`serve --health HOST:PORT`: grpc.health.v1 of the whole sidecar, from the parent, for a pod's probes.

By the reference transport: probes are of many makes. Importing this takes 0.2 s, so `serve` does it only when asked, and beside the
start of the workers.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from extauthz.errors import BadConfig
from extauthz.services.health import LIVENESS, READINESS, REDIS, HealthService
from extauthz.transport.grpcio_server import GrpcioServer
from extauthz.transport.seam import Services
from extauthz.transport.workers import Supervisor

_log = logging.getLogger("extauthz.serve")
#: How long a probe that is being answered may take when the sidecar ends.
DRAIN_S = 1.0


@contextlib.asynccontextmanager
async def serve_health(supervisor: Supervisor, listen: str) -> AsyncIterator[None]:
    """Serve until the end of the block. Raises BadConfig that names `--health` when the address is taken."""
    service = HealthService(
        {
            **dict.fromkeys(READINESS, lambda: supervisor.is_ready),
            REDIS: lambda: bool(supervisor.states) and all(state.has_redis for state in supervisor.states),
            LIVENESS: lambda: True,
        },
    )
    served = GrpcioServer(
        Services(
            unary={"/grpc.health.v1.Health/Check": service.check},
            server_stream={"/grpc.health.v1.Health/Watch": service.watch},
        ),
        on_bug=lambda method, error: _log.error("health", extra={"method": method}, exc_info=error),
    )
    try:
        await served.start(listen)
    except BadConfig as bad:  # the transport's, which takes every address for one of `--listen`
        raise BadConfig([replace(problem, file="--health") for problem in bad.problems]) from bad
    try:
        yield
    finally:
        service.end()
        await served.drain(DRAIN_S)
        await served.close()
