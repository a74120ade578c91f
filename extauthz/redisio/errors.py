"""What can go wrong with a command: nothing was sent, nobody knows, the server cannot now, the server will not.

The callers' difference is between the first two. After `NotSent` nothing was counted; after `OutcomeUnknown` it may have been,
so the command is never sent again. Error replies are told apart by their code, the first word, by table; Redis 6.2 wraps the code
of an error inside a script into a sentence, and it is taken out of it here.
"""

import re

from extauthz.errors import ExtauthzError, Unavailable

#: The server cannot now; it may later, or another one can. A failover, a restart, a full memory, too few replicas.
BUSY_CODES = frozenset(
    {
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "IOERR",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
    }
)
#: These say that this server is no longer the primary: leave it and resolve the name anew.
LEAVE_CODES = frozenset({"READONLY"})

# Redis 6.2 writes an error inside a script as
#   ERR Error running script (call to f_<sha>): @user_script:1: @user_script: 1: -OOM command not allowed …
#   ERR Error running script (call to f_<sha>): @user_script:1: WRONGTYPE Operation against a key …
#   @user_script: 1: -READONLY You can't write …      (a script that returned what redis.pcall gave it)
# The code is the capital word right after the place; a capital word further on is the script's own text.
_WRAPPED = re.compile(r"(?:ERR )?(?:Error running script .*?)?@?user_script: ?\d+: (?:@?user_script: ?\d+: )?-?([A-Z]{2,})(?: |$)")
_CODE = re.compile(r"[A-Z][A-Z0-9]+(?= |$)")
_TEXT_CHARS_MAX = 300


class NotSent(Unavailable):
    """Nothing reached the server: not connected, stalled, closed, or the queue is at its bound. Safe to answer 503, or to retry."""


class OutcomeUnknown(Unavailable):
    """The command was written and no reply came: a timeout or a reset. It may have been executed, so it is never sent again."""


class ServerBusy(Unavailable):
    """The server answered that it cannot now. The command was not executed.

    Args:
        code: one of `BUSY_CODES`, or NOSCRIPT when a script vanished twice.
        text: the server's sentence, for the log.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"Redis answered {text}")
        self.code = code


class CommandFailed(ExtauthzError):
    """Any other error reply: a mistake of ours, or a right that our user lacks.

    Args:
        code: its first word in capitals, such as WRONGTYPE or NOPERM; ERR when it has none.
        text: the server's sentence, for the log.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"Redis answered {text}")
        self.code = code


class BrokenProtocol(Exception):
    """Bytes that are no reply, or a reply that nobody asked for. The connection cannot be trusted with another command."""


def code_of(text: str) -> str:
    """The code of an error reply without its `-`, also when Redis 6.2 wrapped it; ERR when it has none."""
    if wrapped := _WRAPPED.match(text):
        return wrapped[1]
    plain = _CODE.match(text)
    return plain[0] if plain else "ERR"


def error_of(text: str) -> ServerBusy | CommandFailed:
    """The exception for an error reply.

    Args:
        text: the reply without its `-`. An unknown command's arguments, which the server repeats, are cut off: they may be secret.
    """
    code = code_of(text)
    shown = text.partition(", with args")[0][:_TEXT_CHARS_MAX]
    return ServerBusy(code, shown) if code in BUSY_CODES else CommandFailed(code, shown)
