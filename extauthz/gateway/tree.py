"""From YAML bytes to a tree that knows its lines. Decides nothing about what the tree means: `load.py` does.

Built from libyaml's events and not by its composer, because the composer recurses once per level and expands nothing we could
count: here depth and size, aliases included, are bounded while reading. Every scalar stays the text that the operator wrote. What
YAML 1.1 would turn into a boolean (`on`, `no`, `y`, …) is a problem wherever it stands without quotes: one tool would read a
boolean, the next a word.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import yaml

from extauthz.errors import BadConfig, Problem

#: Our own file is 10 levels deep at most.
DEPTH_MAX = 16
#: 500 routes of 30 values each, and room. An alias counts as much as what it stands for.
NODES_MAX = 50_000

_BOOLEANS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false"))
_NULLS = frozenset(("", "~", "null"))
# YAML 1.1, c-printable, turned round; libyaml refuses the same but says no line.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: libyaml where PyYAML was built with it, which every wheel is.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Text:
    """A scalar, as written. `quoted` tells `"5"` from `5`."""

    line: int
    text: str
    quoted: bool


@dataclass(slots=True)
class Items:
    """A list."""

    line: int
    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True)
class Entries:
    """A mapping: each key once, with the line on which the key stands."""

    line: int
    entries: dict[str, tuple[int, "Node"]] = field(default_factory=dict)


Node: TypeAlias = Text | Items | Entries


def is_null(node: Node) -> bool:
    """Whether the operator wrote nothing, `~` or `null`."""
    return isinstance(node, Text) and not node.quoted and node.text.lower() in _NULLS


def read_tree(data: bytes, file: str, problems: list[Problem]) -> Node:
    """The tree of one YAML document; duplicate keys and unquoted booleans are added to `problems`.

    Raises BadConfig, with what was found so far, where there is no tree to go on with: text that is not UTF-8, not YAML, tagged,
    too deep, too large, empty, or more than one document.
    """
    reader = _Reader(file, problems)
    try:
        text = data.decode("utf-8-sig")
        if unprintable := _UNPRINTABLE.search(text):
            reader.stop(
                text.count("\n", 0, unprintable.start()) + 1, f"has the character {unprintable[0]!r}", "printable characters"
            )
        for event in _events(text):
            reader.take(event)
    except UnicodeDecodeError as error:
        reader.stop(data.count(b"\n", 0, error.start) + 1, "is not UTF-8", "UTF-8")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.stop(mark.line + 1 if mark else 0, f"is not YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        reader.stop(0, f"is not YAML: {str(error).splitlines()[0]}")
    return reader.root or reader.stop(0, "is empty", "a mapping")


def _events(text: str) -> Iterator[Any]:
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    return events


@dataclass(slots=True)
class _Open:
    """A list or a mapping whose end has not come; `key` waits for its value."""

    node: Items | Entries
    anchor: str | None
    nodes_before: int
    key: tuple[int, str] | None = None


class _Reader:
    """Takes events one by one; `root` is there after the document's end."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.root: Node | None = None
        self._file = file
        self._problems = problems
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0
        self._documents = 0

    def stop(self, line: int, what: str, allowed: str = "") -> NoReturn:
        """There is nothing to go on with."""
        raise BadConfig([*self._problems, Problem(self._file, line, what, allowed)])

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self.stop(line, "a second document begins here", "one document")
        elif isinstance(event, yaml.AliasEvent):
            self._take_alias(line, event.anchor or "")
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(line, event)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._open.pop()
            if closed.anchor:
                self._anchors[closed.anchor] = (closed.node, self._nodes - closed.nodes_before)

    def _take_node(self, line: int, event: Any) -> None:
        if getattr(event, "tag", None) is not None:
            self.stop(line, f"the tag {event.tag!r} has no meaning here", "values without tags")
        before = self._nodes
        self._count(line, 1)
        if isinstance(event, yaml.ScalarEvent):
            text = Text(line, event.value, quoted=bool(event.style))
            if event.anchor:
                self._anchors[event.anchor] = (text, 1)
            self._place(line, text)
            return
        node = Items(line) if isinstance(event, yaml.SequenceStartEvent) else Entries(line)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._place(line, node)
        if len(self._open) >= DEPTH_MAX:
            self.stop(line, "is nested too deeply", f"at most {DEPTH_MAX} levels")
        self._open.append(_Open(node, event.anchor, before))

    def _take_alias(self, line: int, anchor: str) -> None:
        if anchor not in self._anchors:
            self.stop(line, f"*{anchor} stands for nothing that is complete before it", "an anchor whose value ended")
        node, size = self._anchors[anchor]
        self._count(line, size)
        self._place(line, node)

    def _count(self, line: int, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            self.stop(line, "is too large, aliases counted as what they stand for", f"at most {NODES_MAX} values")

    def _place(self, line: int, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node, Items):
            parent.node.items.append(self._checked(node))
        elif parent.key is None:
            parent.key = (line, self._key(line, node))
        else:
            key_line, key = parent.key
            parent.key = None
            if key in parent.node.entries:
                first = parent.node.entries[key][0]
                self._problems.append(
                    Problem(self._file, key_line, f"{key!r} stands here again, first on line {first}", "each key once")
                )
            else:
                parent.node.entries[key] = (key_line, self._checked(node))

    def _key(self, line: int, node: Node) -> str:
        if not isinstance(node, Text):
            self.stop(line, "a key is no word", "words as keys")
        key: str = self._checked(node).text
        return key

    def _checked(self, node: Any) -> Any:
        if isinstance(node, Text) and not node.quoted and node.text.lower() in _BOOLEANS:
            what = f"{node.text!r} without quotes is a boolean in YAML 1.1, a word in others"
            self._problems.append(Problem(self._file, node.line, what, f'"{node.text}" in quotes, where a word is meant'))
        return node
