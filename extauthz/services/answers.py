"""Step 7: a decision in Envoy's language. The allow is assembled from a part that is fixed per passage and the reply's numbers; the
denial has the body that the route's clients parse.
"""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

from extauthz import _pb
from extauthz.decision.decision import Allowed, Passage
from extauthz.errors import Refusal
from extauthz.gateway import headers as names
from extauthz.gateway.model import Shape, chain_cluster
from extauthz.services import wire
from extauthz.telemetry.metrics import Labels, method_label

#: gRPC codes inside the CheckResponse (google.rpc.Code), by HTTP status.
_STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 503: 14}

#: OpenAI's error types by status; the code is the refusal's, or the one its SDKs know.
_OPENAI_TYPE = {401: "invalid_request_error", 403: "permission_error", 429: "requests", 503: "service_unavailable_error"}
_OPENAI_CODE = {401: "invalid_api_key", 503: "server_is_overloaded"}
_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}

#: Where each SDK looks for the id that its error shows.
_REQUEST_ID: dict[Shape, str] = {"openai": "x-request-id", "anthropic": "request-id", "gemini": "x-request-id"}

#: Seconds until reset and requests remaining repeat: their header bytes are made once, up to this many each.
_NUMBERS_MAX = 65_536
_REMAINING: dict[int, bytes] = {}
_RESET: dict[int, bytes] = {}


def _numbered(memory: dict[int, bytes], name: bytes, number: int) -> bytes:
    made = wire.response_header(name, b"%d" % number)
    if len(memory) < _NUMBERS_MAX:
        memory[number] = made
    return made


class FixedPart:
    """What of an allow does not change while its passage is valid: held by the passage, gone with it.

    Attributes:
        ok: the serialized OkHttpResponse without the rate headers.
        tail: the serialized dynamic metadata, which follows it.
        limits: the `x-ratelimit-limit` header of each rule.
        labels, timed: the labels of the decision's metrics.
    """

    __slots__ = ("labels", "limits", "ok", "ok_length", "tail", "timed")

    def __init__(self, passage: Passage, all_credential_headers: frozenset[str]) -> None:
        message = _pb.CheckResponse()
        for name, value in _request_headers(passage):
            wire.add_header(message.ok_response.headers, name, value)
        set_now = {name for name, _ in _request_headers(passage)}
        message.ok_response.headers_to_remove.extend(sorted(_removed(passage, all_credential_headers) - set_now))
        message.ok_response.query_parameters_to_remove.extend(names.CLIENT_CREDENTIAL_PARAMETERS if _is_gemini(passage) else ())
        self.ok: bytes = message.ok_response.SerializeToString()
        self.ok_length = len(self.ok)
        metadata = _pb.CheckResponse()
        metadata.dynamic_metadata.update(_metadata(passage))
        self.tail: bytes = metadata.SerializeToString()
        self.limits = tuple(_limit_header(rule.limit) for rule in passage.prepared.rules)
        self.labels, self.timed = _labels(passage.route.route.name, passage.route.method, passage.chain[0].provider.name)


@functools.lru_cache(maxsize=4096)
def _limit_header(limit: int) -> bytes:
    """The same object for all tenants: 290 of 4,900 bytes of a tenant on a plan of four limits."""
    return wire.response_header(b"x-ratelimit-limit", b"%d" % limit)


@functools.lru_cache(maxsize=4096)
def _labels(route: str, method: str, provider: str) -> tuple[Labels, Labels]:
    """The labels of an allow in both metrics, for all tenants."""
    return (route, method_label(method), "allowed", "ok", provider), (route, "allowed")


def allowed(answer: Allowed, fixed: FixedPart) -> bytes:
    """The CheckResponse of an allow. Never empty: it sets a header at least, and says OK in its status."""
    if answer.rule < 0:
        return b"".join((b"\x0a\x00\x1a", wire.length(fixed.ok_length), fixed.ok, fixed.tail))
    limit = fixed.limits[answer.rule]
    remaining = _REMAINING.get(answer.remaining) or _numbered(_REMAINING, b"x-ratelimit-remaining", answer.remaining)
    seconds = -(-answer.reset_ms // 1000)
    reset = _RESET.get(seconds) or _numbered(_RESET, b"x-ratelimit-reset", seconds)
    size = wire.length(fixed.ok_length + len(limit) + len(remaining) + len(reset))
    return b"".join((b"\x0a\x00\x1a", size, fixed.ok, limit, remaining, reset, fixed.tail))


def _request_headers(passage: Passage) -> list[tuple[str, str]]:
    identity, chain = passage.identity, passage.chain
    out: list[tuple[str, str]] = []
    if passage.takes_chain:
        out.append((names.CHAIN, chain_cluster(tuple(link.provider.name for link in chain))))
    if chain[0].provider.is_internal:
        out.append((names.TENANT, identity.tenant.tenant_id))
        out.append((names.KEY_ID, identity.key.key_id))
        out.append((names.SCOPE, passage.route.route.scope))
        return out
    for link in chain:
        if link.credential is not None:
            # The credential leaves here, and nowhere else: into the answer that Envoy puts on the request.
            value = link.provider.credential_format.replace("{}", link.credential.reveal().decode("ascii"))
            several = len(chain) > 1
            out.append((names.CREDENTIAL_PREFIX + link.provider.name if several else link.provider.credential_header, value))
    return out


def _removed(passage: Passage, all_credential_headers: frozenset[str]) -> set[str]:
    per_provider = {names.CREDENTIAL_PREFIX + provider.name for provider in passage.route.providers}
    return {*names.CLIENT_CREDENTIALS, *all_credential_headers, names.CLIENT_TENANT, names.CHAIN, *names.IDENTITY, *per_provider}


def _is_gemini(passage: Passage) -> bool:
    return passage.route.route.shape == "gemini"


def _metadata(passage: Passage) -> dict[str, str]:
    """For the access log: who, by which key, where to. No secret."""
    return {
        "tenant": passage.identity.tenant.tenant_id,
        "key_id": passage.identity.key.key_id,
        "scope": passage.route.route.scope,
        "route": passage.route.route.name,
        "provider": passage.chain[0].provider.name,
    }


def denied(refusal: Refusal, shape: Shape, request_id: str, route: str = "") -> bytes:
    """The CheckResponse of a refusal: a non-zero status and a body that the SDKs of this shape parse. The access log gets the code,
    the route's name where one matched, and whose request it was where that is known.
    """
    message = _pb.CheckResponse()
    message.status.code = _STATUS[refusal.http_status]
    message.status.message = refusal.code
    response = message.denied_response
    response.status.code = refusal.http_status
    for name, value in _denied_headers(refusal, shape, request_id):
        wire.add_header(response.headers, name, value)
    response.body = json.dumps(_BODIES[shape](refusal, request_id), separators=(",", ":"))
    known = {"refused": refusal.code, "route": route, "tenant": refusal.tenant_id, "key_id": refusal.key_id}
    message.dynamic_metadata.update({name: value for name, value in known.items() if value})
    encoded: bytes = message.SerializeToString()
    return encoded


def _denied_headers(refusal: Refusal, shape: Shape, request_id: str) -> list[tuple[str, str]]:
    out = [("content-type", "application/json")]
    if request_id:
        out.append((_REQUEST_ID[shape], request_id))
    if refusal.http_status == 401:
        out.append(("www-authenticate", 'Bearer realm="api", error="invalid_token"'))
    if refusal.retry_after_ms is not None:
        out.append(("retry-after", str(max(1, math.ceil(refusal.retry_after_ms / 1000)))))
        out.append(("retry-after-ms", str(max(1, refusal.retry_after_ms))))
    else:
        out.append(("x-should-retry", "false"))
    if refusal.rate is not None:
        limit, remaining, reset_ms = refusal.rate
        out.append(("x-ratelimit-limit", str(limit)))
        out.append(("x-ratelimit-remaining", str(max(0, remaining))))
        out.append(("x-ratelimit-reset", str(-(-reset_ms // 1000))))
    return out


def _openai(refusal: Refusal, _request_id: str) -> dict[str, Any]:
    kind = _OPENAI_TYPE.get(refusal.http_status, "invalid_request_error")
    code = _OPENAI_CODE.get(refusal.http_status, refusal.code)
    return {"error": {"message": refusal.text, "type": kind, "param": None, "code": code}}


def _anthropic(refusal: Refusal, request_id: str) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPE[refusal.http_status]
    return {"type": "error", "error": {"type": kind, "message": refusal.text}, "request_id": request_id}


def _gemini(refusal: Refusal, _request_id: str) -> dict[str, Any]:
    details = []
    if refusal.retry_after_ms is not None:
        delay = f"{math.ceil(refusal.retry_after_ms / 1000)}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    error = {
        "code": refusal.http_status,
        "message": refusal.text,
        "status": _GEMINI_STATUS[refusal.http_status],
        "details": details,
    }
    return {"error": error}


_BODIES: dict[Shape, Callable[[Refusal, str], dict[str, Any]]] = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}
