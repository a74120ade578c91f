"""What a header cannot carry is refused when it is stored, and the refusal shows nothing of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.credentials.header_value import header_value, typed_value
from extauthz.errors import Malformed


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "the credential is empty"),
        (b"sk\n1", "byte 3 of the credential is a line end, which a header cannot carry"),
        (b"sk-1\r\n", "byte 5 of the credential is a line end, which a header cannot carry"),
        (b"\0", "byte 1 of the credential is NUL, which a header cannot carry"),
        (b"sk\t1", "byte 3 of the credential is a control character, which a header cannot carry"),
        (b"sk\x7f", "byte 3 of the credential is a control character, which a header cannot carry"),
        (b"\x1bsk", "byte 1 of the credential is a control character, which a header cannot carry"),
        ("schlüssel".encode(), "byte 5 of the credential is not ASCII, which a header cannot carry"),
        (b"sk\xff", "byte 3 of the credential is not ASCII, which a header cannot carry"),
        (b"\xef\xbb\xbfsk", "byte 1 of the credential is not ASCII, which a header cannot carry"),
        (b" sk", "the credential begins or ends with a space, which a header drops"),
        (b"sk ", "the credential begins or ends with a space, which a header drops"),
        (b" ", "the credential begins or ends with a space, which a header drops"),
        (b"s" * 8_193, "the credential has 8193 bytes; a header carries at most 8192"),
    ],
)
def test_what_a_header_cannot_carry_is_refused(raw: bytes, text: str) -> None:
    with pytest.raises(Malformed) as caught:
        header_value(raw)
    assert str(caught.value) == text


@pytest.mark.parametrize("raw", [b"s", b"s" * 8_192, b"two words", bytes(range(0x21, 0x7F)), b'{"a": "b"}'])
def test_what_a_header_can_carry_is_taken_as_it_is(raw: bytes) -> None:
    assert header_value(raw).reveal() == raw


@given(st.binary(max_size=60))
def test_every_value_is_taken_whole_or_refused(raw: bytes) -> None:
    can_be_carried = bool(raw) and all(0x20 <= byte <= 0x7E for byte in raw) and raw == raw.strip()
    try:
        taken: bytes | None = header_value(raw).reveal()
    except Malformed:
        taken = None
    assert taken == (raw if can_be_carried else None)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_line_end_after_a_typed_value_is_no_part_of_it(end: bytes) -> None:
    assert typed_value(b"sk-1" + end).reveal() == b"sk-1"


@pytest.mark.parametrize("raw", [b"sk-1\n\n", b"\n", b"\r\n", b"sk-1\n ", b"\nsk-1", b"one\ntwo\n"])
def test_more_than_one_line_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        typed_value(raw)
