"""The reference transport: the same services on grpc.aio, with generic handlers and no generated code.

grpcio parses, inflates and keeps its own limits; what the seam promises beyond that is done here: the deadline as a time of the
loop, the table of statuses, and that no empty message leaves with status OK.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from extauthz.errors import ExtauthzError, Refusal
from extauthz.settings import Listen, parse_listen
from extauthz.transport import listening
from extauthz.transport.h2.limits import Limits
from extauthz.transport.seam import Services, status_of, takes_traceparent

OnBug = Callable[[str, BaseException], None]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """Serves `services` with grpc.aio.

    Args:
        on_bug: told of every exception that no handler may let out, with the method's path. Must not raise.
        limits: those that grpcio has too: streams, message, header list.
        register: called with the server before it starts, to add what grpcio alone can serve (reflection).
        credentials: for TLS; plaintext without.
    """

    def __init__(
        self,
        services: Services,
        *,
        on_bug: OnBug,
        limits: Limits | None = None,
        register: Callable[[grpc.aio.Server], None] | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._services = services
        self._on_bug = on_bug
        self._limits = limits or Limits()
        self._register = register
        self._credentials = credentials
        self._servers: list[grpc.aio.Server] = []
        #: What the fast transport counts by reason; grpcio tells nobody.
        self.closed_because: dict[str, int] = {}

    async def start(self, listen: str) -> None:
        """Listen on `unix:PATH` or `HOST:PORT`; may be called for several. Raises BadConfig when the address cannot be had."""
        address = parse_listen(listen)
        limits = self._limits
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # else a port that another process has would be shared with it
                ("grpc.max_concurrent_streams", limits.streams_max),
                ("grpc.max_receive_message_length", limits.stream_message_bytes_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.header_list_bytes_max),
                ("grpc.absolute_max_metadata_size", limits.header_list_bytes_max),
            ]
        )
        server.add_generic_rpc_handlers((_Methods(self._services, self._on_bug, limits),))
        if self._register is not None:
            self._register(server)
        self._bind(server, address)
        await server.start()
        self._servers.append(server)

    async def drain(self, grace_s: float) -> None:
        """Take no new calls, finish those that run, cancel what is left after the grace."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        self._servers.clear()

    async def close(self) -> None:
        """Cancel every call and close every connection."""
        await self.drain(0)

    def _bind(self, server: grpc.aio.Server, address: Listen) -> None:
        if address.is_unix:
            listening.clear_stale(address)
        umask = os.umask(0o777 & ~listening.SOCKET_MODE)
        try:
            if self._credentials is not None:
                server.add_secure_port(str(address), self._credentials)
            else:
                server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise listening.refused(address) from error
        finally:
            os.umask(umask)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in its stubs
    """Finds the handler of a path, as bytes to bytes."""

    def __init__(self, services: Services, on_bug: OnBug, limits: Limits) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for path, unary in services.unary.items():
            self._methods[path] = grpc.unary_unary_rpc_method_handler(_unary(path, unary, on_bug, limits))
        for path, client_stream in services.client_stream.items():
            self._methods[path] = grpc.stream_unary_rpc_method_handler(_client_stream(path, client_stream, on_bug))
        for path, server_stream in services.server_stream.items():
            self._methods[path] = grpc.unary_stream_rpc_method_handler(_server_stream(path, server_stream, on_bug, limits))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._methods.get(handler_call_details.method)


def _unary(path: str, handler: Any, on_bug: OnBug, limits: Limits) -> Any:
    is_traced = takes_traceparent(handler)

    async def serve(message: bytes, context: Any) -> bytes:
        if len(message) > limits.message_bytes_max:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the message is too large")
        try:
            more = (_traceparent(context),) if is_traced else ()
            return _checked(await handler(message, _deadline(context), *more))
        except BaseException as error:
            await _abort(context, path, error, on_bug)
            raise

    return serve


def _client_stream(path: str, handler: Any, on_bug: OnBug) -> Any:
    async def serve(messages: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            return _checked(await handler(messages, _deadline(context)))
        except BaseException as error:
            await _abort(context, path, error, on_bug)
            raise

    return serve


def _server_stream(path: str, handler: Any, on_bug: OnBug, limits: Limits) -> Any:
    async def serve(message: bytes, context: Any) -> AsyncIterator[bytes]:
        if len(message) > limits.message_bytes_max:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the message is too large")
        count = 0
        try:
            async for answer in handler(message, _deadline(context)):
                yield _checked(answer)
                count += 1
            if not count:
                _checked(b"")
        except BaseException as error:
            await _abort(context, path, error, on_bug)
            raise

    return serve


def _traceparent(context: Any) -> str:
    sent = [value for name, value in context.invocation_metadata() if name == "traceparent"]
    return sent[0] if len(sent) == 1 else ""


def _deadline(context: Any) -> float:
    remaining = context.time_remaining()
    return math.inf if remaining is None else asyncio.get_running_loop().time() + remaining


def _checked(message: Any) -> bytes:
    """The message, unless it is none: to Envoy an empty answer is an allow."""
    if type(message) is not bytes or not message:
        raise TypeError("the handler returned no message")
    return message


async def _abort(context: Any, path: str, error: BaseException, on_bug: OnBug) -> None:
    """End the call with the status of this error. Returns only when the call is already over, by the client or the deadline."""
    if isinstance(error, grpc.aio.AbortError):
        return
    is_ours = isinstance(error, (ExtauthzError, TimeoutError)) and not isinstance(error, Refusal)
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        return  # by the client, the deadline or the end of the server; a handler's own CancelledError is a bug
    if not is_ours:
        on_bug(path, error)
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return
    status, text = status_of(error)
    await context.abort(_CODES[status], text)
