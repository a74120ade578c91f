"""The accident: a tenant without a credential of its own, or in a fallback, is sent on with the platform's, or with another's."""

import math
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from extauthz import keyspace
from extauthz.breaker import commands
from extauthz.credentials import keyring
from extauthz.credentials.store import SecretRef
from extauthz.decision.choose import Chain
from extauthz.decision.decision import Link
from extauthz.errors import Refusal
from extauthz.gateway.model import Provider
from extauthz.record import secrets
from extauthz.secret import Secret
from tests.harness.deciding import Deciding, deciding
from tests.harness.messages import Answer
from tests.harness.record import master_key_file

TENANTS = 30
ROUNDS = 6
PROVIDERS = ("openai", "backup", "anthropic", "gemini")
#: Path, model, and the route's providers with the header their credential goes into and its format.
ROUTES = (
    ("/v1/chat/completions", None, {"openai": ("authorization", "Bearer {}"), "backup": ("authorization", "Bearer {}")}),
    ("/v1/messages", None, {"anthropic": ("x-api-key", "{}")}),
    ("/v1beta/models/gpt-4o-mini:generateContent", None, {"gemini": ("x-goog-api-key", "{}")}),
)
_CREDENTIAL = re.compile(rb"credential-of-[a-z0-9-]+?-for-[a-z]+")


def credential(owner: str, provider: str) -> str:
    return f"credential-of-{owner}-for-{provider}"


class Fleet:
    """Thirty tenants, each with a key and with credentials for some of the providers; the platform has one for each."""

    def __init__(self, system: Deciding, seed: int) -> None:
        self.system = system
        self.rng = random.Random(seed)
        self.keys: dict[str, str] = {}
        self.has: dict[str, set[str]] = {}

    async def publish(self, folder: Path) -> None:
        record = self.system.record
        ring = keyring.load([master_key_file(folder)])
        for provider in PROVIDERS:
            await secrets.set_platform_secret(record.server, ring, provider, Secret(credential("platform", provider).encode()))
        for number in range(TENANTS):
            tenant = f"t{number}"
            await record.tenant(tenant, "none")
            self.has[tenant] = {provider for provider in PROVIDERS if self.rng.random() < 0.6}
            for provider in sorted(self.has[tenant]):
                await record.secret(tenant, provider, credential(tenant, provider))
            self.keys[tenant] = (await record.key(tenant, ("chat", "strict"))).text

    async def open_some(self) -> None:
        """Some providers' breakers open, or none, and some tenants' own."""
        execute = self.system.record.server.execute
        for provider in PROVIDERS:
            await commands.close_by_hand(execute, provider)
            if self.rng.random() < 0.3:
                await commands.open_by_hand(execute, provider)
            for tenant in self.keys:
                is_open = self.rng.random() < 0.1
                await execute("SET", keyspace.tenant_breaker(tenant, provider), "9999999999999" if is_open else "0")
        await self.system.core.breakers.poll()

    async def round(self) -> tuple[list[str], set[int]]:
        """One request of every tenant on every route, in a random order: what was not the tenant's own, and the statuses seen."""
        asked = [(tenant, route, chains) for tenant in self.keys for route in ROUTES for chains in (False, True)]
        self.rng.shuffle(asked)
        wrong, statuses = [], set()
        for tenant, (path, model, providers), chains in asked:
            answer = await self.system.check(self.keys[tenant], path=path, model=model, chains=chains)
            statuses.add(answer.status)
            wrong += [f"{tenant} {path} chains={chains}: {text}" for text in foreign(answer, tenant, providers)]
            if answer.is_allow and not self.has[tenant] & set(providers):
                wrong.append(f"{tenant} {path}: allowed without a credential")
        return wrong, statuses


def foreign(answer: Answer, tenant: str, providers: dict[str, tuple[str, str]]) -> list[str]:
    """What of an answer is not this tenant's own credential for a provider of the chain, in that provider's header."""
    own = {credential(tenant, provider).encode() for provider in providers}
    wrong = [found.decode() for found in _CREDENTIAL.findall(answer.data) if found not in own]
    headers = dict(answer.request_headers)
    cluster = headers.pop("x-extauthz-chain", None)
    chain = (
        cluster.removeprefix("chain:").split("+") if cluster else [answer.message.dynamic_metadata.fields["provider"].string_value]
    )
    if not answer.is_allow:
        return wrong + list(headers)
    if not set(chain) <= set(providers) or len(set(chain)) != len(chain):
        return [*wrong, f"the chain is {chain}"]
    several = len(chain) > 1
    expected = {
        f"x-extauthz-credential-{name}" if several else providers[name][0]: providers[name][1].format(credential(tenant, name))
        for name in chain
    }
    return wrong if headers == expected else [*wrong, f"{headers} instead of {expected}"]


@pytest.fixture
async def fleet(redis_url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with deciding(redis_url, tmp_path) as system:
        fleet = Fleet(system, seed=1)
        await fleet.publish(tmp_path)
        yield fleet


async def test_every_credential_that_is_injected_is_the_tenants_own(fleet: Fleet) -> None:
    statuses: set[int] = set()
    chains = 0
    for _ in range(ROUNDS):
        await fleet.open_some()
        wrong, seen = await fleet.round()
        assert wrong == []
        statuses |= seen
    for provider in PROVIDERS:
        await commands.close_by_hand(fleet.system.record.server.execute, provider)
    await fleet.system.core.breakers.poll()
    for key in fleet.keys.values():
        answer = await fleet.system.check(key, chains=True)
        chains += "+" in answer.request_headers.get("x-extauthz-chain", "")
    assert statuses == {200, 403, 503}, "the rounds have shown every outcome"
    assert chains, "and chains of several"


class ByProvider:
    """The accident: opened credentials are remembered by provider."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._held: dict[str, Secret] = {}

    def in_memory(self, ref: SecretRef) -> Secret | None:
        return self._held.get(ref.provider)

    def fresh_until(self, _ref: SecretRef) -> float:
        return math.inf

    async def fetch(self, ref: SecretRef) -> Secret:
        self._held[ref.provider] = await self._real.fetch(ref)
        return self._held[ref.provider]

    def fetch_in_background(self, ref: SecretRef) -> None:
        self._real.fetch_in_background(ref)


class PlatformStandsIn:
    """The accident: who has no credential gets the platform's."""

    def __init__(self, real: Any, credentials: Any) -> None:
        self._real = real
        self._credentials = credentials

    async def choose(self, identity: Any, providers: tuple[Provider, ...], *rest: Any, **options: Any) -> Chain:
        try:
            chain: Chain = await self._real.choose(identity, providers, *rest, **options)
        except Refusal as refusal:
            if refusal.code != "no_credential":
                raise
            platform = await self._credentials.fetch(SecretRef("", providers[0].name, "default", 1))
            return Chain((Link(providers[0], platform),), math.inf, None)
        return chain


async def test_the_checker_sees_credentials_remembered_by_provider(fleet: Fleet) -> None:
    naive: Any = ByProvider(fleet.system.core.credentials)
    fleet.system.core.checker._chooser._credentials = naive
    wrong, _ = await fleet.round()
    assert wrong


async def test_the_checker_sees_the_platforms_credential_standing_in(fleet: Fleet) -> None:
    core = fleet.system.core
    naive: Any = PlatformStandsIn(core.checker._chooser, core.credentials)
    core.checker._chooser = naive
    wrong, _ = await fleet.round()
    assert any("credential-of-platform" in text for text in wrong)
