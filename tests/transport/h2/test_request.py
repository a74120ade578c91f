"""Header lists and what they ask for: every malformed form is a stream error, every well-formed one has its answer."""

import math

import pytest

from extauthz.transport.h2.frames import PROTOCOL_ERROR, StreamFault
from extauthz.transport.h2.request import Kind, request_of, timeout_of
from extauthz.transport.seam import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED
from tests.transport.core import CHECK, COLLECT, ROUTES, fields

GRPC = {":method": "POST", ":scheme": "http", ":path": CHECK, "content-type": "application/grpc"}


def listed(**changes: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in (GRPC | changes).items()]


def plain(*more: tuple[str, str], path: str = CHECK) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in fields(path, *more)]


@pytest.mark.parametrize(
    "pairs",
    [
        [(b":method", b"POST"), (b":scheme", b"http")],
        [(b":method", b"POST"), (b":path", b"/")],
        [(b":scheme", b"http"), (b":path", b"/")],
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"")],
        [*plain(), (b":path", b"/")],
        [(b"te", b"trailers"), *plain()],
        [(b":method", b"POST"), *plain()],
        [(b":status", b"200"), *plain()],
        [(b":protocol", b"websocket"), *plain()],
        *(
            [*plain(), (name, b"x")]
            for name in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
        ),
        [*plain(), (b"te", b"gzip")],
        *([*plain(), (name, b"x")] for name in (b"", b"X-Upper", b"x y", b"x\0y", b"x\x7f", b"x\xc3", b"x:y")),
        *([*plain(), (b"x", value)] for value in (b"a\0b", b"a\nb", b"a\rb", b" a", b"a ", b"\ta", b"a\t", b" ", b"\n")),
        *([*plain(), (b"content-length", value)] for value in (b"", b"-1", b"1a", b"+1", b"1, 1", b"9" * 19)),
        [*plain(), (b"content-length", b"1"), (b"content-length", b"2")],
    ],
    ids=repr,
)
def test_a_malformed_list_is_a_stream_error(pairs: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(StreamFault) as caught:
        request_of(pairs, ROUTES)
    assert caught.value.code == PROTOCOL_ERROR


@pytest.mark.parametrize("value", [b"", b"a", b"a b", b"a\tb", b"\x80\xff", b"!"])
def test_a_value_may_have_blanks_inside_and_any_upper_octet(value: bytes) -> None:
    assert request_of([*plain(), (b"x", value)], ROUTES).kind is Kind.UNARY


@pytest.mark.parametrize(
    ("changes", "kind", "status"),
    [
        ({}, Kind.UNARY, 0),
        ({":path": COLLECT}, Kind.CLIENT_STREAM, 0),
        ({"content-type": "application/grpc+proto"}, Kind.UNARY, 0),
        ({"content-type": "application/grpc;charset=utf-8"}, Kind.UNARY, 0),
        ({":path": "/no.Service/Method"}, Kind.REFUSED, UNIMPLEMENTED),
        ({":path": CHECK + "/"}, Kind.REFUSED, UNIMPLEMENTED),
        ({":path": CHECK.upper()}, Kind.REFUSED, UNIMPLEMENTED),
        ({":path": CHECK + "?x"}, Kind.REFUSED, UNIMPLEMENTED),
        ({"grpc-encoding": "deflate"}, Kind.REFUSED, UNIMPLEMENTED),
        ({"grpc-timeout": "soon"}, Kind.REFUSED, INVALID_ARGUMENT),
        ({":method": "GET"}, Kind.HTTP, 405),
        ({":method": "HEAD"}, Kind.HTTP, 405),
        ({"content-type": "application/grpcx"}, Kind.HTTP, 415),
        ({"content-type": "application/grpc-web"}, Kind.HTTP, 415),
        ({"content-type": "application/json"}, Kind.HTTP, 415),
        ({":method": "GET", ":path": "/"}, Kind.HTTP, 404),
    ],
)
def test_each_request_has_its_answer(changes: dict[str, str], kind: Kind, status: int) -> None:
    request = request_of(listed(**changes), ROUTES)
    assert (request.kind, request.status) == (kind, status)
    assert request.is_head is (changes.get(":method") == "HEAD")


def test_a_list_that_is_too_long_is_refused_in_the_words_of_its_protocol() -> None:
    assert request_of(plain(), ROUTES, is_too_long=True).status == RESOURCE_EXHAUSTED
    assert request_of(listed(**{":method": "GET"}), ROUTES, is_too_long=True).status == 431


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3_600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"200m", 0.2),
        (b"5u", 5e-6),
        (b"7n", 7e-9),
        (b"0n", 0.0),
        (b"99999999H", 359_999_996_400.0),
    ],
)
def test_a_timeout_has_up_to_eight_digits_and_a_unit(text: bytes, seconds: float) -> None:
    assert timeout_of(text) == pytest.approx(seconds, rel=1e-12)
    assert timeout_of(text) < math.inf


@pytest.mark.parametrize(
    "text", [b"", b"S", b"1", b"123456789S", b"-1S", b"1.5S", b"1s", b" 1S", b"1S ", b"1SS", b"inf", b"\xd9\xa1S", b"1S\n"]
)
def test_any_other_timeout_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        timeout_of(text)


def test_of_two_timeouts_the_shorter_holds() -> None:
    assert request_of(plain(("grpc-timeout", "5S"), ("grpc-timeout", "1S")), ROUTES).timeout_s == 1.0


def test_only_a_unary_call_without_a_length_is_plain() -> None:
    assert request_of(plain(), ROUTES).is_plain
    assert not request_of(plain(("content-length", "9")), ROUTES).is_plain
    assert not request_of(plain(path=COLLECT), ROUTES).is_plain
