"""A configuration file as written, with the line of each part: YAML, or JSON. No defaults are filled in, no types are checked
(Envoy does that), and nothing of another file is read.

Field names are asked for as the API spells them, `failure_mode_allow`; `failureModeAllow`, which Envoy takes as well, is found too.
Where a key stands twice the last one counts, as in Envoy.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from extauthz.errors import BadConfig, Problem

#: A rendered configuration of 100 routes has about 30,000 parts. Aliases can multiply a small file; this ends it.
PARTS_MAX = 500_000
FILE_BYTES_MAX = 16 * 1024 * 1024
DEPTH_MAX = 120

_TRUE = ("true", "yes", "on", "y")
_FALSE = ("false", "no", "off", "n")
#: Plain words that one YAML reader takes for a text and another for true or false.
AMBIGUOUS = (*_TRUE[1:], *_FALSE[1:])
_WORD = re.compile(r"_([a-z0-9])")
_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)s")
_STRUCT_TYPES = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


@cache
def _spellings(name: str) -> tuple[str, str]:
    return name, _WORD.sub(lambda match: match[1].upper(), name)


@dataclass(frozen=True, slots=True)
class Part:
    """A place in the document: a mapping, a sequence, a scalar, or nothing (`bool(part)` is False).

    Attributes:
        line: from 1: of its key when it has one. A part that is absent has the line of what should hold it.
    """

    node: yaml.Node | None
    line: int

    def __bool__(self) -> bool:
        return self.node is not None and self.node.tag != "tag:yaml.org,2002:null"

    def entries(self) -> Iterator[tuple[yaml.ScalarNode, "Part"]]:
        """Keys and values of a mapping; nothing for other parts."""
        if isinstance(self.node, yaml.MappingNode):
            for key, value in self.node.value:
                if isinstance(key, yaml.ScalarNode):
                    yield key, Part(value, key.start_mark.line + 1)

    def get(self, *names: str) -> "Part":
        """What lies at this path of field names. Absent: a false part on the line of the last one that is there."""
        part = self
        for name in names:
            if not isinstance(part.node, yaml.MappingNode):
                return Part(None, part.line)
            spelt = _spellings(name)
            found = [(key, value) for key, value in part.node.value if key.value in spelt]
            if not found:
                return Part(None, part.line)
            key, value = found[-1]
            part = Part(value, key.start_mark.line + 1)
        return part

    def items(self) -> Iterator["Part"]:
        """The elements of a sequence; nothing for other parts."""
        if isinstance(self.node, yaml.SequenceNode):
            for node in self.node.value:
                yield Part(node, node.start_mark.line + 1)

    def walk(self, is_left_out: Callable[["Part"], bool] = lambda _: False) -> Iterator["Part"]:
        """This part and everything below, in the order of the file, without what is left out.

        Raises BadConfig past PARTS_MAX, in which no file is named: a part does not know its own.
        """
        left, seen = [self], 0
        while left:
            part = left.pop()
            if is_left_out(part):
                continue
            yield part
            below = [value for _, value in part.entries()] or list(part.items())
            left.extend(reversed(below))
            seen += 1
            if seen > PARTS_MAX:
                raise BadConfig([Problem("", part.line, "the document is too large", f"{PARTS_MAX} parts, aliases counted")])

    @property
    def text(self) -> str:
        """A scalar as written; empty for other parts."""
        return str(self.node.value) if self and isinstance(self.node, yaml.ScalarNode) else ""

    @property
    def is_true(self) -> bool:
        """Whether Envoy reads it as true. A wrapper message (`{value: true}`, `{default_value: true}`) counts as what it holds."""
        return self._scalar().text.lower() in _TRUE

    @property
    def is_false(self) -> bool:
        """Whether it stands there and is false. Absent is neither."""
        return self._scalar().text.lower() in _FALSE

    @property
    def number(self) -> int | None:
        """A whole number, `0666` being octal as in YAML 1.1; None for anything else."""
        text = self._scalar().text
        if re.fullmatch(r"0[0-7]+", text):
            return int(text, 8)
        return int(text, 0) if re.fullmatch(r"-?(0x[0-9a-fA-F]+|[1-9][0-9]*|0)", text) else None

    @property
    def seconds(self) -> float | None:
        """A duration such as `0.25s`; None for anything else."""
        found = _DURATION.fullmatch(self.text)
        return float(found[1]) if found else None

    @property
    def type_name(self) -> str:
        """The full message name of a typed extension; empty for other parts."""
        name = self.get("@type").text.rpartition("/")[2]
        return self.get("type_url").text.rpartition("/")[2] if name in _STRUCT_TYPES else name

    @property
    def body(self) -> "Part":
        """The fields of a typed extension, also of one that is written as a TypedStruct."""
        name = self.get("@type").text.rpartition("/")[2]
        return self.get("value") if name in _STRUCT_TYPES else self

    def _scalar(self) -> "Part":
        part = self
        for _ in range(3):
            part = part.get("value") or part.get("default_value") or part
        return part


def parse(text: str, file: str) -> Part:
    """The document of this text. Raises BadConfig with the line where it does not parse."""
    if text.lstrip().startswith("{"):
        text = _without_tabs(text)
    try:
        # First without building anything: the library builds by recursion in C, which a deep document would end with a crash.
        line = _too_deep_at(text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader) if line is None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadConfig([Problem(file, mark.line + 1 if mark else 0, f"not YAML: {error.problem}")]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadConfig([Problem(file, 0, "not YAML", "a file that Envoy reads")]) from error
    if line is not None:
        raise BadConfig([Problem(file, line, "the document is nested too deeply", f"{DEPTH_MAX} levels")])
    if not isinstance(node, yaml.MappingNode):
        raise BadConfig([Problem(file, 1, "the document is not a mapping", "an Envoy bootstrap, or a list of `resources`")])
    if _is_too_deep(node):
        raise BadConfig([Problem(file, 1, "the document holds itself, or aliases nest it too deeply", f"{DEPTH_MAX} levels")])
    return Part(node, 1)


def _too_deep_at(text: str) -> int | None:
    """The line on which brackets and indentation first go deeper than DEPTH_MAX. Raises yaml.YAMLError and ValueError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                return event.start_mark.line + 1 if event.start_mark else 0
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def read(path: Path) -> Part:
    """The document in this file. Raises BadConfig."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadConfig([Problem(str(path), 0, f"cannot be read: {error.strerror}")]) from error
    if len(data) > FILE_BYTES_MAX:
        raise BadConfig([Problem(str(path), 0, "the file is too large", f"{FILE_BYTES_MAX} bytes")])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadConfig([Problem(str(path), 0, "not UTF-8")]) from error
    return parse(text, str(path))


def _without_tabs(text: str) -> str:
    """JSON may be indented with tabs, YAML may not; inside a JSON text no raw tab can stand."""
    try:
        json.loads(text)
    except ValueError:
        return text
    return text.replace("\t", " ")


def _is_too_deep(root: yaml.Node) -> bool:
    """Whether some path down is longer than DEPTH_MAX; a document that holds itself has one."""
    depth_of: dict[int, int] = {}
    left = [(root, 0)]
    while left:
        node, depth = left.pop()
        if depth > DEPTH_MAX:
            return True
        if depth_of.get(id(node), -1) >= depth or not isinstance(node, yaml.CollectionNode):
            continue
        depth_of[id(node)] = depth
        pairs = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        left.extend((part, depth + 1) for part in pairs)
    return False
