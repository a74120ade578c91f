"""Every key is on its page, in its slot, and no two tuples of parts spell one key."""

import inspect
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from extauthz import keyspace

PAGE = Path(__file__).parent.parent / "docs" / "formats" / "keyspace.md"
#: Functions of the module that spell no key.
NO_KEYS = {"partition", "tag", "key_index_partition", "quote"}

PARTS = st.text(max_size=12)


def test_every_key_is_on_its_page_and_nothing_else_is() -> None:
    spelled = {name for name, _ in inspect.getmembers(keyspace, inspect.isfunction) if not name.startswith("_")} - NO_KEYS
    listed = set(re.findall(r"^\| `(\w+)` `", PAGE.read_text(), re.MULTILINE))
    assert listed == spelled


def slot(key: bytes) -> bytes:
    """What a cluster hashes: what stands between the first brace and the next."""
    return key[key.index(b"{") + 1 : key.index(b"}")]


@given(PARTS, PARTS, PARTS, PARTS)
def test_whatever_the_names_are_all_of_a_tenant_is_in_one_slot(tenant_id: str, key_id: str, name: str, route: str) -> None:
    keys = [
        keyspace.tenant_epoch(tenant_id),
        keyspace.tenant_document(tenant_id),
        keyspace.tenant_keys(tenant_id),
        keyspace.key_epoch(tenant_id, key_id),
        keyspace.key_document(tenant_id, key_id),
        keyspace.tenant_breaker(tenant_id, name),
        keyspace.counter(tenant_id, name, "fixed60000", key_id, route),
        keyspace.marker(keyspace.partition(tenant_id)),
    ]
    assert {slot(key) for key in keys} == {f"p{keyspace.partition(tenant_id):03d}".encode()}


@given(st.tuples(PARTS, PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS, PARTS))
def test_two_counters_are_one_only_if_all_their_parts_are_equal(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second = (keyspace.counter(parts[0], parts[1], "fixed60000", parts[2], parts[3]) for parts in (one, other))
    assert (first == second) == (one == other)


def test_parts_cannot_run_into_each_other() -> None:
    assert keyspace.counter("a", "b:c", "w") != keyspace.counter("a", "b", "c:w")
    assert slot(keyspace.tenant_breaker("a", "}{x}")) == slot(keyspace.tenant_breaker("a", "y"))
