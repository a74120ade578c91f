"""What a rule is, and what it finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from extauthz.envoy_config.configuration import Configuration


@dataclass(frozen=True, slots=True)
class Options:
    """What a configuration does not say about itself.

    Attributes:
        envoy_version: such as `1.40.0`; empty: not checked.
        body_bytes_max: the largest request body that the operator's clients send; None: unknown.
    """

    envoy_version: str = ""
    body_bytes_max: int | None = None


#: The line, from 1, and what is wrong there.
Found: TypeAlias = tuple[int, str]
Check: TypeAlias = Callable[[Configuration, Options], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a configuration is unsafe.

    Attributes:
        id: number and name, `01-failure-mode-allow`; stable, for scripts that read our output.
        why: why it matters, a clause.
        instead: what to write, a clause.
        check: every place where the configuration breaks it.
    """

    id: str
    why: str
    instead: str
    check: Check
