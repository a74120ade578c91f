"""Messages of gRPC over HTTP/2: the five octets before each, and gzip. No I/O; both transports' limits meet here."""

import struct
import zlib

from extauthz.errors import Malformed

#: Compressed flag and length of a message.
PREFIX = struct.Struct(">BI")
PREFIX_BYTES = 5
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class TooLarge(Malformed):
    """A message above its bound; nothing beyond the bound was inflated."""


def frame_message(message: bytes) -> bytes:
    """A message with its prefix, uncompressed."""
    return PREFIX.pack(0, len(message)) + message


def inflate(data: bytes, bytes_max: int) -> bytes:
    """A gzip message of one member.

    Raises TooLarge when it would be longer than `bytes_max`, Malformed when it is not gzip, is cut off, or has octets behind it.
    """
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        message = inflater.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise Malformed("a message is not gzip") from error
    if len(message) > bytes_max:
        raise TooLarge("a message inflates beyond its bound")
    if not inflater.eof or inflater.unused_data:
        raise Malformed("a gzip message is cut off or has octets behind it")
    return message
