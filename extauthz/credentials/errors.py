"""What can go wrong with a sealed secret, beyond the five kinds of `extauthz.errors`. No text here ever holds a value or a key."""

from extauthz.errors import Malformed, Unavailable


class NotAuthentic(Malformed):
    """The cipher refused: wrong key, wrong context, or changed bytes; which of them cannot be known. Nothing was decrypted."""


class DoesNotOpen(Unavailable):
    """A secret is there and cannot be opened: 503 and an entry in the audit log.

    The one answer to it is to refuse. No other place, tenant or version is tried, and not the platform's own secret. It is
    Unavailable and not Missing, so that no caller takes it for "this tenant has none".
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, retry_after_ms=30_000)


class UnknownKek(DoesNotOpen):
    """Sealed by a KEK that this process was not given; the text names its id. Give the process that master key file as well."""


class KekExhausted(Unavailable):
    """The KEK has sealed as often as it may. Nothing was sealed; put a new master key file first and keep this one after it."""

    def __init__(self, what: str) -> None:
        super().__init__(what, retry_after_ms=3_600_000)
