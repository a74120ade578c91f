"""What a provider's header can carry, decided when a credential is stored and not when a request needs it.

Envoy answers 503 to every request of a tenant whose credential holds a newline or NUL, and sends an empty one as an empty header:
both were tried. No message of this file holds a byte of the value.
"""

from extauthz.errors import Malformed
from extauthz.secret import Secret

#: Envoy takes 60 KiB of request headers; a credential of 8 KiB leaves room for everything else, and no provider has longer ones.
VALUE_BYTES_MAX = 8_192

_CARRIED = frozenset(range(0x20, 0x7F))


def header_value(raw: bytes) -> Secret:
    """The value as a Secret, when a header can carry it. Raises Malformed, with the first thing that is wrong and where."""
    if not raw:
        raise Malformed("the credential is empty")
    if len(raw) > VALUE_BYTES_MAX:
        raise Malformed(f"the credential has {len(raw)} bytes; a header carries at most {VALUE_BYTES_MAX}")
    for position, byte in enumerate(raw, 1):
        if byte not in _CARRIED:
            raise Malformed(f"byte {position} of the credential is {_kind(byte)}, which a header cannot carry")
    if raw[:1] == b" " or raw[-1:] == b" ":
        raise Malformed("the credential begins or ends with a space, which a header drops")
    return Secret(raw)


def typed_value(raw: bytes) -> Secret:
    """The same for what was typed or piped in: one line end at its end is not part of the value."""
    return header_value(raw.removesuffix(b"\n").removesuffix(b"\r"))


def _kind(byte: int) -> str:
    """The class of a byte, not the byte."""
    match byte:
        case 0x00:
            return "NUL"
        case 0x0A | 0x0D:
            return "a line end"
        case _ if byte >= 0x80:
            return "not ASCII"
        case _:
            return "a control character"
