"""Rules about the file as a file, and the Envoy that reads it."""

from collections.abc import Iterator

from extauthz.envoy_config import advisories
from extauthz.envoy_config.configuration import Configuration
from extauthz.envoy_config.document import AMBIGUOUS
from extauthz.envoy_config.rules.rule import Found, Options, Rule


def open_advisories(_: Configuration, options: Options) -> Iterator[Found]:
    if options.envoy_version and (what := advisories.open_in(options.envoy_version)):
        yield 1, f"Envoy {options.envoy_version} {what}"


def ambiguous_keys(configuration: Configuration, _: Options) -> Iterator[Found]:
    for part in configuration.parts:
        for key, _value in part.entries():
            if not key.style and key.value.lower() in AMBIGUOUS:
                yield key.start_mark.line + 1, f"the key {key.value} is true or false to many YAML readers"


RULES = (
    Rule(
        "25-envoy-version",
        "a known way to crash or to pass it is open",
        "the newest patch release of a line that is still maintained",
        open_advisories,
    ),
    Rule(
        "29-ambiguous-keys",
        'what one reader calls "n" another calls "false", and the rule or the metadata behind it is never found',
        "the key in quotes, or a longer name",
        ambiguous_keys,
    ),
)
