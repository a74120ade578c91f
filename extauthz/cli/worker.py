"""`python -m extauthz.cli.worker DESCRIPTOR`: what the supervisor starts, once per worker. Not for people.

It imports only what a worker needs, because a worker must serve within a second of its start.
"""

import asyncio
import sys

import uvloop

from extauthz.cli.sidecar import Sidecar
from extauthz.errors import BadConfig
from extauthz.settings import read_serving
from extauthz.telemetry import logs
from extauthz.transport.workers import REFUSED, HandOver, Job, as_worker, leave_no_core


def main() -> int:
    """Run the job that comes over the descriptor; REFUSED when it can never run as it is."""
    leave_no_core()
    try:
        settings = read_serving()
        logs.configure(settings.log_level)

        async def run(job: Job, stop: asyncio.Event, hand_over: HandOver) -> None:
            await Sidecar(settings, job).run(stop, hand_over)

        uvloop.run(as_worker(int(sys.argv[1]), run))
    except BadConfig as bad:
        print("\n".join(f"error: {problem}" for problem in bad.problems), file=sys.stderr)  # noqa: T201 — before any log
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
