"""`python -m extauthz.cli.worker DESCRIPTOR`: what the supervisor starts, once per worker. Not for people.

It imports only what a worker needs, because a worker must serve within a second of its start: no typer, pydantic, rich, grpcio,
redis-py (tests/cli/test_serve.py holds it to that).
"""

import asyncio
import sys

import uvloop

from extauthz.cli.sidecar import Sidecar
from extauthz.settings import read_serving
from extauthz.telemetry import logs
from extauthz.transport.workers import HandOver, Job, as_worker, leave_no_core


async def run(job: Job, stop: asyncio.Event, hand_over: HandOver) -> None:
    """The job, by the environment's settings. Raises BadConfig when it cannot be begun as things are."""
    settings = read_serving()
    logs.configure(settings.log_level)
    await Sidecar(settings, job).run(stop, hand_over)


def main() -> int:
    """Run the job that comes over the descriptor, to its exit code."""
    leave_no_core()
    return uvloop.run(as_worker(int(sys.argv[1]), run))


if __name__ == "__main__":
    sys.exit(main())
