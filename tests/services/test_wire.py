from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz import _pb
from extauthz.decision.decision import Allowed
from extauthz.services import answers, wire
from tests.harness.deciding import deciding

#: Around every length at which a varint, or the table of lengths, changes.
EDGES = sorted({0, 1} | {edge + step for edge in (127, 128, 4096, 16_383, 16_384, 2_097_151) for step in (-2, -1, 0, 1, 2)})


def option(name: str, value: str) -> bytes:
    """The same entry by the library: the whole OkHttpResponse that holds nothing else."""
    message = _pb.CheckResponse()
    header = message.ok_response.response_headers_to_add.add()
    header.header.key, header.header.value = name, value
    header.append.SetInParent()
    header.append_action = 2
    return bytes(message.ok_response.SerializeToString())


def library_varint(number: int) -> bytes:
    """As the library writes it: HttpRequest.size is a plain varint, field 9."""
    message = _pb.CheckRequest().attributes.request.http
    message.size = number
    return bytes(message.SerializeToString())[1:]


@given(st.integers(1, 2**63 - 1))
def test_a_varint_is_the_librarys(number: int) -> None:
    assert wire.varint(number) == library_varint(number)


@pytest.mark.parametrize("number", [edge for edge in EDGES if edge])
def test_a_length_is_the_librarys_on_both_sides_of_the_table(number: int) -> None:
    assert wire.length(number) == wire.varint(number) == library_varint(number)


def test_a_length_of_zero_is_one_octet() -> None:
    assert wire.length(0) == wire.varint(0) == b"\0"


@pytest.mark.parametrize("number", [edge for edge in EDGES if edge])
def test_a_header_of_every_length_is_the_librarys(number: int) -> None:
    assert wire.response_header(b"n", b"v" * number) == option("n", "v" * number)
    assert wire.response_header(b"n" * number, b"v") == option("n" * number, "v")


def test_an_empty_value_means_the_same_though_the_library_leaves_it_out() -> None:
    read = _pb.CheckResponse().ok_response.FromString
    assert read(wire.response_header(b"n", b"")) == read(option("n", ""))


@pytest.mark.parametrize("edge", [127, 128, 4096, 16_383, 16_384])
def test_a_header_whose_outer_lengths_reach_an_edge_is_the_librarys(edge: int) -> None:
    for number in range(edge - 24, edge + 2):
        assert wire.response_header(b"x-ratelimit-limit", b"7" * number) == option("x-ratelimit-limit", "7" * number)


_ascii = st.characters(codec="ascii")


@given(st.text(_ascii, min_size=1, max_size=300), st.text(_ascii, min_size=1, max_size=20_000))
def test_any_header_is_the_librarys(name: str, value: str) -> None:
    assert wire.response_header(name.encode(), value.encode()) == option(name, value)


@pytest.mark.parametrize("filler", [0, 1, 60, 127, 128, 3_600, 3_700, 3_800, 4_000, 4_096, 16_000, 16_100, 16_200, 16_384, 70_000])
async def test_a_whole_allow_of_every_size_is_the_librarys(redis_url: str, tmp_path: Path, filler: int) -> None:
    """The answer assembled by hand against the message built field by field, at sizes on both sides of each length's edge."""
    async with deciding(redis_url, tmp_path) as system:
        key = await system.acme("free")
        assert (await system.check(key.text)).is_allow
        policy, identity = system.core.checker.policy, system.core.identities.cached(key.digest)
        assert policy is not None
        assert identity is not None
        [passage] = identity.passages.values()
    fixed = answers.FixedPart(passage, policy.credential_headers)
    before = _pb.CheckResponse.FromString(answers.allowed(Allowed(passage, -1, 0, 0), fixed))
    expected = before.ok_response
    wire.add_header(expected.headers, "x-filler", "f" * filler)
    fixed.ok = expected.SerializeToString()
    fixed.ok_length = len(fixed.ok)
    for remaining, reset_ms in ((0, 1), (99, 60_000), (127, 999), (2**31, 31_622_400_000)):
        data = answers.allowed(Allowed(passage, 0, remaining, reset_ms), fixed)
        message = _pb.CheckResponse()
        message.status.SetInParent()
        message.ok_response.CopyFrom(expected)
        for name, value in (("limit", 100), ("remaining", remaining), ("reset", -(-reset_ms // 1000))):
            wire.add_header(message.ok_response.response_headers_to_add, f"x-ratelimit-{name}", str(value))
        message.dynamic_metadata.CopyFrom(before.dynamic_metadata)
        assert _pb.CheckResponse.FromString(data) == message
        assert len(data) == message.ByteSize()
