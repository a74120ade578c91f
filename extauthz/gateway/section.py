"""Fields taken out of one mapping of the tree, each with its form and bound; what is wrong is noted and reading goes on.

After a problem a field's value is its default or an empty one, so that everything else is still checked. `load.py` throws all of it
away when there was any problem.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from extauthz.errors import Malformed, Problem
from extauthz.gateway.names import Alphabet
from extauthz.gateway.tree import Entries, Items, Node, Text, is_null
from extauthz.gateway.units import DURATION_ALLOWED, format_duration, parse_duration

_DIGITS = frozenset("0123456789")
_TEXT_LENGTH_MAX = 4_096


@dataclass(slots=True)
class Problems:
    """What was found wrong in one file."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, what: str, allowed: str = "") -> None:
        """Note it; reading goes on."""
        self.found.append(Problem(self.file, line, what, allowed))


class Section:
    """One mapping.

    Args:
        problems: where what is wrong is noted.
        line: where the mapping's name stands, for what is missing from it.
        node: what the operator wrote there; anything but a mapping is a problem, and then the section is empty.
        title: what the mapping is, for the messages, such as `provider openai`.
        fields: every key that may stand in it.
    """

    __slots__ = ("_entries", "is_broken", "line", "problems", "title")

    def __init__(self, problems: Problems, line: int, node: Node, title: str, fields: tuple[str, ...]) -> None:
        self.problems = problems
        self.line = line
        self.title = title
        self._entries = entries_of(problems, line, node, title)
        self.is_broken = not isinstance(node, Entries)
        for key, (key_line, _) in self._entries.items():
            if key not in fields:
                problems.add(key_line, f"{title}: unknown field {key!r}", ", ".join(fields))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def line_of(self, name: str) -> int:
        """Where the field stands; the section's own line when it does not."""
        return self._entries[name][0] if name in self._entries else self.line

    def node(self, name: str) -> Node | None:
        """The field as written; None when it is not there."""
        return self._entries[name][1] if name in self._entries else None

    def wrong(self, name: str, what: str, allowed: str = "") -> None:
        """Note a problem at a field."""
        self.problems.add(self.line_of(name), f"{self.title}: {name} {what}", allowed)

    def missing(self, name: str, allowed: str) -> None:
        """Note that a field that must be there is not, unless the whole section is wrong anyway."""
        if not self.is_broken:
            self.wrong(name, "is missing", allowed)

    def text(self, name: str, allowed: str, default: str | None = None) -> str:
        """A word or quoted text, at most 4096 printable characters. Empty after a problem."""
        node = self.node(name)
        if node is None:
            if default is None:
                self.missing(name, allowed)
            return default or ""
        text = node.text if isinstance(node, Text) and not is_null(node) else None
        if not text or len(text) > _TEXT_LENGTH_MAX or not text.isprintable():
            self.wrong(name, "is empty or no text", allowed)
            return ""
        return text

    def word(self, name: str, alphabet: Alphabet, default: str | None = None) -> str:
        """A text of an alphabet. Empty after a problem."""
        text = self.text(name, alphabet.allowed, default)
        if text and not alphabet.has(text):
            self.wrong(name, f"is {text!r}", alphabet.allowed)
            return ""
        return text

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of a few words. The first one after a problem."""
        text = self.text(name, ", ".join(choices), default)
        if text in choices:
            return text
        if text:
            self.wrong(name, f"is {text!r}", ", ".join(choices))
        return choices[0]

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        """A whole decimal number without quotes, sign, `_` or leading zero, within bounds. The default after a problem."""
        node = self.node(name)
        if node is None:
            return default
        text = node.text if isinstance(node, Text) and not node.quoted else ""
        # Checked as text first: a number of a million digits is never converted.
        is_number = 0 < len(text) <= len(str(high)) and _DIGITS.issuperset(text) and (text == "0" or text[0] != "0")
        if is_number and low <= int(text) <= high:
            return int(text)
        self.wrong(name, f"is {shown(node)}", f"a whole number from {low} to {high}, without quotes")
        return default

    def duration_ms(self, name: str, low_ms: int, high_ms: int, default_ms: int) -> int:
        """A duration such as `30s`, within bounds. The default after a problem."""
        allowed = f"{DURATION_ALLOWED}, from {format_duration(low_ms)} to {format_duration(high_ms)}"
        if name not in self:
            return default_ms
        text = self.text(name, allowed)
        try:
            duration_ms = parse_duration(text) if text else default_ms
        except Malformed:
            duration_ms = 0
        if low_ms <= duration_ms <= high_ms:
            return duration_ms
        self.wrong(name, f"is {text!r}", allowed)
        return default_ms

    def texts(
        self, name: str, is_allowed: Callable[[str], bool], allowed: str, most: int, default: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        """A list of one to `most` different texts; those that are not allowed are left out after noting them."""
        node = self.node(name)
        if node is None:
            if default is None:
                self.missing(name, allowed)
            return default or ()
        if not isinstance(node, Items) or not 1 <= len(node.items) <= most:
            self.wrong(name, f"is {shown(node)}", f"a list of 1 to {most}: {allowed}")
            return ()
        good: list[str] = []
        for item in node.items:
            text = item.text if isinstance(item, Text) and not is_null(item) else None
            if text is None or not is_allowed(text):
                self.problems.add(item.line, f"{self.title}: {name} has {shown(item)}", allowed)
            elif text in good:
                self.problems.add(item.line, f"{self.title}: {name} has {text!r} twice", "each once")
            else:
                good.append(text)
        return tuple(good)

    def named(self, name: str, alphabet: Alphabet, most: int) -> Iterator[tuple[str, int, Node]]:
        """The entries of a mapping of named things, one to `most`, with their lines. A wrong name is noted and given."""
        if name not in self:
            self.missing(name, f"a mapping of 1 to {most} names")
            return
        line, node = self._entries[name]
        entries = entries_of(self.problems, line, node, name)
        if isinstance(node, Entries) and not 1 <= len(entries) <= most:
            self.wrong(name, f"has {len(entries)} entries", f"1 to {most}")
        for key, (key_line, value) in entries.items():
            if not alphabet.has(key):
                self.problems.add(key_line, f"{name}: the name {key!r}", alphabet.allowed)
            yield key, key_line, value


def entries_of(problems: Problems, line: int, node: Node, title: str) -> dict[str, tuple[int, Node]]:
    """The entries of a mapping; none, after noting it, of anything else."""
    if isinstance(node, Entries):
        return node.entries
    problems.add(line, f"{title} is {shown(node)}", "a mapping")
    return {}


def shown(node: Node) -> str:
    """What the operator wrote, short enough for a message."""
    if isinstance(node, Items):
        return f"a list of {len(node.items)}"
    if isinstance(node, Entries):
        return "a mapping"
    if is_null(node):
        return "empty"
    return repr(node.text[:60] + "…" if len(node.text) > 60 else node.text)
