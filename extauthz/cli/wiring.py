"""The composition root: the objects that decide, made and joined here and nowhere else. No logic.

    services ▸ decision ▸ admission ▸ Redis
                        ▸ identities, credentials, breakers

Read `Core.__init__` downwards: each object gets what it takes, and nothing looks anything up. `sidecar.py` puts a transport in
front.
"""

import asyncio
import logging

from extauthz.admission.admit import Admission
from extauthz.admission.script import ADMIT
from extauthz.breaker.poller import BreakerPoller
from extauthz.breaker.probe import Probes
from extauthz.breaker.script import SCRIPTS as BREAKER_SCRIPTS
from extauthz.clock import SystemClock
from extauthz.credentials import keyring
from extauthz.credentials.cache import Bounds, Credentials
from extauthz.credentials.chain import Chain
from extauthz.credentials.errors import DoesNotOpen
from extauthz.credentials.store import SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.decision.check import Checker
from extauthz.decision.choose import Chooser
from extauthz.decision.policy import Policy
from extauthz.gateway.model import Gateway
from extauthz.limits.local_share import LocalShare
from extauthz.redisio.connection import Connection
from extauthz.redisio.url import RedisUrl
from extauthz.services.check import CheckService
from extauthz.settings import ServingSettings
from extauthz.telemetry import traces
from extauthz.telemetry.metrics import Metrics
from extauthz.tenants.cache import Identities

#: How often what has expired is dropped from memory, seconds: a credential stays at most so much longer than it is used.
FORGET_S = 15.0
_credentials_log = logging.getLogger("extauthz.credentials")


class Core:
    """What decides, without what listens.

    Args:
        settings: from the environment.

    Raises:
        BadConfig: the master key file or the Redis URL cannot be used.
    """

    def __init__(self, settings: ServingSettings) -> None:
        now = asyncio.get_running_loop().time
        clock = SystemClock()
        self.metrics = Metrics(tenants=settings.has_tenant_label)
        self.redis = Connection(
            RedisUrl.parse(settings.record.redis_url.reveal().decode()),
            (ADMIT, *BREAKER_SCRIPTS),
            timeout_s=settings.record.redis_timeout_ms / 1000,
        )
        self.identities = Identities(self.redis, now, settings.document_cache_max)
        store = RedisStore(self.redis, keyring.load([settings.master_key_file]))
        self.credentials = Credentials(Chain([store]), clock, _tell_unopened, Bounds(fresh_s=settings.credential_cache_s))
        self.breakers = BreakerPoller(self.redis)
        self.probes = Probes(self.redis)
        self.checker = Checker(
            identities=self.identities,
            chooser=Chooser(self.credentials, self.breakers, self.probes),
            breakers=self.breakers,
            probes=self.probes,
            admission=Admission(self.redis),
            local_share=LocalShare(),
            now=now,
            unix_ms=clock.unix_ms,
        )
        self.check = CheckService(self.checker, self.metrics, now)
        self.traces = traces.start(settings.traces_endpoint)
        #: What a transport serves: the service, or the service inside a span.
        self.answer = self.traces.of(self.check)
        self._forgetting: asyncio.Task[None] | None = None

    def install(self, gateway: Gateway) -> None:
        """Decide by this gateway file from now on."""
        self.checker.install(Policy(gateway))
        self.breakers.watch(tuple(gateway.providers))

    async def start(self) -> None:
        """Connect to Redis and begin to poll; returns after the first attempt, whether or not Redis answered."""
        await self.redis.start()
        self.breakers.start()
        self._forgetting = asyncio.get_running_loop().create_task(self._forget_expired())

    async def _forget_expired(self) -> None:
        while True:
            await asyncio.sleep(FORGET_S)
            self.credentials.forget_expired()
            await self.checker.forget_expired()

    async def close(self) -> None:
        """End what runs in the background, and the connection."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        await self.breakers.close()
        await self.credentials.close()
        await self.redis.close()
        await self.traces.close()


def _tell_unopened(ref: SecretRef, error: DoesNotOpen) -> None:
    _credentials_log.error(
        "a credential does not open",
        extra={"tenant": ref.tenant_id, "provider": ref.provider, "version": ref.version, "why": str(error)},
    )
