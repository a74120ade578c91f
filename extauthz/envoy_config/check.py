"""What is unsafe in any Envoy configuration that uses us: `extauthz envoy-check`.

It reads one file and nothing else, needs no gateway file, and does not ask whether Envoy would take the file, which is what
`envoy --mode validate` is for. A finding is a place; a file without findings breaks none of the rules, which is no proof of safety.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import Part, parse, read
from extauthz.envoy_config.rules import RULES
from extauthz.envoy_config.rules.rule import Options, Rule
from extauthz.errors import BadConfig, Problem


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One rule broken at one place."""

    file: str
    line: int
    rule: str
    what: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.what}; {self.why}; write {self.instead}"


def check(path: Path, options: Options | None = None, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """Every finding in this file, by line. Raises BadConfig when it is no configuration, or none that uses us."""
    return _findings(read(path), str(path), options or Options(), rules)


def check_text(text: str, file: str, options: Options | None = None, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """The same for a text that is not in a file; `file` is what the findings call it."""
    return _findings(parse(text, file), file, options or Options(), rules)


def _findings(document: Part, file: str, options: Options, rules: Sequence[Rule]) -> list[Finding]:
    try:
        return _found(Configuration(document), file, options, rules)
    except BadConfig as bad:  # what is too large is found on the way, where the file's name is not known
        raise BadConfig([replace(problem, file=file) for problem in bad.problems]) from bad


def _found(configuration: Configuration, file: str, options: Options, rules: Sequence[Rule]) -> list[Finding]:
    if not configuration.uses_us:
        raise BadConfig([Problem(file, 0, "nothing here uses extauthz", "a file with an ext_authz filter that has a grpc_service")])
    found = {
        Finding(file, line, rule.id, what, rule.why, rule.instead)
        for rule in rules
        for line, what in rule.check(configuration, options)
    }
    return sorted(found)
