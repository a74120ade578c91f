"""What a transport serves: methods from bytes to bytes. The services are written once against this, and either transport runs them.

A handler gets the message without its gRPC frame and the deadline as a time of `loop.time()` (`math.inf` when the client set none),
and returns the answer's bytes. It may be cancelled at any await; then nothing is sent. It may raise: the table below says which
gRPC status each error of `errors.py` becomes, and every other exception is a bug, logged once with its traceback and answered
INTERNAL. A handler that returns no bytes at all is answered INTERNAL as well: to Envoy an empty answer is an allow.

A unary handler may run without an asyncio task: the fast transport begins it in the middle of the read that brought its message and
lets each future it awaits resume it. Futures, locks, queues, `asyncio.sleep`, `gather` and `shield` work as always; what asks for
the current task does not (`asyncio.timeout`, `TaskGroup`, anyio). A handler that needs these wraps that work in a task of its own
and awaits it: `await asyncio.create_task(work())`; a cancelled handler cancels the task it awaits. Streaming handlers run in tasks.

A unary handler with an attribute `takes_traceparent` that is true is given a third argument: the call's `traceparent` from its gRPC
metadata, where Envoy names the span of this very call; empty when there is none or more than one. All others pay nothing for it.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from extauthz.errors import BadConfig, ExtauthzError, Malformed, Missing, Refusal, Unavailable

#: One message in, one out.
UnaryHandler: TypeAlias = Callable[[bytes, float], Coroutine[Any, Any, bytes]]
#: Many messages in, one out.
ClientStreamHandler: TypeAlias = Callable[[AsyncIterator[bytes], float], Coroutine[Any, Any, bytes]]
#: One message in, many out.
ServerStreamHandler: TypeAlias = Callable[[bytes, float], AsyncIterator[bytes]]


def takes_traceparent(handler: object) -> bool:
    """Whether a unary handler is given the call's `traceparent`."""
    return getattr(handler, "takes_traceparent", False) is True


# gRPC status codes (grpc/doc/statuscodes.md).
OK = 0
CANCELLED = 1
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

#: Status and text toward the client, the first row that fits. The error's own text stays in the log.
STATUS_OF: tuple[tuple[type[ExtauthzError], int, str], ...] = (
    (Malformed, INVALID_ARGUMENT, "the message does not parse"),
    (Missing, NOT_FOUND, "not found"),
    (Unavailable, UNAVAILABLE, "a dependency did not answer"),
    (BadConfig, UNAVAILABLE, "not configured"),
    (Refusal, INTERNAL, "a refusal must be an answer, not an error"),
)


def status_of(error: BaseException) -> tuple[int, str]:
    """The gRPC status and text for an exception that left a handler; never OK."""
    for kind, status, text in STATUS_OF:
        if isinstance(error, kind):
            return status, text
    if isinstance(error, TimeoutError):
        return DEADLINE_EXCEEDED, "the deadline passed"
    return INTERNAL, "internal error"


@dataclass(frozen=True, slots=True)
class Services:
    """Handlers by full method path, such as `/grpc.health.v1.Health/Check`."""

    unary: Mapping[str, UnaryHandler] = field(default_factory=dict)
    client_stream: Mapping[str, ClientStreamHandler] = field(default_factory=dict)
    server_stream: Mapping[str, ServerStreamHandler] = field(default_factory=dict)
