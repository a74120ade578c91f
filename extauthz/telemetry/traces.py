"""Traces, on or off. Off, which is the default, is free: the handler that serves is the service itself, and no SDK is imported.

`spans.py` makes the spans; it is loaded here and nowhere else, in the worker that needs it: the SDK costs a start 0.4 s, and sends
from a thread that would not survive a fork.
"""

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from extauthz.errors import BadConfig, Problem

#: A unary handler of the transport's seam.
Handler: TypeAlias = Callable[[bytes, float], Coroutine[Any, Any, bytes]]


class Traces(Protocol):
    """What the wiring puts around a service."""

    def of(self, handler: Handler) -> Handler:
        """The handler that serves instead of this one."""

    async def close(self) -> None:
        """Send what is left, within two seconds."""


class Off:
    """No traces: every handler serves itself."""

    def of(self, handler: Handler) -> Handler:
        """The very same."""
        return handler

    async def close(self) -> None:
        """Nothing is left."""


def start(endpoint: str) -> Traces:
    """Traces that are sent to this OTLP/HTTP collector; none when it is empty.

    Args:
        endpoint: base URL; `/v1/traces` is added.

    Raises:
        BadConfig: the SDK is not installed.
    """
    if not endpoint:
        return Off()
    try:
        spans = import_module("extauthz.telemetry.spans")
    except ImportError as error:
        problem = Problem("EXTAUTHZ_TRACES", 0, "needs the OpenTelemetry SDK", "off, or pip install 'extauthz[traces]'")
        raise BadConfig([problem]) from error
    return cast("Traces", spans.Spans(endpoint))
