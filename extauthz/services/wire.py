"""Protobuf by hand, for the one message that is assembled per request. Everything else goes through the protobuf library.

Encoding: protobuf.dev/programming-guides/encoding, length-delimited fields only. A test compares every output with the library's.
"""

from extauthz import _pb

# Tags: field number << 3 | 2 (length-delimited).
CHECK_OK_RESPONSE = b"\x1a"  # CheckResponse.ok_response = 3
OK_RESPONSE_HEADER = b"\x32"  # OkHttpResponse.response_headers_to_add = 6
OPTION_HEADER = b"\x0a"  # HeaderValueOption.header = 1
#: HeaderValueOption.append = false as a present wrapper, append_action = OVERWRITE_IF_EXISTS_OR_ADD: old Envoys read the first, new
#: ones the second, and 1.37 changed what an unset one means.
OVERWRITE = b"\x12\x00\x18\x02"


def varint(number: int) -> bytes:
    """A base-128 varint of 0 to 2**63."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


#: Lengths up to 4 KiB, ready made: saves 0.4 us per answer against calling `varint`.
LENGTHS = tuple(varint(number) for number in range(4096))


def length(number: int) -> bytes:
    """The varint of a length, from the table where it reaches."""
    return LENGTHS[number] if number < 4096 else varint(number)


def field(tag: bytes, payload: bytes) -> bytes:
    """One length-delimited field."""
    return tag + varint(len(payload)) + payload


def response_header(name: bytes, value: bytes) -> bytes:
    """One entry of OkHttpResponse.response_headers_to_add that overwrites."""
    header = field(b"\x0a", name) + field(b"\x12", value)
    return field(OK_RESPONSE_HEADER, field(OPTION_HEADER, header) + OVERWRITE)


def add_header(headers: object, name: str, value: str) -> None:
    """Append a HeaderValueOption that overwrites to a repeated field."""
    option = headers.add()  # type: ignore[attr-defined]
    option.header.key = name
    option.header.value = value
    option.append.SetInParent()
    option.append_action = _pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
