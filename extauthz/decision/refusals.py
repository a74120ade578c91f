"""Every refusal this project can answer with, one function each: code, status, the client's sentence, the log's reason.

The codes are metric labels and stable. 401 has one text for missing, malformed, unknown, revoked and expired keys: an answer does
not say how close a guess was. `ON_DOCUMENTS` names the refusals that rest on a published document, which may have changed since it
was cached: these are confirmed with Redis before they are sent.
"""

from extauthz.errors import Refusal

UNAUTHENTICATED_TEXT = "Incorrect API key provided."

#: Refusals that a newer document could turn into an allow.
ON_DOCUMENTS = frozenset(
    {
        "key_revoked",
        "key_expired",
        "tenant_suspended",
        "tenant_mismatch",
        "network_not_allowed",
        "scope_not_granted",
        "provider_not_allowed",
        "model_not_found",
        "model_unreadable",
        "model_ambiguous",
        "model_disagrees",
        "no_credential",
        "no_provider",
        "plan_unusable",
    },
)

#: Every code, for the closed set of the metrics' label.
CODES = frozenset(
    {
        *ON_DOCUMENTS,
        "key_missing",
        "key_malformed",
        "key_ambiguous",
        "key_unknown",
        "route_not_found",
        "path_refused",
        "rate_limit_exceeded",
        "unavailable",
        "not_configured",
    },
)


def unauthenticated(code: str, reason: str) -> Refusal:
    """The one 401, with the check that refused in its code and reason."""
    return Refusal(code, 401, UNAUTHENTICATED_TEXT, reason)


def route_not_found() -> Refusal:
    """No route of the gateway file matches host, method and path: refused by default."""
    return Refusal("route_not_found", 404, "Unknown request URL.", "no route matches host, method and path")


def path_refused() -> Refusal:
    """The path holds what two servers may read differently."""
    return Refusal("path_refused", 400, "The path of the request is not in its plain form.", "the path is not in its plain form")


def tenant_suspended(tenant_id: str) -> Refusal:
    return Refusal("tenant_suspended", 403, "The account of this API key is suspended.", f"tenant {tenant_id} is suspended")


def tenant_mismatch(tenant_id: str) -> Refusal:
    return Refusal(
        "tenant_mismatch",
        403,
        "The x-tenant-id header does not name the account of this API key.",
        f"x-tenant-id is not {tenant_id}",
    )


def network_not_allowed(key_id: str) -> Refusal:
    return Refusal(
        "network_not_allowed",
        403,
        "This API key may not be used from this network address.",
        f"the source is in no network of key {key_id}",
    )


def scope_not_granted(scope: str) -> Refusal:
    return Refusal("scope_not_granted", 403, f"This API key lacks the scope {scope}.", f"scope {scope} is not granted")


def provider_not_allowed(route: str) -> Refusal:
    return Refusal(
        "provider_not_allowed",
        403,
        "This API key may not use the provider of this URL.",
        f"no provider of route {route} is allowed to the key",
    )


def model_not_found() -> Refusal:
    return Refusal(
        "model_not_found",
        403,
        "The requested model does not exist or this API key has no access to it.",
        "the model is outside the scope or the key",
    )


def model_unreadable() -> Refusal:
    return Refusal(
        "model_unreadable",
        400,
        "The model could not be read: send a JSON body with one string field named model.",
        "the scope or key restricts models and the model could not be read",
    )


def model_ambiguous() -> Refusal:
    return Refusal(
        "model_ambiguous",
        400,
        "The body holds model in more than one spelling: send one field named model.",
        "another spelling of model stands in the body",
    )


def model_disagrees() -> Refusal:
    return Refusal(
        "model_disagrees",
        400,
        "The model in the body is not the model in the path.",
        "the body's model is not the path's",
    )


def no_credential(tenant_id: str, route: str) -> Refusal:
    return Refusal(
        "no_credential",
        403,
        "No provider credential is configured for this account.",
        f"tenant {tenant_id} has no credential for a provider of route {route}",
    )


def no_provider(route: str, retry_after_ms: int) -> Refusal:
    return Refusal(
        "no_provider",
        503,
        "The provider is temporarily unavailable.",
        f"every provider of route {route} is down",
        retry_after_ms,
    )


def rate_limited(limit: str, retry_after_ms: int | None) -> Refusal:
    return Refusal(
        "rate_limit_exceeded",
        429,
        f"Rate limit {limit} exceeded. Please retry later.",
        f"limit {limit} is exhausted",
        retry_after_ms,
    )


def unavailable(what: str, retry_after_ms: int) -> Refusal:
    """A dependency did not answer. Its name is for the log alone."""
    return Refusal("unavailable", 503, "The service is temporarily unavailable.", what, retry_after_ms)


def plan_unusable(what: str) -> Refusal:
    """The tenant's plan or limits and the gateway file do not fit together. The operator's mistake, so not the client's fault."""
    return Refusal("plan_unusable", 503, "The service is temporarily unavailable.", what, 1_000)


def not_configured() -> Refusal:
    """There is no gateway file in force yet."""
    return Refusal("not_configured", 503, "The service is temporarily unavailable.", "no valid gateway file", 5_000)
