"""One worker: a core that decides, the transport in front of it, and the gateway file it decides by."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

from extauthz.cli.transports import Transport, server
from extauthz.cli.wiring import Core
from extauthz.errors import BadConfig, Problem, Unavailable
from extauthz.gateway.load import load
from extauthz.gateway.model import Gateway
from extauthz.redisio.errors import CommandFailed
from extauthz.redisio.topology import check_server
from extauthz.services.health import AUTHORIZATION, LIVENESS, READINESS, REDIS, HealthService
from extauthz.settings import ServingSettings
from extauthz.telemetry.metrics import BREAKER_OPEN, CLOSED, ERRORS, IDENTITIES, REDIS_UP, RELOADS
from extauthz.transport.seam import Services
from extauthz.transport.workers import HandOver, Job, State

#: Objects that live long are put out of the garbage collector's sight so often, seconds; it then never walks 100,000 documents.
FREEZE_S = 5.0
#: New objects until the youngest are looked at, how often that until those that stayed are, and the oldest, which are frozen before
#: their turn. A worker that learns 10,000 tenants is stopped for 8 ms at most; with 50,000 and 20 for 24 to 44, and as long in all.
COLLECTED_AT = (5_000, 4, 1_000)
#: How often a Redis that is not known to be fit is looked at, and one that is.
UNFIT_S = 0.1
FIT_S = 1.0
_log = logging.getLogger("extauthz.serve")


class Sidecar:
    """One worker: a core, its transport, and its gateway file.

    Args:
        settings: from the environment.
        job: what the parent wants of this worker.

    Raises:
        BadConfig: see Core.
    """

    def __init__(self, settings: ServingSettings, job: Job) -> None:
        self._job = job
        self._drain_s = settings.drain_s
        self._core = Core(settings)
        self._gateway: Gateway | None = None
        self._known: str | BadConfig | None = None
        self._is_draining = False
        self._redis_is_fit = False
        self._judged_generation = 0
        self._told_closed: set[str] = set()
        self._speaks = job.index == 0
        self._hand_over: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        redis = self._core.redis
        self._health = HealthService(
            {**dict.fromkeys(READINESS, lambda: self.is_ready), REDIS: lambda: redis.is_connected, LIVENESS: lambda: True},
        )
        services = Services(
            unary={f"/{AUTHORIZATION}/Check": self._core.answer, "/grpc.health.v1.Health/Check": self._health.check},
            server_stream={"/grpc.health.v1.Health/Watch": self._health.watch},
        )
        self._server = server(Transport(job.transport), services, self._tell_bug)

    @property
    def is_ready(self) -> bool:
        """Whether it can decide: a gateway file is in force, Redis was reached once and is fit, and it is not being stopped."""
        return self._core.checker.policy is not None and not self._is_draining

    def state(self) -> State:
        """What the parent is told."""
        metrics = self._core.metrics
        metrics.set(REDIS_UP, (), float(self._core.redis.is_connected))
        metrics.set(IDENTITIES, (), float(len(self._core.identities)))
        for reason, count in self._server.closed_because.items():
            metrics.set(CLOSED, (reason,), float(count))
            if reason not in self._told_closed:
                self._told_closed.add(reason)
                _log.warning(
                    "a connection that broke a rule was closed; from now on these are only counted", extra={"reason": reason}
                )
        for provider in self._gateway.providers if self._gateway else ():
            metrics.set(BREAKER_OPEN, (provider,), float(provider in self._core.breakers.states))
        return State(self.is_ready, self._core.redis.is_connected, metrics.snapshot())

    async def run(self, stop: asyncio.Event, hand_over: HandOver) -> None:
        """Serve until told to stop, then drain.

        Raises:
            BadConfig: an address is taken, or Redis evicts keys. Nothing was decided then.
        """
        try:
            self._read_gateway()
            await self._core.start()
            await self._judge_redis()
            # Not before: what came in between would be refused, and another worker could have taken it.
            for listen in self._job.listens:
                await self._server.start(listen)
            # The first state says that it started: what keeps it from that is told as a refusal, and not tried again.
            self._hand_over = lambda: hand_over(self.state)
            self._hand_over()
            job = self._job
            _log.info("a worker listens", extra={"worker": job.index, "listens": list(job.listens), "transport": job.transport})
            self._spawn(self._keep_judging_redis())
            self._spawn(self._reload())
            self._spawn(self._keep_out_of_the_collector())
            await stop.wait()
            self._is_draining = True
            self._health.end()
            self._hand_over()
            await self._server.drain(self._drain_s)
            self._hand_over()
        finally:
            await self._close()

    # The gateway file. All workers read the same one, so the first speaks for all of them.

    def _read_gateway(self) -> None:
        """The file as it is at the start. A bad one leaves the worker NOT_SERVING until it is mended."""
        try:
            gateway = load(Path(self._job.config))
        except BadConfig as bad:
            self._known = bad
            self._tell_bad(bad)
        else:
            self._known = gateway.digest
            self._install(gateway)

    def _install(self, gateway: Gateway) -> None:
        self._gateway = gateway
        if self._redis_is_fit:
            self._core.install(gateway)
        self._core.metrics.add(RELOADS, ("loaded",))
        if self._speaks:
            _log.info("gateway file in force", extra={"config": self._job.config, "digest": gateway.digest})
        self._hand_over()

    def _tell_bad(self, bad: BadConfig) -> None:
        self._core.metrics.add(RELOADS, ("refused",))
        kept = "the last good one stays in force" if self._gateway else "nothing is served until it is mended"
        if self._speaks:
            _log.error("gateway file refused", extra={"problems": [str(problem) for problem in bad.problems], "then": kept})

    async def _reload(self) -> None:
        from extauthz.gateway.watch import watch  # noqa: PLC0415 — 20 ms that the start does not need

        async with aclosing(watch(self._job.config, self._known)) as changes:
            async for found in changes:
                if isinstance(found, BadConfig):
                    self._tell_bad(found)
                else:
                    self._install(found)

    # Redis. Nothing is decided before it is known that it drops no counters.

    async def _judge_redis(self) -> None:
        """Ask the server that answers now what it is. Raises BadConfig when it may not hold counters."""
        redis = self._core.redis
        generation = redis.generation
        if not redis.is_connected:
            return
        try:
            facts = await check_server(redis)
        except Unavailable:
            return  # asked again soon; the connection says what is wrong with it
        except CommandFailed as error:
            raise BadConfig(
                [Problem("EXTAUTHZ_REDIS_URL", 0, f"the server refused INFO ({error.code})", "a user who may")]
            ) from error
        finally:
            self._judged_generation = generation
        if self._speaks:
            _log.info("Redis", extra={"product": facts.product, "version": ".".join(map(str, facts.version))})
        if not self._redis_is_fit:
            self._redis_is_fit = True
            if self._gateway:
                self._core.install(self._gateway)

    async def _keep_judging_redis(self) -> None:
        """A Redis that came late, was mended, or is another since it connected again. One that was fit and evicts now is told of
        and not left: what it holds is exact until its memory is full.
        """
        told: tuple[Problem, ...] = ()
        while True:
            await asyncio.sleep(FIT_S if self._redis_is_fit else UNFIT_S)
            if self._redis_is_fit and self._judged_generation == self._core.redis.generation:
                continue
            was_fit = self._redis_is_fit
            try:
                await self._judge_redis()
            except BadConfig as bad:
                if bad.problems != told:
                    told = bad.problems
                    _log.error("Redis must not be used as it is", extra={"problems": [str(problem) for problem in bad.problems]})
            if self._redis_is_fit != was_fit:
                self._hand_over()

    async def _keep_out_of_the_collector(self) -> None:
        gc.set_threshold(*COLLECTED_AT)
        while True:
            gc.collect(1)
            gc.freeze()
            await asyncio.sleep(FREEZE_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a background task ended", exc_info=task.exception())

    def _tell_bug(self, method: str, error: BaseException) -> None:
        self._core.metrics.add(ERRORS, (method,))
        _log.error("a call ended in an error of ours", extra={"method": method}, exc_info=error)

    async def _close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self._server.close()
        await self._core.close()
