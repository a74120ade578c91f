"""Steps 4 and 5: the ordered chain of providers, each with this tenant's own credential.

A provider is no candidate when its breaker is open, when another sidecar holds the one probe of its half-open breaker, when this
tenant's own breaker for it is open, or when this tenant has no credential for it. The platform's key never stands in.
"""

import contextlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from extauthz.breaker.states import CLOSED, HALF_OPEN
from extauthz.credentials.store import SecretRef
from extauthz.decision import refusals
from extauthz.decision.decision import Link
from extauthz.errors import Missing, Unavailable
from extauthz.gateway.model import Provider
from extauthz.secret import Secret
from extauthz.tenants.cache import Identity

#: After which a chain is chosen anew that was shortened, because a fallback's credential was still being fetched or because another
#: request held the probe.
SHORTENED_S = 0.25
#: How long a chain without any credential may be remembered.
PLAIN_S = 300.0


class Credentials(Protocol):
    """What this step needs of the credentials."""

    def in_memory(self, ref: SecretRef) -> Secret | None:
        """The opened credential while it is fresh."""

    def fresh_until(self, ref: SecretRef) -> float:
        """The loop's time until which `in_memory` answers."""

    async def fetch(self, ref: SecretRef) -> Secret:
        """The credential from its store. Raises Missing or Unavailable."""

    def fetch_in_background(self, ref: SecretRef) -> None:
        """Begin to fetch, for the next request."""


class Breakers(Protocol):
    """What this step needs of the breaker's poller."""

    @property
    def states(self) -> dict[str, int]:
        """Every provider whose breaker is not closed."""


class Probes(Protocol):
    """The fleet's one probe of each half-open breaker."""

    async def acquire(self, provider: str, deadline: float) -> bytes | None:
        """A token, or None when another holds it."""

    async def release(self, provider: str, token: bytes, deadline: float) -> None:
        """Give the token back, if it is still ours."""


class CredentialUnavailable(Unavailable):
    """The first provider's credential cannot be had now. The tenant's document names it, and another document may name another."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The links in order of preference; the probe's token when the first link is the probe of a half-open breaker."""

    links: tuple[Link, ...]
    valid_until: float
    probe: bytes | None


class Chooser:
    """Chooses chains.

    Args:
        credentials: where a tenant's credentials are opened.
        breakers: which providers are down.
        probes: the leases of half-open breakers.
    """

    def __init__(self, credentials: Credentials, breakers: Breakers, probes: Probes) -> None:
        self._credentials = credentials
        self._breakers = breakers
        self._probes = probes

    async def choose(
        self,
        identity: Identity,
        providers: tuple[Provider, ...],
        excluded: Collection[str],
        route: str,
        now: float,
        deadline: float,
        *,
        several: bool,
    ) -> Chain:
        """The chain for this identity, at most one link when not `several`.

        Raises:
            Refusal: no_credential when the tenant has none for any provider; no_provider when those it has are down.
            CredentialUnavailable: of the first provider; another provider is no answer to that.
            Unavailable: the probe of a half-open breaker could not be asked for.
        """
        refs = {
            provider: SecretRef(identity.tenant.tenant_id, provider, name, version)
            for provider, name, version in identity.tenant.secrets
        }
        having = [provider for provider in providers if provider.is_internal or provider.name in refs]
        if not having:
            raise refusals.no_credential(identity.tenant.tenant_id, route)
        states = self._breakers.states
        probe: bytes | None = None
        links: list[Link] = []
        valid_until = now + PLAIN_S
        for provider in having:
            if provider.name in excluded:
                continue
            state = states.get(provider.name, CLOSED)
            if links:
                if state != CLOSED or not several:
                    continue
                link = self._fallback(provider, refs)
                if link is None:
                    valid_until = min(valid_until, now + SHORTENED_S)
                    continue
            else:
                if state == HALF_OPEN:
                    probe = await self._probes.acquire(provider.name, deadline)
                    # Another's lease may end without an outcome, which no poll tells: what passes it by is soon chosen anew.
                    valid_until = min(valid_until, now + SHORTENED_S)
                if state != CLOSED and probe is None:
                    continue
                try:
                    link = await self._first(provider, refs)
                except BaseException:
                    await self._give_back(provider, probe)
                    raise
            links.append(link)
            if link.credential is not None:
                valid_until = min(valid_until, self._credentials.fresh_until(refs[provider.name]))
        if links:
            return Chain(tuple(links), valid_until, probe)
        raise refusals.no_provider(route, 1_000)

    async def _first(self, provider: Provider, refs: dict[str, SecretRef]) -> Link:
        if provider.is_internal:
            return Link(provider, None)
        ref = refs[provider.name]
        credential = self._credentials.in_memory(ref)
        if credential is None:
            try:
                credential = await self._credentials.fetch(ref)
            except Missing as error:
                raise CredentialUnavailable("the tenant's document names a credential that no store holds") from error
            except Unavailable as error:
                raise CredentialUnavailable(str(error), error.retry_after_ms) from error
        return Link(provider, credential)

    def _fallback(self, provider: Provider, refs: dict[str, SecretRef]) -> Link | None:
        if provider.is_internal:
            return Link(provider, None)
        ref = refs[provider.name]
        credential = self._credentials.in_memory(ref)
        if credential is None:
            self._credentials.fetch_in_background(ref)
            return None
        return Link(provider, credential)

    async def _give_back(self, provider: Provider, probe: bytes | None) -> None:
        """Not by the request's deadline, which may be why it is given back; the connection has a timeout of its own."""
        if probe is not None:
            with contextlib.suppress(Unavailable):  # the lease ends by itself
                await self._probes.release(provider.name, probe, math.inf)
