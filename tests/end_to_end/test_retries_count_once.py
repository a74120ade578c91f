"""Row 7: what Envoy tries again is counted once, for the sidecar is asked once."""

import json

import pytest

from tests.end_to_end.through import BODY, CHAT, Through
from tests.end_to_end.wire import Answer, http1, http1_headers


def ask(system: Through) -> Answer:
    headers = http1_headers("h", BODY, [("content-type", "application/json"), ("x-api-key", system.key)])
    return http1(system.port, "POST", CHAT, headers, BODY)


@pytest.mark.prove(7)
def test_a_request_that_fails_over_is_counted_once(system: Through, proving: bool) -> None:
    requests = 500 if proving else 50
    system.fail_over()
    before = int(ask(system).header("x-ratelimit-remaining"))
    remaining = [int(ask(system).header("x-ratelimit-remaining")) for _ in range(requests)]
    assert remaining == list(range(before - 1, before - 1 - requests, -1))
    tried = [len(system.providers[name].seen) for name in ("first", "second")]
    assert tried == [requests + 1, requests + 1]
    print(f"row 7: {requests} requests, {2 * requests} attempts, {before - remaining[-1]} counted")


@pytest.mark.parametrize("failing", [500, 503, -1], ids=["500", "503", "closed without an answer"])
def test_a_rescued_request_has_the_second_providers_answer_and_our_limits(system: Through, failing: int) -> None:
    system.fail_over(failing)
    answer = ask(system)
    assert json.loads(answer.body)["extauthz_demo"]["provider"] == "second"
    assert answer.header("x-ratelimit-limit") == "1000000000"
