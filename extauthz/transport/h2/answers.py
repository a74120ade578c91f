"""The frames of an answer. Header blocks are literals without indexing: constants that mean the same on any connection."""

import struct
from functools import lru_cache
from urllib.parse import quote_from_bytes

from extauthz.transport.h2.frames import END_HEADERS, END_STREAM, HEADERS, frame

_STATUS_200 = b"\x88"  # static field 8
_STATUS_NAME = b"\x08"  # literal without indexing, name of static field 8
_CONTENT_TYPE_NAME = b"\x0f\x10"  # the same, name of static field 31
_CONTENT_LENGTH_NAME = b"\x0f\x0d"  # 28
_ALLOW_NAME = b"\x0f\x07"  # 22
#: Letters a grpc-message keeps (gRPC over HTTP/2, `Percent-Encoded`); 126 octets are what one length octet can say.
_MESSAGE_SAFE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_TEXT_BYTES_MAX = 126


def _text(value: bytes) -> bytes:
    """A string without Huffman code, shorter than 127 octets."""
    return bytes((len(value),)) + value


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _text(name) + _text(value)


HEADERS_BLOCK = _STATUS_200 + _CONTENT_TYPE_NAME + _text(b"application/grpc")
TRAILERS_BLOCK = _literal(b"grpc-status", b"0")

# A whole answer is `OK_HEAD.pack(…)`, the message, `OK_TAIL.pack(…)` (0.16 us; joining frames built one by one took 0.6). The
# message's DATA frame is at most `frame_bytes_max`, 16,384 octets, so its length is said in two.
OK_HEAD = struct.Struct(f">5sI{len(HEADERS_BLOCK) + 1}sH2sIBI")
OK_HEAD_FRAME = (len(HEADERS_BLOCK) << 16 | HEADERS << 8 | END_HEADERS).to_bytes(5, "big")
OK_HEAD_BLOCK = HEADERS_BLOCK + b"\0"  # and the upper octet of the DATA frame's length
DATA_TYPE = b"\0\0"  # type DATA, no flags
OK_TAIL = struct.Struct(f">5sI{len(TRAILERS_BLOCK)}s")
OK_TAIL_FRAME = (len(TRAILERS_BLOCK) << 16 | HEADERS << 8 | END_HEADERS | END_STREAM).to_bytes(5, "big")


def headers(stream_id: int) -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, HEADERS_BLOCK)


@lru_cache(maxsize=64)
def status_block(status: int, text: str) -> bytes:
    """The fields that end a call. The text is cut to what one length octet can say."""
    message = quote_from_bytes(text.encode(), safe=_MESSAGE_SAFE).encode()
    while len(message) > _TEXT_BYTES_MAX:
        text = text[:-1]
        message = quote_from_bytes(text.encode(), safe=_MESSAGE_SAFE).encode()
    return _literal(b"grpc-status", b"%d" % status) + (_literal(b"grpc-message", message) if message else b"")


def failure(stream_id: int, status: int, text: str) -> bytes:
    """A call that ends without a message: headers that are also the trailers."""
    block = HEADERS_BLOCK + status_block(status, text) + _literal(b"grpc-accept-encoding", b"identity,gzip")
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def trailers(stream_id: int, status: int, text: str) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, status_block(status, text))


def http(stream_id: int, status: int, *, is_head: bool) -> tuple[bytes, bytes]:
    """Headers and body for a request that is no gRPC call."""
    body = _HTTP_BODY[status]
    block = _STATUS_NAME + _text(b"%d" % status) + _CONTENT_TYPE_NAME + _text(b"text/plain")
    block += _CONTENT_LENGTH_NAME + _text(b"%d" % len(body))
    if status == 405:
        block += _ALLOW_NAME + _text(b"POST")
    return frame(HEADERS, END_HEADERS | (END_STREAM if is_head else 0), stream_id, block), b"" if is_head else body


_HTTP_BODY = {
    404: b"This is a gRPC server; nothing is served at this path.\n",
    405: b"This is a gRPC server; its methods are called with POST.\n",
    413: b"This is a gRPC server; it reads no such body.\n",
    415: b"This is a gRPC server; its requests are application/grpc.\n",
    431: b"This is a gRPC server; it reads no header list that long.\n",
}
