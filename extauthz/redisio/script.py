"""A Lua script and the name Redis knows it by."""

import hashlib
from typing import Final


class Script:
    """A script that every connection loads when it connects, so that EVALSHA finds it.

    Args:
        name: for logs and tests.
        source: Lua, as it is sent.
    """

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, source: str) -> None:
        self.name: Final = name
        self.source: Final = source
        #: SHA-1 of the source in hex, which is Redis' name for it and no security of ours.
        self.sha: Final = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name}, {self.sha})"
