"""Which transport serves Envoy, by its name on the command line. Only the one asked for is imported: grpcio takes 0.1 s."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib import import_module
from typing import Any, Protocol

from extauthz.transport.seam import Services

OnBug = Callable[[str, BaseException], None]


class Transport(StrEnum):
    """Our own, or grpcio, the reference."""

    FAST = "fast"
    GRPCIO = "grpcio"


class Server(Protocol):
    """What either transport is to those who start it."""

    @property
    def closed_because(self) -> Mapping[str, int]:
        """How many connections it ended, by reason."""

    async def start(self, listen: str) -> None:
        """Listen on one more address. Raises BadConfig when it cannot be had."""

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, finish what runs."""

    async def close(self) -> None:
        """End what still runs."""


def server(transport: Transport, services: Services, on_bug: OnBug) -> Server:
    """A server of these services that listens nowhere yet. The reference transport has reflection too."""
    if transport is Transport.FAST:
        made: Server = _of("extauthz.transport.fast", "FastServer")(services, on_bug=on_bug)
    else:
        register = _of("extauthz.services.reflection", "register")
        made = _of("extauthz.transport.grpcio_server", "GrpcioServer")(services, on_bug=on_bug, register=register)
    return made


def _of(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
