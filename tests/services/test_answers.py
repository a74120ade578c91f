"""A refusal in each provider's own form, read as the SDKs of that provider read it."""

import inspect
import json
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest

from extauthz import _pb
from extauthz.decision import refusals
from extauthz.errors import Refusal
from extauthz.gateway.model import Shape
from extauthz.services import answers
from tests.harness.messages import Answer

SHAPES: tuple[Shape, ...] = get_args(Shape)
REQUEST_ID = "7f6b0f9e-8a1c-4b6e-9d0e-222222222222"
#: Values for the parameters of the functions that make refusals.
ARGUMENTS: dict[str, list[Any]] = {
    "code": ["key_missing", "key_malformed", "key_ambiguous", "key_unknown", "key_revoked", "key_expired"],
    "reason": ["for the log"],
    "tenant_id": ["acme"],
    "key_id": ["k" * 16],
    "scope": ["chat"],
    "route": ["the-route"],
    "limit": ["requests"],
    "what": ["Redis is away"],
    "retry_after_ms": [1, 999, 1_000, 1_001, 60_000, 86_400_000],
}


def every_refusal() -> list[Refusal]:
    """One of each that refusals.py can make, and some of those that take a time or a code."""
    out = [refusals.rate_limited("requests", None)]
    for name, make in inspect.getmembers(refusals, inspect.isfunction):
        if make.__module__ != refusals.__name__:
            continue
        names = list(inspect.signature(make).parameters)
        several = next((known for known in names if len(ARGUMENTS[known]) > 1), None)
        for value in ARGUMENTS[several] if several else [None]:
            made: Callable[..., Refusal] = getattr(refusals, name)
            out.append(made(*(value if known == several else ARGUMENTS[known][0] for known in names)))
    return out


REFUSALS = every_refusal()


def test_every_code_is_made_and_every_one_that_is_made_is_in_the_closed_set() -> None:
    assert {refusal.code for refusal in REFUSALS} == refusals.CODES


#: HTTP status to type and, where it is fixed, code, as OpenAI's clients know them.
OPENAI = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "server_is_overloaded"),
}
ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
GEMINI = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 503: 14}


def assert_openai(refusal: Refusal, body: Any) -> None:
    kind, code = OPENAI[refusal.http_status]
    assert body == {"error": {"message": refusal.text, "type": kind, "param": None, "code": code or refusal.code}}


def assert_anthropic(refusal: Refusal, body: Any) -> None:
    kind = ANTHROPIC[refusal.http_status]
    assert body == {"type": "error", "error": {"type": kind, "message": refusal.text}, "request_id": REQUEST_ID}


def assert_gemini(refusal: Refusal, body: Any) -> None:
    error = body["error"]
    details = error.pop("details")
    assert body == {
        "error": {"code": refusal.http_status, "message": refusal.text, "status": GEMINI[refusal.http_status]},
    }
    if refusal.retry_after_ms is None:
        assert details == []
    else:
        [info] = details
        assert info["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
        assert int(info["retryDelay"].removesuffix("s")) * 1000 >= refusal.retry_after_ms


READ: dict[Shape, Callable[[Refusal, Any], None]] = {
    "openai": assert_openai,
    "anthropic": assert_anthropic,
    "gemini": assert_gemini,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.code}-{refusal.retry_after_ms}")
def test_a_refusal_is_an_error_that_the_routes_clients_parse(refusal: Refusal, shape: Shape) -> None:
    answer = Answer(answers.denied(refusal, shape, REQUEST_ID))
    assert not answer.is_allow
    assert answer.message.WhichOneof("http_response") == "denied_response"
    assert answer.message.status.code == GRPC[refusal.http_status] != 0
    assert answer.status == refusal.http_status
    assert answer.refused_by == refusal.code
    assert answer.response_headers["content-type"] == "application/json"
    READ[shape](refusal, json.loads(answer.body))
    assert "for the log" not in answer.body
    assert "Redis" not in answer.body


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.code}-{refusal.retry_after_ms}")
def test_a_client_is_told_when_to_come_back_or_that_it_need_not(refusal: Refusal) -> None:
    headers = Answer(answers.denied(refusal, "openai", REQUEST_ID)).response_headers
    if refusal.retry_after_ms is None:
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers
        assert "retry-after-ms" not in headers
    else:
        assert headers["retry-after"] == str(math.ceil(refusal.retry_after_ms / 1000))
        assert headers["retry-after-ms"] == str(refusal.retry_after_ms)
        assert int(headers["retry-after"]) >= 1
        assert "x-should-retry" not in headers


def test_waiting_helps_exactly_where_time_changes_the_answer() -> None:
    waits = {refusal.code for refusal in REFUSALS if refusal.retry_after_ms is not None}
    assert waits == {"rate_limit_exceeded", "no_provider", "unavailable", "not_configured", "plan_unusable"}


def test_a_time_that_has_come_is_a_second_and_a_millisecond() -> None:
    headers = Answer(answers.denied(refusals.rate_limited("x", 0), "openai", "")).response_headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1")


def test_401_asks_for_a_bearer_token_and_nothing_else_does() -> None:
    asking = {
        refusal.http_status
        for refusal in REFUSALS
        if "www-authenticate" in Answer(answers.denied(refusal, "openai", "")).response_headers
    }
    assert asking == {401}


def test_all_401_are_one_answer() -> None:
    bodies = {
        (answer.body, tuple(sorted(answer.response_headers.items())), answer.message.status.code)
        for refusal in REFUSALS
        if refusal.http_status == 401
        for answer in [Answer(answers.denied(refusal, "openai", ""))]
    }
    assert len(bodies) == 1


def test_a_status_without_a_row_is_an_error_and_no_answer() -> None:
    with pytest.raises(KeyError):
        answers.denied(Refusal("new", 418, "x"), "openai", "")


def test_headers_of_a_denial_overwrite() -> None:
    message = _pb.CheckResponse.FromString(answers.denied(refusals.route_not_found(), "openai", ""))
    for option in message.denied_response.headers:
        assert (option.HasField("append"), option.append.value, option.append_action) == (True, False, 2)


@pytest.mark.parametrize("request_id", ["", 'with "quotes"', "with\nnewline", "ü", "x" * 5_000])
def test_a_request_id_of_any_form_leaves_the_body_whole(request_id: str) -> None:
    body = Answer(answers.denied(refusals.route_not_found(), "anthropic", request_id)).body
    assert json.loads(body)["request_id"] == request_id
