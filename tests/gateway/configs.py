"""A small gateway file in which everything is right, for tests to change one thing of."""

import pytest

from extauthz.errors import BadConfig, Problem
from extauthz.gateway.load import parse

GOOD = """\
providers:
  openai:
    address: https://api.openai.com
    credential: {header: authorization, format: "Bearer {}"}
  azure:
    address: https://example.openai.azure.com/openai
    credential: {header: api-key}
  agno:
    address: http://127.0.0.1:7777
    credential: none
scopes:
  agents:orchestration:
    providers: [openai, azure, agno]
    models: [gpt-4o-mini, gpt-4o-*]
routes:
  - name: chat
    path: /v1/chat/completions
    scope: agents:orchestration
    providers: [openai, azure]
plans:
  free:
    limits:
      requests: {per: tenant, limit: 100/minute}
default_plan: free
"""


def changed(*changes: tuple[str, str], add: str = "") -> bytes:
    """GOOD with each first text, which stands in it once, replaced by the second, and `add` at its end."""
    text = GOOD
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return (text + add).encode()


def problems_of(data: bytes) -> tuple[Problem, ...]:
    """What is wrong with a file that must not be accepted."""
    with pytest.raises(BadConfig) as caught:
        parse(data, "f")
    return caught.value.problems
