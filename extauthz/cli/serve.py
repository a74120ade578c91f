"""`extauthz serve`: the parent. It starts the workers, keeps them running, and tells about them; it decides nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from extauthz import __version__
from extauthz.cli.transports import Transport
from extauthz.settings import LISTEN_DEFAULT, LISTEN_DEFAULT_SHOWN, Listen, parse_listen, parse_port, read_serving, worker_listens
from extauthz.telemetry import logs
from extauthz.telemetry.metrics import BUILD, RESTARTS, WORKERS, Metrics, Snapshot, merged
from extauthz.transport.workers import Job, Supervisor, leave_no_core


def serve(
    config: Annotated[Path, typer.Option(help="The gateway file; reloaded when it changes.")],
    listen: Annotated[
        list[str] | None,
        typer.Option(help="unix:PATH or HOST:PORT; may be given more than once.", show_default=LISTEN_DEFAULT_SHOWN),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes: PATH.0 … PATH.N-1, PORT … PORT+N-1.")] = None,
    transport: Annotated[Transport, typer.Option(help="Which transport serves Envoy.")] = Transport.FAST,
    health: Annotated[str, typer.Option(help="HOST:PORT for grpc.health.v1, plaintext, from the parent.")] = "",
    metrics: Annotated[str, typer.Option(help="HOST:PORT for /metrics, from the parent.")] = "",
) -> None:
    """Serve Envoy: the sidecar itself. SIGTERM drains; a second one ends at once."""
    leave_no_core()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's own lines, workers' included, are neither JSON nor redacted
    each = worker_listens([parse_listen(text) for text in listen or LISTEN_DEFAULT], workers)
    addresses = (parse_port(health, "--health") if health else None, parse_port(metrics, "--metrics") if metrics else None)
    settings = read_serving()
    logs.configure(settings.log_level)
    jobs = [Job(index, str(config.absolute()), tuple(str(own) for own in mine), str(transport)) for index, mine in enumerate(each)]
    supervisor = Supervisor(jobs, "extauthz.cli.worker", settings.drain_s)
    if not uvloop.run(_run(supervisor, *addresses)):
        raise typer.Exit(1)


async def _run(supervisor: Supervisor, health: Listen | None, metrics: Listen | None) -> bool:
    """Until the workers have ended: True when they were let finish. Raises BadConfig when they could not begin."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _asked_to_stop, supervisor, asked, number)
    # The workers begin before this process imports what it tells about them with.
    running = asyncio.ensure_future(supervisor.run())
    async with contextlib.AsyncExitStack() as open_until_the_end:
        try:
            if health is not None:
                pod_health = await asyncio.to_thread(import_module, "extauthz.cli.pod_health")
                await open_until_the_end.enter_async_context(pod_health.serve_health(supervisor, str(health)))
            if metrics is not None:
                exposition = await asyncio.to_thread(import_module, "extauthz.telemetry.exposition")
                stop = exposition.serve_metrics(metrics.host, metrics.port, _snapshot_of(supervisor))
                open_until_the_end.push_async_callback(asyncio.to_thread, stop)  # up to half a second
        except BaseException:
            supervisor.stop()
            await asyncio.wait({running})
            raise
        await running
    return len(asked) <= 1


def _asked_to_stop(supervisor: Supervisor, asked: list[int], number: int) -> None:
    asked.append(number)
    if len(asked) > 1:
        supervisor.kill()
    else:
        supervisor.stop()


def _snapshot_of(supervisor: Supervisor) -> Callable[[], Snapshot]:
    def snapshot() -> Snapshot:
        own = Metrics()
        own.set(BUILD, (__version__,), 1.0)
        own.set(WORKERS, (), float(sum(state.is_ready for state in supervisor.states)))
        own.set(RESTARTS, (), float(supervisor.restarts))
        return merged([own.snapshot(), *supervisor.snapshots])

    return snapshot
