"""One Check: the seven steps, in order. Read this first.

    1 decode         the door's work: it hands over a Request
    2 authenticate   whose key is it?                               authenticate.py
    3 authorize      may this identity do this?                     authorize.py, policy.py
    4 choose         which providers, in which order?               choose.py
    5 credentials    this tenant's own, for each of them            choose.py
    6 admit          epochs, limits, breaker: one Redis round trip  admission/
    7 answer         the door's work: it gets an Allowed

A step that refuses raises, and nothing after it runs. Steps 2 to 5 are remembered per identity and route while nothing they rest on
changed; step 6 runs for every request and is the last that can refuse.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from extauthz.admission.admit import Prepared, prepare
from extauthz.admission.reply import ADMITTED, BREAKER_OPEN, DENIED, NEVER, STALE
from extauthz.decision import refusals
from extauthz.decision.authenticate import digest_of_sent_key, load_identity
from extauthz.decision.authorize import allowed_providers, authorize, check_source, restricts_models
from extauthz.decision.choose import Chain, Chooser, CredentialUnavailable, Probes
from extauthz.decision.decision import Allowed, Passage
from extauthz.decision.policy import CompiledRoute, Matched, Policy
from extauthz.decision.request import Request
from extauthz.errors import Malformed, Refusal, Unavailable
from extauthz.gateway.model import FailureMode, Plan
from extauthz.limits.local_share import LocalShare
from extauthz.limits.rules import Rule, rules_of
from extauthz.tenants.cache import Identities, Identity

#: A decision begins anew when a document changed under it, at most so often; then 503.
RELOADS_MAX = 2
#: Passages remembered per key; a client can only make its own key's forget.
PASSAGES_MAX = 16
#: Identities looked through before the loop gets its turn: 0.1 ms.
SWEEP_STEP = 200
#: How long after its last confirmation a document may be decided on while Redis does not answer (docs/reliability.md).
UNCONFIRMED_S = 30.0


class Admits(Protocol):
    """The one round trip."""

    async def admit(self, prepared: Prepared, deadline: float) -> list[int]:
        """The script's reply. Raises Unavailable; the outcome is then unknown and never asked for again."""


class Breakers(Protocol):
    """The poller's snapshot of the breakers that are not closed; `version` counts its changes."""

    @property
    def states(self) -> dict[str, int]: ...
    @property
    def version(self) -> int: ...


class _StaleError(Exception):
    """A document changed since it was cached. Nothing was counted."""


class Checker:
    """Decides requests.

    Args:
        identities: the documents of keys and tenants.
        chooser: chains and credentials.
        breakers: which providers are down.
        probes: to give back a probe that a later step refused.
        admission: the counting script.
        local_share: what may pass while Redis is gone, for plans that ask for it.
        now: the loop's time, seconds.
        unix_ms: the calendar's.
    """

    def __init__(
        self,
        identities: Identities,
        chooser: Chooser,
        breakers: Breakers,
        probes: Probes,
        admission: Admits,
        local_share: LocalShare,
        now: Callable[[], float],
        unix_ms: Callable[[], int],
    ) -> None:
        self._identities = identities
        self._chooser = chooser
        self._breakers = breakers
        self._probes = probes
        self._admit = admission.admit
        self._local_share = local_share
        self._now = now
        self._unix_ms = unix_ms
        self._policy: Policy | None = None
        self._era = object()
        self._breaker_version = -1
        self._background: set[asyncio.Task[None]] = set()

    def install(self, policy: Policy) -> None:
        """Decide by this policy from now on; what was remembered under another is worthless at once."""
        self._policy = policy
        self._era = object()

    @property
    def policy(self) -> Policy | None:
        """The policy in force; None before the first valid gateway file."""
        return self._policy

    async def forget_expired(self) -> None:
        """Drop every passage that may not be used any more: a credential must not stay because nobody asks. In small steps."""
        for number, identity in enumerate(self._identities.held()):
            if number % SWEEP_STEP == 0:
                await asyncio.sleep(0)
            now = self._now()
            for slot in [slot for slot, passage in identity.passages.items() if now >= passage.valid_until]:
                del identity.passages[slot]

    async def check(self, request: Request, policy: Policy, matched: Matched | None, deadline: float) -> Allowed:
        """Decide one request.

        Args:
            policy: what was in force when the request came; it is decided by this one, whatever comes into force meanwhile.
            matched: what `policy.match` found; the door asks first, because a refusal's form is the route's.
            deadline: the loop's time by which the answer is worthless.

        Raises:
            Refusal: the answer is no. Nothing was counted.
            Unavailable: a dependency did not answer; whether the request was counted is unknown, it was not allowed.
        """
        digest, key = digest_of_sent_key(request)
        identity = self._identities.cached(digest)
        asked_at = math.inf  # what memory has may have been read at any time
        if identity is None:
            asked_at = self._now()
            identity = await load_identity(self._identities, digest, key)
        if matched is None:
            no_route = refusals.route_not_found()
            _named(no_route, identity)
            raise no_route
        for _ in range(RELOADS_MAX + 1):
            try:
                return await self._pass(identity, policy, matched, request, deadline)
            except _StaleError:
                pass
            except (Refusal, CredentialUnavailable) as no:
                _named(no, identity)
                # What was read since we asked needs no confirmation; what was read before may have been changed since.
                if (
                    identity.confirmed_at >= asked_at
                    or not _rests_on_documents(no)
                    or await self._identities.is_in_force(identity, deadline)
                ):
                    raise
            asked_at = self._now()
            identity = await load_identity(self._identities, digest, key)
        raise Unavailable("the documents changed faster than they could be read")

    async def _pass(self, identity: Identity, policy: Policy, matched: Matched, request: Request, deadline: float) -> Allowed:
        """Steps 3 to 6. A tenant's own open breaker shortens the chain and asks again, at most once per provider. HOT."""
        excluded: set[str] = set()
        probe: bytes | None = None
        now = self._now()
        passage = self._remembered(identity, matched, request, now)
        while True:
            if passage is None:
                passage, probe = await self._found(identity, policy, matched, request, excluded, deadline)
                now = self._now()
            try:
                try:
                    reply = await self._admit(passage.prepared, deadline)
                except Unavailable as error:
                    reply = self._admitted_locally(passage, now, error)
                else:
                    if type(reply) is not list:  # bytes can be indexed too, and zeros would read as an admission
                        raise Unavailable("the admission script's reply has not its form")
                    # After STALE no local share stands in, should Redis go before the documents are read again.
                    identity.confirmed_at = -math.inf if reply[0] == STALE else now
            except BaseException:
                self._give_back(passage, probe)
                raise
            if reply[0] == ADMITTED:
                return Allowed(passage, reply[1], reply[2], reply[3])
            self._give_back(passage, probe)
            first = passage.chain[0].provider.name
            if reply[0] != BREAKER_OPEN or first in excluded:
                raise _refused(passage, reply)
            excluded.add(first)
            passage = probe = None

    def _remembered(self, identity: Identity, matched: Matched, request: Request, now: float) -> Passage | None:
        if self._breakers.version != self._breaker_version:
            self._breaker_version = self._breakers.version
            self._era = object()
        slot = matched[0].index * 2 + request.takes_chain
        passages = identity.passages
        passage: Passage | None = passages.get(slot)
        if passage is None and not request.model_is_ambiguous:
            passage = passages.get((slot, matched[1], request.model))
        if passage is None or passage.era is not self._era or now >= passage.valid_until or passage.route is not matched[0]:
            # The last: a slot names another route under another policy, and this request may have come under that. What is of no
            # use goes, because it would hide what is remembered by model since the route restricts models.
            passages.pop(slot, None)
            return None
        key = identity.key
        if key.expires_at_ms and self._unix_ms() >= key.expires_at_ms:
            return None  # by the calendar, whose clock may step, or go on while this machine is suspended
        if request.tenant_hint or key.networks:
            check_source(identity, request)
        return passage

    async def _found(
        self,
        identity: Identity,
        policy: Policy,
        matched: Matched,
        request: Request,
        excluded: set[str],
        deadline: float,
    ) -> tuple[Passage, bytes | None]:
        """Steps 3 to 5, and their result remembered where it will hold for the next request too."""
        era, compiled = self._era, matched[0]
        authorize(identity, compiled, matched[1], request, self._unix_ms())
        plan = policy.plan(identity.tenant.plan)
        if plan is None:
            raise refusals.plan_unusable(
                f"the gateway file has no plan {identity.tenant.plan!r}, which tenant {identity.tenant.tenant_id} is on"
            )
        # Before a chain is chosen: from then on a probe may be ours, and nothing but admission may refuse without giving it back.
        rules = _rules(identity, plan, compiled)
        chain = await self._chooser.choose(
            identity,
            allowed_providers(identity, compiled),
            excluded,
            compiled.route.name,
            self._now(),
            deadline,
            several=request.takes_chain,
        )
        passage = self._compiled(identity, compiled, chain, rules, plan.failure_mode, era, takes_chain=request.takes_chain)
        if not excluded and chain.probe is None and era is self._era and policy is self._policy:
            slot = compiled.index * 2 + request.takes_chain
            if len(identity.passages) >= PASSAGES_MAX:
                identity.passages.clear()
            restricted = restricts_models(identity, compiled)
            identity.passages[(slot, matched[1], request.model) if restricted else slot] = passage
        return passage, chain.probe

    def _compiled(
        self,
        identity: Identity,
        compiled: CompiledRoute,
        chain: Chain,
        rules: tuple[Rule, ...],
        failure_mode: FailureMode,
        era: object,
        *,
        takes_chain: bool,
    ) -> Passage:
        tenant, key = identity.tenant, identity.key
        first = chain.links[0].provider.name
        prepared = prepare(tenant.tenant_id, tenant.epoch, key.key_id, key.epoch, first, rules)
        return Passage(identity, compiled, chain.links, prepared, failure_mode, era, chain.valid_until, takes_chain=takes_chain)

    def _admitted_locally(self, passage: Passage, now: float, error: Unavailable) -> list[int]:
        """The plan's local share of an admission, while Redis does not answer. Raises the error where there is none."""
        mode = passage.failure_mode
        if mode.share <= 0 or not passage.prepared.rules or now - passage.identity.confirmed_at > UNCONFIRMED_S:
            raise error
        return self._local_share.take(passage.prepared.rules, mode.share, mode.sidecars, now)

    def _give_back(self, passage: Passage, probe: bytes | None) -> None:
        """Release a probe that this request will not make; in the background, because its answer is already known."""
        if probe is None:
            return

        async def release() -> None:
            try:
                await self._probes.release(passage.chain[0].provider.name, probe, self._now() + 1.0)
            except Unavailable:
                return  # the lease ends by itself

        task = asyncio.get_running_loop().create_task(release())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _rules(identity: Identity, plan: Plan, compiled: CompiledRoute) -> tuple[Rule, ...]:
    """Every limit this request is counted under. Raises Refusal plan_unusable when they are too many."""
    tenant = identity.tenant
    overrides = {name: (count, window_ms) for name, count, window_ms in tenant.limits}
    try:
        return rules_of(plan, overrides, tenant.tenant_id, identity.key.key_id, compiled.route.name)
    except Malformed as error:
        raise refusals.plan_unusable(str(error)) from error


def _rests_on_documents(no: Refusal | CredentialUnavailable) -> bool:
    return isinstance(no, CredentialUnavailable) or no.code in refusals.ON_DOCUMENTS


def _named(no: Exception, identity: Identity) -> None:
    """Let a refusal say whose request it refuses."""
    if isinstance(no, Refusal):
        no.tenant_id, no.key_id = identity.tenant.tenant_id, identity.key.key_id


def _refused(passage: Passage, reply: list[int]) -> Exception:
    if reply[0] == DENIED:
        rule = passage.prepared.rules[reply[1]]
        refusal = refusals.rate_limited(rule.name, None if reply[4] == NEVER else reply[4])
        refusal.rate = (rule.limit, reply[2], reply[3])
        return refusal
    if reply[0] == STALE:
        return _StaleError()
    if reply[0] == BREAKER_OPEN:
        return refusals.no_provider(passage.route.route.name, reply[1])
    return Unavailable(f"the admission script replied {reply!r}, which this version does not know")
