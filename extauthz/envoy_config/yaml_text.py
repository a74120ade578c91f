"""A configuration as YAML text that Envoy reads as it was meant. Knows nothing of what the configuration says.

Envoy's YAML reader takes `y`, `n`, `1e5` and the like for booleans and numbers, also as keys, so a provider called `n` would
become `false`. Hence every string is quoted unless it begins with a letter and is plainly a name.
"""

import re
from typing import Any, TypeAlias

import yaml

#: What a configuration is made of: mappings with string keys, lists, strings, integers, booleans.
Node: TypeAlias = dict[str, Any]

_TYPE_URL = "type.googleapis.com/"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_NOT_NAMES = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"})


def typed(message: str, **fields: Any) -> Node:
    """An `Any` of Envoy's configuration: the full name of the message, and its fields."""
    return {"@type": _TYPE_URL + message, **fields}


def duration(milliseconds: int) -> str:
    """A protobuf duration in JSON, such as `0.2s`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """No anchors: what stands twice is written twice."""
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    if "\n" in value:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _NOT_NAMES
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _string)


def to_yaml(document: Node) -> str:
    """The document as YAML text, its keys in the order in which they were put in."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=132, default_flow_style=False, allow_unicode=False)
    return text
