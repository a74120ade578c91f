"""Which paths a route may have, and when two routes could take the same request."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.gateway.templates import PATH_LENGTH_MAX, SEGMENTS_MAX, Segment, overlap, split_template

SPLIT = {
    "/": (Segment(""),),
    "/v1/chat": (Segment("v1"), Segment("chat")),
    "/v1/": (Segment("v1"), Segment("")),
    "/v1/models/{model}:generateContent": (Segment("v1"), Segment("models"), Segment("", "model", ":generateContent")),
    "/v1/images:annotate": (Segment("v1"), Segment("images:annotate")),
    "/v-{version}/a": (Segment("v-", "version"), Segment("a")),
    "/...": (Segment("..."),),
}

REFUSED = (
    "", "v1", "*", "/a//b", "//", "/.", "/..", "/a/./b", "/a/../b", "/a/.", "/a?b", "/a#b", "/a;b", "/a%20b", "/a%2fb",
    "/a\\b", "/a b",
    "/a\tb", "/a\nb", "/ä", "/{", "/}", "/{}", "/{a}{b}", "/{a}b{c}", "/{a", "/a}", "/{A}", "/{1}", "/{a1}", "/{_a}", "/{a-b}",
    "/{a}/{a}", "/{{a}}", "/{a/b}",
    "/" + "a" * PATH_LENGTH_MAX, "/a" * (SEGMENTS_MAX + 1),
)  # fmt: skip


@pytest.mark.parametrize(("path", "expected"), SPLIT.items(), ids=SPLIT)
def test_path_is_split_into_its_segments(path: str, expected: tuple[Segment, ...]) -> None:
    assert split_template(path) == expected


@pytest.mark.parametrize("path", REFUSED)
def test_path_that_could_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^(does|is|has) "):
        split_template(path)


OVERLAPS = {
    ("/a", "/a"): True,
    ("/a", "/A"): False,
    ("/a", "/a/"): False,
    ("/{x}", "/"): False,
    ("/{x}", "/a"): True,
    ("/{x}", "/a/b"): False,
    ("/{x}/b", "/a/{y}"): True,
    ("/{x}/b", "/{y}/c"): False,
    ("/m/{x}:generateContent", "/m/{x}:streamGenerateContent"): False,
    ("/m/{x}:generateContent", "/m/{x}"): True,
    ("/m/{x}:generateContent", "/m/:generateContent"): False,
    ("/m/{x}:generateContent", "/m/a:generateContent"): True,
    ("/a{x}", "/{x}a"): True,
    ("/a{x}", "/b{x}"): False,
    # `aba` has the prefix and the suffix, but nothing is left between them.
    ("/ab{x}ba", "/aba"): False,
    ("/ab{x}ba", "/abba"): False,
    ("/ab{x}ba", "/abxba"): True,
}


@pytest.mark.parametrize(("paths", "expected"), OVERLAPS.items(), ids=map(" ".join, OVERLAPS))
def test_overlap_is_seen_from_both_sides(paths: tuple[str, str], expected: bool) -> None:
    one, other = map(split_template, paths)
    assert (overlap(one, other), overlap(other, one)) == (expected, expected)


_PART = st.text("ab", max_size=2)
_SEGMENT = st.one_of(_PART.map(lambda text: text or "a"), st.builds(lambda before, after: f"{before}{{x}}{after}", _PART, _PART))
#: Two prefixes and two suffixes of two characters with something between them fit in five.
_EVERY_TEXT = ["".join(text) for length in range(1, 6) for text in itertools.product("abc", repeat=length)]


@given(_SEGMENT, _SEGMENT)
def test_overlap_is_what_trying_every_path_finds(one: str, other: str) -> None:
    oracles = [re.compile("[^/]+".join(map(re.escape, segment.split("{x}")))) for segment in (one, other)]
    witness = next((text for text in _EVERY_TEXT if all(oracle.fullmatch(text) for oracle in oracles)), None)
    assert overlap(split_template(f"/{one}"), split_template(f"/{other}")) == (witness is not None), witness
