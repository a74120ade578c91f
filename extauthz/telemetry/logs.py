"""JSON lines on standard error, redaction last, and a bound on what a flood of refusals may write.

Every room logs through the standard library under `extauthz.<room>`; this module decides what a line looks like. Redaction is the
last thing that happens to a line before it is written: it removes what looks like a credential from every value, whoever put it
there. It is the second net; the first is that nothing logs a credential.

No logging library: structlog imports rich, 0.1 s of the start of each worker, for the one formatter that is below.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final

from extauthz.secret import Secret

REDACTED: Final = "[redacted]"

#: Our keys, and the forms of the providers' keys that have one. A value under a name of `_NAMES` goes whatever its form.
_FORMS: Final = re.compile(
    r"xa_[a-z]{1,8}_[a-z2-7]{16}_[0-9A-Za-z]+"
    r"|\b(?:sk|pk|rk|key|sess)-[A-Za-z0-9_-]{8,}"
    r"|\bAIza[0-9A-Za-z_-]{16,}"
    r"|\bya29\.[0-9A-Za-z_-]{8,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]*"
    r"|(?i:\b(?:bearer|basic)\s+)[^\s\"',]+"
    r"|(?i:(?<=://))[^/@\s:]*:[^/@\s]+(?=@)",
)
_NAMES: Final = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "api_key",
        "x-goog-api-key",
        "cookie",
        "password",
        "secret",
        "token",
    },
)


def redacted(value: Any, name: str = "") -> Any:
    """The value without credentials; containers are walked, everything that is not plain is shown by its type."""
    if isinstance(value, Secret) or name.lower() in _NAMES:
        return REDACTED
    if isinstance(value, str):
        return _FORMS.sub(REDACTED, value)
    if isinstance(value, bytes):
        return redacted(value.decode("utf-8", "replace"))
    if isinstance(value, dict):
        return {redacted(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redacted(str(value))


#: What every record has; whatever else stands in one came by `extra`.
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON: `event`, what came by `extra`, `level`, `logger`, `timestamp`, `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class; never raises for a value that JSON has no form for."""
        line: dict[str, Any] = {"event": record.getMessage()}
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        line["level"] = record.levelname.lower()
        line["logger"] = record.name
        line["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(redacted(line))


def configure(level: str) -> None:
    """All of this process' logging as JSON lines on standard error.

    Args:
        level: debug, info, warning or error; the operator's.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Sampler:
    """At most so many lines a second; what was not written is said with the next line that is.

    Args:
        per_second: lines.
    """

    __slots__ = ("_left", "_per_second", "_second", "suppressed")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = -1
        self._left = 0
        self.suppressed = 0

    def allows(self, now: float) -> bool:
        """Whether a line may be written at this time, in seconds; a refused one is added to `suppressed`."""
        second = int(now)
        if second != self._second:
            self._second, self._left = second, self._per_second
        if self._left == 0:
            self.suppressed += 1
            return False
        self._left -= 1
        return True

    def take_suppressed(self) -> int:
        """How many lines were not written since this was last asked."""
        count, self.suppressed = self.suppressed, 0
        return count
