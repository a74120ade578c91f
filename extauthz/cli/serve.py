"""`extauthz serve`: the parent. It starts the workers, keeps them running, and tells about them; it decides nothing."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from extauthz.cli.transports import Transport, server
from extauthz.credentials import keyring
from extauthz.errors import BadConfig
from extauthz.gateway.load import load
from extauthz.services.health import LIVENESS, READINESS, REDIS, HealthService
from extauthz.settings import LISTEN_DEFAULT, Listen, ServingSettings, parse_listen, read_serving, worker_listens
from extauthz.telemetry import logs
from extauthz.telemetry.metrics import RESTARTS, WORKERS, Metrics, Snapshot, merged
from extauthz.transport.seam import Services
from extauthz.transport.workers import Job, Supervisor, leave_no_core

_log = logging.getLogger("extauthz.serve")


def serve(
    config: Annotated[Path, typer.Option(help="The gateway file; reloaded when it changes.")],
    listen: Annotated[list[str] | None, typer.Option(help="unix:PATH or HOST:PORT; may be given more than once.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes: PATH.0 … PATH.N-1, PORT … PORT+N-1.")] = None,
    transport: Annotated[Transport, typer.Option(help="Which transport serves Envoy.")] = Transport.FAST,
    health: Annotated[str, typer.Option(help="HOST:PORT for grpc.health.v1, plaintext, from the parent.")] = "",
    metrics: Annotated[str, typer.Option(help="HOST:PORT for /metrics, from the parent.")] = "",
) -> None:
    """Serve Envoy: the sidecar itself. SIGTERM drains; a second one ends at once."""
    leave_no_core()
    settings = read_serving()
    logs.configure(settings.log_level)
    keyring.load([settings.master_key_file])  # said once here, by name, before N workers say it
    each = worker_listens([parse_listen(text) for text in listen or LISTEN_DEFAULT], workers)
    jobs = [Job(index, str(config.absolute()), tuple(str(own) for own in mine), str(transport)) for index, mine in enumerate(each)]
    _warn_of_bad_file(config)
    addresses = (parse_listen(health, "--health") if health else None, parse_listen(metrics, "--metrics") if metrics else None)
    if not uvloop.run(_run(settings, jobs, *addresses)):
        raise typer.Exit(1)


def _warn_of_bad_file(config: Path) -> None:
    """A bad gateway file does not keep the sidecar from starting; whoever started it by hand sees every problem at once."""
    try:
        load(config)
    except BadConfig as bad:
        _log.error("not serving until the gateway file is mended", extra={"problems": [str(problem) for problem in bad.problems]})


async def _run(settings: ServingSettings, jobs: list[Job], health: Listen | None, metrics: Listen | None) -> bool:
    supervisor = Supervisor(jobs, "extauthz.cli.worker", settings.drain_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _asked_to_stop, supervisor, [])
    async with contextlib.AsyncExitStack() as open_until_the_end:
        if health is not None:
            await open_until_the_end.enter_async_context(_health(supervisor, health))
        if metrics is not None:
            from extauthz.telemetry.exposition import serve_metrics  # noqa: PLC0415 — 40 ms that only /metrics needs

            open_until_the_end.callback(serve_metrics(metrics.host, metrics.port, _snapshot_of(supervisor)))
        return await supervisor.run()


def _asked_to_stop(supervisor: Supervisor, before: list[bool]) -> None:
    if before:
        supervisor.kill()
    before.append(True)
    supervisor.stop()


def _snapshot_of(supervisor: Supervisor) -> Callable[[], Snapshot]:
    def snapshot() -> Snapshot:
        own = Metrics()
        own.set(WORKERS, (), float(sum(state.is_ready for state in supervisor.states)))
        own.set(RESTARTS, (), float(supervisor.restarts))
        return merged([own.snapshot(), *supervisor.snapshots])

    return snapshot


@contextlib.asynccontextmanager
async def _health(supervisor: Supervisor, listen: Listen) -> AsyncIterator[None]:
    """The pod's health on a port of its own, by the reference transport, which has Watch."""
    service = HealthService(
        {
            **dict.fromkeys(READINESS, lambda: supervisor.is_ready),
            REDIS: lambda: bool(supervisor.states) and all(state.has_redis for state in supervisor.states),
            LIVENESS: lambda: True,
        },
    )
    served = server(
        Transport.GRPCIO,
        Services(
            unary={"/grpc.health.v1.Health/Check": service.check},
            server_stream={"/grpc.health.v1.Health/Watch": service.watch},
        ),
        lambda method, error: _log.error("health", extra={"method": method}, exc_info=error),
    )
    await served.start(str(listen))
    try:
        yield
    finally:
        await served.drain(1.0)
        await served.close()
