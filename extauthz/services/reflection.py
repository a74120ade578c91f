"""`grpc.reflection`: what a person with grpcurl asks for first. On the reference transport only."""

import grpc
from grpc_reflection.v1alpha import reflection

from extauthz import _pb
from extauthz.services.health import AUTHORIZATION


def register(server: grpc.aio.Server) -> None:
    """Add the service to a server that is not started, with our messages from their private pool."""
    reflection.enable_server_reflection((AUTHORIZATION, "grpc.health.v1.Health", reflection.SERVICE_NAME), server, pool=_pb.POOL)
