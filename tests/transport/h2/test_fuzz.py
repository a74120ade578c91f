"""Promise 15: no crash and no hang over mutated connections. The fuzzer itself is fuzz/h2_connection.py."""

import pytest

from fuzz.h2_connection import run


@pytest.mark.prove(15)
def test_mutated_connections_break_nothing(proving: bool) -> None:
    total = 100_000 if proving else 3_000
    ended, begun, longest = run(total)
    print(f"\n  {total} connections, {ended} ended early, {begun} handlers begun, the longest {longest * 1e3:.1f} ms")
    assert 0.2 * total < ended < 0.9 * total
    assert begun > 0.5 * total
    assert longest < 0.1
