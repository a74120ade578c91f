"""What a header list asks for: validation by RFC 9113 section 8 and gRPC over HTTP/2, and the request it amounts to.

Two blocks with equal fields give equal requests, so a request is made once per block seen and shared by all its streams; only a
handler that takes the call's traceparent has a request for each call.
"""

import math
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import partial
from typing import Any

from extauthz.transport.h2.frames import PROTOCOL_ERROR, StreamFault
from extauthz.transport.h2.limits import TIMEOUT_DIGITS_MAX
from extauthz.transport.seam import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, takes_traceparent

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
#: No NUL, LF, CR, and no blank at either end (RFC 9113 section 8.2.1).
_VALUE = re.compile(rb"(?:[^\0\n\r\t ](?:[^\0\n\r]*[^\0\n\r\t ])?)?")
_PSEUDO = (b":method", b":path", b":scheme", b":authority")
_CONNECTION_FIELDS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_TIMEOUT = re.compile(rb"([0-9]{1,%d})([HMSmun])" % TIMEOUT_DIGITS_MAX)
_UNIT_S = {b"H": 3_600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LENGTH = re.compile(rb"[0-9]{1,18}")


class Kind(IntEnum):
    """What answers a request."""

    UNARY = 0
    CLIENT_STREAM = 1
    SERVER_STREAM = 2
    REFUSED = 3  # a gRPC status, known from the headers alone
    HTTP = 4  # an HTTP status: this is no gRPC request


class Route:
    """A method served, found by its exact path."""

    __slots__ = ("handler", "kind", "path", "takes_traceparent")

    def __init__(self, path: str, kind: Kind, handler: Any) -> None:
        self.path = path
        self.kind = kind
        self.handler = handler
        self.takes_traceparent = kind is Kind.UNARY and takes_traceparent(handler)


class Request:
    """A request without its message.

    Attributes:
        timeout_s: from grpc-timeout; `math.inf` without one.
        has_gzip: whether grpc-encoding allows compressed messages.
        content_length: of the body; -1 when it was not said.
        is_plain: a unary call that neither declares a length nor an encoding: what the quick path of the connection takes.
        is_of_one_call: whether the handler holds what only this call sent, so that the request is no other's.
        status, text: for REFUSED the gRPC status, for HTTP the HTTP status.
    """

    __slots__ = (
        "content_length",
        "handler",
        "has_gzip",
        "is_head",
        "is_of_one_call",
        "is_plain",
        "kind",
        "path",
        "status",
        "text",
        "timeout_s",
    )

    def __init__(self, kind: Kind, path: str, *, status: int = 0, text: str = "", content_length: int = -1) -> None:
        self.kind = kind
        self.path = path
        self.handler: Any = None
        self.timeout_s = math.inf
        self.has_gzip = False
        self.content_length = content_length
        self.is_head = False
        self.is_of_one_call = False
        self.is_plain = False
        self.status = status
        self.text = text


def request_of(fields: Iterable[tuple[bytes, bytes]], routes: Mapping[bytes, Route], *, is_too_long: bool = False) -> Request:
    """The request of a header list; one that is too long is refused. Raises StreamFault (PROTOCOL_ERROR) when it is malformed."""
    pseudo, plain = _split(fields)
    if not all(pseudo.get(name) for name in (b":method", b":path", b":scheme")):
        raise _malformed("a pseudo-header is missing or empty")
    length = _content_length(plain)
    method, path = pseudo[b":method"], pseudo[b":path"]
    is_grpc = len(types := plain.get(b"content-type", [])) == 1 and re.fullmatch(rb"application/grpc([+;].*)?", types[0])
    route = routes.get(path)
    if method != b"POST" or not is_grpc:
        status = 431 if is_too_long else 404 if route is None else 405 if method != b"POST" else 415
        request = Request(Kind.HTTP, "", status=status, content_length=length)
        request.is_head = method == b"HEAD"
        return request
    if is_too_long:
        return Request(Kind.REFUSED, "", status=RESOURCE_EXHAUSTED, text="the header list is too long", content_length=length)
    if route is None:
        return Request(Kind.REFUSED, "", status=UNIMPLEMENTED, text="unknown method", content_length=length)
    return _call(route, plain, length)


def check_trailers(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises StreamFault when a field may not stand in trailers."""
    pseudo, _ = _split(fields)
    if pseudo:
        raise _malformed("a pseudo-header in trailers")


def timeout_of(text: bytes) -> float:
    """Seconds of a grpc-timeout. Raises ValueError unless it is 1 to 8 digits and a unit."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * _UNIT_S[found[2]]


def _call(route: Route, plain: dict[bytes, list[bytes]], length: int) -> Request:
    encodings = plain.get(b"grpc-encoding", [])
    if encodings not in ([], [b"identity"], [b"gzip"]):
        return Request(Kind.REFUSED, route.path, status=UNIMPLEMENTED, text="unknown grpc-encoding", content_length=length)
    timeouts = plain.get(b"grpc-timeout", [])
    request = Request(route.kind, route.path, content_length=length)
    try:
        request.timeout_s = min((timeout_of(text) for text in timeouts), default=math.inf)
    except ValueError:
        return Request(Kind.REFUSED, route.path, status=INVALID_ARGUMENT, text="malformed grpc-timeout", content_length=length)
    request.handler = route.handler
    if route.takes_traceparent:
        sent = plain.get(b"traceparent", [])
        request.handler = partial(route.handler, traceparent=sent[0].decode("ascii", "replace") if len(sent) == 1 else "")
        request.is_of_one_call = True
    request.has_gzip = encodings == [b"gzip"]
    request.is_plain = route.kind is Kind.UNARY and length < 0
    return request


def _split(fields: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], dict[bytes, list[bytes]]]:
    """Pseudo-headers and the others, each checked for its form and place."""
    pseudo: dict[bytes, bytes] = {}
    plain: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise _malformed("a forbidden character in a value")
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or plain:
                raise _malformed("an unknown, second or late pseudo-header")
            pseudo[name] = value
        elif not _NAME.fullmatch(name) or name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
            raise _malformed("a field that HTTP/2 has not")
        else:
            plain.setdefault(name, []).append(value)
    return pseudo, plain


def _content_length(plain: dict[bytes, list[bytes]]) -> int:
    lengths = set(plain.get(b"content-length", []))
    if not lengths:
        return -1
    if len(lengths) > 1 or not _LENGTH.fullmatch(text := lengths.pop()):
        raise _malformed("a malformed content-length")
    return int(text)


def _malformed(why: str) -> StreamFault:
    return StreamFault(PROTOCOL_ERROR, why)
