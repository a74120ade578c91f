"""A value that must not be shown: every way Python prints, compares or stores an object is closed here."""

import hmac
from typing import NoReturn


class Secret:
    """Bytes that reach the outside only by `reveal`, which a test counts.

    It has no useful `repr`, no equality but in constant time, no hash and no pickle. Python cannot promise that the bytes are gone
    from memory afterwards; docs/security.md says what that means.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes themselves. Call it only where they leave the process or enter the cipher."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __format__(self, spec: str) -> str:
        return "***"
