"""Row 7: what Envoy tries again is counted once, for the sidecar is asked once."""

import json

import pytest

from tests.conftest import eventually
from tests.end_to_end.through import CHAT, through
from tests.end_to_end.wire import Answer, http1, http1_headers

BODY = b'{"model":"m"}'


@pytest.mark.prove(7)
def test_a_request_that_fails_over_is_counted_once(tmp_path_factory: pytest.TempPathFactory, proving: bool) -> None:
    requests = 500 if proving else 50
    with through(tmp_path_factory.mktemp("r")) as system:
        system.providers["first"].failing = 503
        headers = http1_headers("h", BODY, [("content-type", "application/json"), ("x-api-key", system.key)])

        def ask() -> Answer:
            return http1(system.port, "POST", CHAT, headers, BODY)

        eventually(lambda: ask().status == 200)
        system.forget()
        before = int(ask().header("x-ratelimit-remaining"))
        remaining = [int(ask().header("x-ratelimit-remaining")) for _ in range(requests)]
        assert remaining == list(range(before - 1, before - 1 - requests, -1))
        tried = [entry["provider"] for entry in system.providers["first"].seen + system.providers["second"].seen]
        assert (tried.count("first"), tried.count("second")) == (requests + 1, requests + 1)
        print(f"row 7: {requests} requests, {2 * requests} attempts, {before - remaining[-1]} counted")


def test_the_answer_of_a_rescued_request_carries_the_tightest_limit_and_the_providers_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with through(tmp_path_factory.mktemp("r")) as system:
        system.providers["first"].failing = -1
        headers = http1_headers("h", BODY, [("content-type", "application/json"), ("x-api-key", system.key)])
        eventually(lambda: http1(system.port, "POST", CHAT, headers, BODY).status == 200)
        answer = http1(system.port, "POST", CHAT, headers, BODY)
        assert json.loads(answer.body)["extauthz_demo"]["provider"] == "second"
        assert answer.header("x-ratelimit-limit") == "1000000000"
