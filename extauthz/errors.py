"""The errors that cross a room's border, and nothing else.

    ExtauthzError
    ├── Refusal       a decision: the request may not pass, and here is the answer
    ├── Missing       not here: the caller may try the next place; never an allow
    ├── Unavailable   a dependency did not answer: 503; never an allow
    ├── Malformed     bytes that do not parse, or that parse to what may not be
    └── BadConfig     an operator's file is wrong: every problem at once
        └── BadFlag       what is wrong is a flag: nothing was begun

A foreign exception is mapped to one of these by a table at the border where it appears, keeps its cause, and loses its text
toward the client. An error and a "no" never share a value: `Refusal` is raised, an allow is returned.
"""

from dataclasses import dataclass


class ExtauthzError(Exception):
    """What every error of this project is."""


class Refusal(ExtauthzError):
    """The request may not pass. Nothing was counted for it, unless the raiser's docstring says otherwise.

    Args:
        code: stable, lower case with underscores; a metric label and the key of the answer's table.
        http_status: 400 to 599, what the client sees.
        text: one sentence for the client; names nothing the client did not send.
        reason: for the log; may name tenant, key id, scope; never a secret.
        retry_after_ms: how long until a retry can succeed; None when waiting does not help.

    Attributes:
        tenant_id, key_id: whose request it was, once that is known; for the log and the access log.
        rate: limit, remaining and milliseconds until reset of the limit that refused.
    """

    def __init__(self, code: str, http_status: int, text: str, reason: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(reason or text)
        self.code = code
        self.http_status = http_status
        self.text = text
        self.reason = reason or text
        self.retry_after_ms = retry_after_ms
        self.tenant_id = ""
        self.key_id = ""
        self.rate: tuple[int, int, int] | None = None


class Missing(ExtauthzError):
    """The thing asked for is not in this place. The place itself answered."""


class Unavailable(ExtauthzError):
    """A dependency did not answer, or answered that it cannot. The outcome of a write is unknown unless a subclass says more.

    Args:
        what: the dependency and what happened to it; for the log.
        retry_after_ms: when to try again.
    """

    def __init__(self, what: str, retry_after_ms: int = 1_000) -> None:
        super().__init__(what)
        self.retry_after_ms = retry_after_ms


class Malformed(ExtauthzError):
    """Bytes or values that do not have the form they must have. Nothing was changed by them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in an operator's file: where, what, and what is allowed."""

    file: str
    line: int
    what: str
    allowed: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.what}" + (f" (allowed: {self.allowed})" if self.allowed else "")


class BadConfig(ExtauthzError):
    """An operator's file or flag is wrong. What was in force before stays in force."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class BadFlag(BadConfig):
    """A flag's value can never be served, whatever the files and the machine are: the command was asked for in the wrong way."""
