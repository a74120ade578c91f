"""The alphabets of what operators name, in one place: the gateway file and the commands that take names check against these.

Does not know which names exist; `load.py` resolves references.
"""

import re
from typing import NamedTuple


class Alphabet(NamedTuple):
    """A pattern that a whole name matches, and the same in words."""

    pattern: re.Pattern[str]
    allowed: str

    def has(self, text: str) -> bool:
        """Whether the whole text is such a name."""
        return self.pattern.fullmatch(text) is not None


#: Providers, routes, plans. A provider's name stands in header names and cluster names, so nothing but these.
NAME = Alphabet(re.compile(r"[a-z0-9][a-z0-9-]{0,62}"), "a-z, 0-9 and -, 1 to 63 characters, the first no -")
LIMIT_NAME = Alphabet(re.compile(r"[a-z0-9][a-z0-9_-]{0,62}"), "a-z, 0-9, _ and -, 1 to 63 characters, the first a letter or digit")
SCOPE_NAME = Alphabet(
    re.compile(r"[a-z0-9][a-z0-9:._-]{0,62}"), "a-z, 0-9 and : . _ -, 1 to 63 characters, the first a letter or digit"
)
#: A model as providers name them, with `*` for any run of characters.
MODEL_PATTERN = Alphabet(
    re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._:/@+-]{0,127}"), "letters, digits and . _ : / @ + - *, 1 to 128 characters"
)
HOST_NAME = Alphabet(
    re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"),
    "a DNS name or IPv4 address in lower case, without port",
)
#: RFC 9110 section 5.1, in lower case and without the marks that no provider uses.
HEADER_NAME = Alphabet(re.compile(r"[a-z0-9][a-z0-9-]{0,63}"), "a header name in lower case: a-z, 0-9 and -, 1 to 64 characters")
