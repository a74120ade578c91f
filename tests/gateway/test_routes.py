"""Routes: never two for one request, never one that gives up too early."""

import time

from extauthz.gateway.load import parse
from tests.gateway.configs import changed, problems_of


def test_routes_that_share_a_path_are_kept_apart_by_method_or_host() -> None:
    other = """  - name: other
    path: /v1/chat/completions
    scope: agents:orchestration
    providers: [openai]
"""
    for apart in (
        changed(("plans:\n", f"{other}    methods: [GET]\nplans:\n")),
        changed(
            ("    path: /v1/chat/completions\n", "    path: /v1/chat/completions\n    hosts: [a.example]\n"),
            ("plans:\n", f"{other}    hosts: [b.example]\nplans:\n"),
        ),
    ):
        assert len(parse(apart, "f").routes) == 2


def test_no_route_gives_up_while_its_decision_may_still_come() -> None:
    slow = changed(("    path:", "    timeout: 3s\n    path:"), add="listener: {check_timeout_ms: 5000}\n")
    assert [problem.what for problem in problems_of(slow)] == ["route chat: timeout is '3s'"]


def test_500_routes_are_read_within_a_second() -> None:
    routes = "".join(
        f"  - {{name: r{n}, path: '/v1/t{n}/{{a}}/x', scope: agents:orchestration, providers: [openai]}}\n" for n in range(499)
    )
    start = time.thread_time()
    assert len(parse(changed(("plans:\n", f"{routes}plans:\n")), "f").routes) == 500
    assert time.thread_time() - start < 1
