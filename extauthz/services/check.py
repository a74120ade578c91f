"""`envoy.service.auth.v3.Authorization/Check`: bytes in, bytes out. Steps 1 and 7 of a Check; the decision is in between.

Every path through `__call__` returns the bytes of an `Allowed` that the decision built, or of a denial, or raises. What it raises
becomes a gRPC error, which Envoy treats by its failure mode (refuse): a message that does not parse, or a bug.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from extauthz import _pb
from extauthz.decision import refusals
from extauthz.decision.check import Checker
from extauthz.decision.policy import Matched
from extauthz.decision.request import Request
from extauthz.errors import Malformed, Refusal, Unavailable
from extauthz.gateway import headers as names
from extauthz.services import answers
from extauthz.telemetry.logs import Sampler
from extauthz.telemetry.metrics import DECISIONS, DURATION, ERRORS, NONE, TENANT_DECISIONS, Metrics, method_label

METHOD = "/envoy.service.auth.v3.Authorization/Check"
#: Refusals written to the log each second; the rest are counted, and their number is in the next line.
REFUSALS_LOGGED_PER_S = 50
_parse = _pb.CheckRequest.FromString
_log = logging.getLogger("extauthz.check")


class CheckService:
    """Answers Envoy.

    Args:
        checker: the decision.
        metrics: where decisions are counted.
        now: the loop's time, seconds: it stands still within a turn of the loop.
        timer: seconds, fine enough for a decision of microseconds.
    """

    def __init__(
        self, checker: Checker, metrics: Metrics, now: Callable[[], float], timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._checker = checker
        self._metrics = metrics
        self._now = now
        self._timer = timer
        self._sampler = Sampler(REFUSALS_LOGGED_PER_S)

    async def __call__(self, message: bytes, deadline: float) -> bytes:
        """Decide one serialized CheckRequest.

        Raises:
            Malformed: it does not parse.
        """
        try:
            parsed = _parse(message)
        except DecodeError as error:
            self._tell_undecodable(len(message))
            raise Malformed("the message is no CheckRequest") from error
        began = self._timer()
        request = decoded(parsed)
        matched: Matched | None = None
        try:
            policy = self._checker.policy
            if policy is None:
                raise refusals.not_configured()
            matched = policy.match(request.method, request.host, request.path)
            allowed = await self._checker.check(request, policy, matched, deadline)
        except Refusal as refusal:
            return self._denied(refusal, request, matched, began)
        except Unavailable as error:
            return self._denied(refusals.unavailable(str(error), error.retry_after_ms), request, matched, began)
        passage = allowed.passage
        fixed = passage.door
        if fixed is None:
            fixed = passage.door = answers.FixedPart(passage, policy.credential_headers)
        metrics = self._metrics
        metrics.add(DECISIONS, fixed.labels)
        metrics.observe(DURATION, fixed.timed, self._timer() - began)
        if metrics.counts_tenants:
            metrics.add(TENANT_DECISIONS, (metrics.tenant(passage.identity.tenant.tenant_id), "allowed"))
        return answers.allowed(allowed, fixed)

    def _tell_undecodable(self, size: int) -> None:
        self._metrics.add(ERRORS, (METHOD,))
        if self._sampler.allows(self._now()):
            extra = {"method": METHOD, "bytes": size, "suppressed": self._sampler.take_suppressed()}
            _log.warning("a message is no CheckRequest", extra=extra)

    def _denied(self, refusal: Refusal, request: Request, matched: Matched | None, began: float) -> bytes:
        route = matched[0].route if matched else None
        name = route.name if route else NONE
        now = self._now()
        self._metrics.add(DECISIONS, (name, method_label(request.method), "denied", refusal.code, NONE))
        self._metrics.observe(DURATION, (name, "denied"), self._timer() - began)
        if refusal.tenant_id and self._metrics.counts_tenants:
            self._metrics.add(TENANT_DECISIONS, (self._metrics.tenant(refusal.tenant_id), "denied"))
        if self._sampler.allows(now):
            _log.info(
                "refused",
                extra={
                    "code": refusal.code,
                    "status": refusal.http_status,
                    "reason": refusal.reason,
                    "tenant": refusal.tenant_id,
                    "key_id": refusal.key_id,
                    "route": name,
                    "method": method_label(request.method),
                    "request_id": request.request_id,
                    "suppressed": self._sampler.take_suppressed(),
                },
            )
        if route is None:
            return answers.denied(refusal, _guessed_shape(request), request.request_id)
        return answers.denied(refusal, route.shape, request.request_id, route.name)


def _guessed_shape(request: Request) -> Any:
    """Without a route, the header in which the key came tells whose SDK is asking."""
    return "gemini" if request.x_goog_api_key else "openai"


def decoded(parsed: Any) -> Request:
    """A CheckRequest as plain values; every field that Envoy left out is empty."""
    attributes = parsed.attributes
    http = attributes.request.http
    headers = http.headers
    if not headers and http.header_map.headers:
        headers = raw_headers(http.header_map.headers)
    get = headers.get
    metadata = attributes.metadata_context.filter_metadata
    model, ambiguous = None, False
    if names.LLM_NAMESPACE in metadata:
        fields = metadata[names.LLM_NAMESPACE].fields
        if names.LLM_MODEL in fields:
            # Only a string is a model: a number or null in its place is one that could not be read.
            model = fields[names.LLM_MODEL].string_value
        ambiguous = names.LLM_OTHER_SPELLING in fields
        if names.LLM_PROBLEM in fields:
            is_missing = model is None and fields[names.LLM_PROBLEM].string_value == names.LLM_PROBLEM_MISSING
            model = None if is_missing else ""
    return Request(
        http.method,
        http.host,
        http.path,
        get("x-api-key", ""),
        get("authorization", ""),
        get("api-key", ""),
        get("x-goog-api-key", ""),
        get(names.CLIENT_TENANT, ""),
        model,
        ambiguous,
        attributes.source.address.socket_address.address,
        attributes.context_extensions.get(names.CHAIN_EXTENSION) == names.CHAIN_EXTENSION_VALUE,
        # The id that Envoy's access log and the provider have too; `http.id` is a number that stands nowhere else.
        get("x-request-id", http.id)[:64],
    )


def raw_headers(pairs: Any) -> dict[str, str]:
    """The header map of an Envoy with encode_raw_headers; a name that stands twice has its values joined by a comma, as Envoy joins
    them otherwise. What is not ASCII becomes a character that no key holds.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        name = pair.key.lower()
        value = (pair.raw_value or pair.value.encode()).decode("ascii", "replace")
        out[name] = f"{out[name]},{value}" if name in out else value
    return out
