"""Paths of routes: which are allowed, and whether two of them can match the same request.

A segment is a literal, or one `{name}` with a literal before or after it, which stands for one or more characters other than `/`
and `:`. Matching is case-sensitive and ignores the query; it is done by `decision/policy.py`, and by Envoy, where `{name}` also
takes a `:`. Two routes are held apart by the wider reading, so that neither of the two ever has a choice.
"""

import re
from typing import NamedTuple

PATH_LENGTH_MAX = 512
SEGMENTS_MAX = 32
PATH_ALLOWED = (
    "a path from / on, of letters, digits and . _ ~ ! $ & ' ( ) * + , = : @ - with at most one {name} a segment;"
    " no query, no % ; \\ // and no . or .. segments"
)

# RFC 3986 pchar without "%" and ";": a path with an escape or a parameter is refused before it is matched.
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]*")
_TEMPLATED = re.compile(r"([A-Za-z0-9._~!$&'()*+,=:@-]*)\{([a-z][a-z_]{0,31})\}([A-Za-z0-9._~!$&'()*+,=:@-]*)")


class Segment(NamedTuple):
    """A literal when `name` is empty (then it is all in `prefix`), else prefix, one or more characters, suffix."""

    prefix: str
    name: str = ""
    suffix: str = ""


def split_template(path: str) -> tuple[Segment, ...]:
    """The segments after the first `/`; a trailing slash is an empty last one. Raises ValueError with what is wrong."""
    if not path.startswith("/"):
        raise ValueError("does not begin with /")
    if len(path) > PATH_LENGTH_MAX:
        raise ValueError(f"is longer than {PATH_LENGTH_MAX} characters")
    parts = path[1:].split("/")
    if len(parts) > SEGMENTS_MAX:
        raise ValueError(f"has more than {SEGMENTS_MAX} segments")
    segments = tuple(_segment(part, is_last=index == len(parts) - 1) for index, part in enumerate(parts))
    names = [segment.name for segment in segments if segment.name]
    if len(names) != len(set(names)):
        raise ValueError("has the same {name} twice")
    return segments


def overlap(one: tuple[Segment, ...], other: tuple[Segment, ...]) -> bool:
    """Whether a path exists that both match."""
    return len(one) == len(other) and all(map(_segments_overlap, one, other))


def _segment(part: str, *, is_last: bool) -> Segment:
    if part in (".", ".."):
        raise ValueError("has a segment . or ..")
    if not part and not is_last:
        raise ValueError("has an empty segment, //")
    if _LITERAL.fullmatch(part):
        return Segment(part)
    match = _TEMPLATED.fullmatch(part)
    if match is None:
        wrong = next((mark for mark in ("%", ";", "\\", "?", "#") if mark in part), "")
        raise ValueError(f"has {wrong!r} in it" if wrong else f"has the segment {part!r}, which is no literal and not one {{name}}")
    return Segment(match[1], match[2], match[3])


def _segments_overlap(one: Segment, other: Segment) -> bool:
    if not one.name and not other.name:
        return one.prefix == other.prefix
    if not one.name:
        one, other = other, one
    if not other.name:
        text = other.prefix
        return len(text) > len(one.prefix) + len(one.suffix) and text.startswith(one.prefix) and text.endswith(one.suffix)
    # Both are templates: the longer prefix, anything, the longer suffix matches both if each begins and ends as the other does.
    return (one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)) and (
        one.suffix.endswith(other.suffix) or other.suffix.endswith(one.suffix)
    )
