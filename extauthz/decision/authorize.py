"""Step 3: may this identity do this? Pure code on documents and policy; every answer but a return is a refusal."""

import functools
import ipaddress
from collections.abc import Callable

from extauthz.decision import refusals
from extauthz.decision.policy import CompiledRoute, models_matcher
from extauthz.decision.request import Request
from extauthz.gateway.model import Provider
from extauthz.tenants.cache import Identity

#: A longer name is no model's, and what was decided is remembered under the name: 16 of them per key must stay small.
MODEL_LENGTH_MAX = 256

#: With the others Envoy cannot read a model either, because there is no body; and where there is one it means nothing (RFC 9110).
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def authorize(identity: Identity, compiled: CompiledRoute, path_model: str | None, request: Request, unix_ms: int) -> None:
    """Return when tenant, key, network, scope and model allow the request.

    Raises:
        Refusal: which rests on the documents; confirm their epochs before it is sent.
    """
    tenant, key = identity.tenant, identity.key
    if not key.is_active:
        raise refusals.unauthenticated("key_revoked", f"key {key.key_id} is revoked")
    if key.expires_at_ms and unix_ms >= key.expires_at_ms:
        raise refusals.unauthenticated("key_expired", f"key {key.key_id} is expired")
    if not tenant.is_active:
        raise refusals.tenant_suspended(tenant.tenant_id)
    if compiled.route.scope not in key.scopes:
        raise refusals.scope_not_granted(compiled.route.scope)
    check_source(identity, request)
    check_model(identity, compiled, path_model, request)


def check_source(identity: Identity, request: Request) -> None:
    """What of a request must be looked at each time, whatever is remembered: the tenant it claims and where it comes from."""
    if request.tenant_hint and request.tenant_hint != identity.tenant.tenant_id:
        raise refusals.tenant_mismatch(identity.tenant.tenant_id)
    if identity.key.networks and not _is_within(request.source, identity.key.networks):
        raise refusals.network_not_allowed(identity.key.key_id)


def check_model(identity: Identity, compiled: CompiledRoute, path_model: str | None, request: Request) -> None:
    """Where scope or key restrict models, there must be one model, read beyond doubt, and both must allow it."""
    if compiled.allows_model is None and not identity.key.models:
        return
    if request.model_is_ambiguous:
        raise refusals.model_ambiguous()
    model = request.model
    if path_model is not None:
        if model == "" and compiled.method in _WITH_BODY:
            raise refusals.model_unreadable()  # nobody can say that the body names the same one
        if model and model != path_model:
            raise refusals.model_disagrees()
        model = path_model
    if not model or len(model) > MODEL_LENGTH_MAX:
        raise refusals.model_unreadable()
    allows = _matcher_of(identity.key.models)
    if (compiled.allows_model and not compiled.allows_model(model)) or (allows and not allows(model)):
        raise refusals.model_not_found()


def restricts_models(identity: Identity, compiled: CompiledRoute) -> bool:
    """Whether the model is part of the question, and so of what may be remembered."""
    return compiled.allows_model is not None or bool(identity.key.models)


def allowed_providers(identity: Identity, compiled: CompiledRoute) -> tuple[Provider, ...]:
    """The route's providers, in order, that scope and key allow. Raises Refusal provider_not_allowed when none is left."""
    mine = identity.key.providers
    allowed = tuple(provider for provider in compiled.providers if not mine or provider.name in mine)
    if not allowed:
        raise refusals.provider_not_allowed(compiled.route.name)
    return allowed


@functools.lru_cache(maxsize=4096)
def _matcher_of(patterns: tuple[str, ...]) -> Callable[[str], object] | None:
    return models_matcher(patterns)


@functools.lru_cache(maxsize=4096)
def _networks_of(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _is_within(source: str, texts: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in network for network in _networks_of(texts))
