"""A small provider: the OpenAI chat API, streamed and not; any other path is echoed. It tells which credential reached it.

It is not careful with secrets, on purpose: what arrived is in every answer under `extauthz_demo`, and `GET /__seen` lists all
requests so far, `DELETE /__seen` forgets them. `PUT /__fail/503` makes every later request fail so, `PUT /__fail/0` ends that.
Only for loopback.
"""

import argparse
import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "x-bf-vk", "cookie"}
)
BODY_BYTES_MAX = 64 * 1024 * 1024
HEAD_BYTES_MAX = 256 * 1024


class Request(NamedTuple):
    """A request as it stood on the wire: header names lower case, in their order, repeated ones repeated."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first value, empty when there is none."""
        return next((value for key, value in self.headers if key == name), "")


@dataclass
class Provider:
    """The server and what it has seen.

    Attributes:
        seen: one entry a request, in the order in which they came; see `describe`.
        answers_with: further header lines of every answer that is not streamed.
        failing: a status that every request gets, 0 for none; -1 closes the connection without an answer.
    """

    name: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    answers_with: tuple[str, ...] = ()
    failing: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _links: set[asyncio.Task[Any]] = field(default_factory=set)

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listen on 127.0.0.1. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, limit=HEAD_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._links):
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._links.add(task)
            task.add_done_callback(self._links.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, asyncio.CancelledError):
            while (request := await _read(reader)).method and await self._answer(request, writer):
                pass
        writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays."""
        if request.path.startswith("/__"):
            _write(writer, 200, self._control(request))
        else:
            about = self.describe(request)
            self.seen.append(about)
            if self.failing < 0:
                return False
            if self.failing:
                _write(
                    writer, self.failing, {"error": {"message": f"{self.name} fails, as it was told to", "type": "server_error"}}
                )
            elif request.path.partition("?")[0].endswith("/chat/completions") and request.method == "POST":
                await self._chat(request, about, writer)
            else:
                _write(writer, 200, {"extauthz_demo": about}, *self.answers_with)
        await writer.drain()
        return request.header("connection") != "close"

    def _control(self, request: Request) -> Any:
        if request.path.startswith("/__fail/") and request.method == "PUT":
            self.failing = int(request.path.rpartition("/")[2])
        elif request.path == "/__seen" and request.method == "DELETE":
            self.seen.clear()
        return self.seen

    def describe(self, request: Request) -> dict[str, Any]:
        """What reached this provider."""
        return {
            "provider": self.name,
            "method": request.method,
            "host": request.header("host"),
            "path": request.path,
            "credentials": {key: value for key, value in request.headers if key in CREDENTIAL_HEADERS},
            "headers": request.headers,
            "body_bytes": len(request.body),
        }

    async def _chat(self, request: Request, about: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(request.body)
            model, is_stream = str(asked["model"]), asked.get("stream") is True
        except (ValueError, KeyError, TypeError, AttributeError):
            _write(
                writer,
                400,
                {"error": {"message": "no model", "type": "invalid_request_error", "code": None}, "extauthz_demo": about},
            )
            return
        whole = {"id": "chatcmpl-demo", "created": int(time.time()), "model": model}
        words = f"Hello from {self.name}.".split(" ")
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        if not is_stream:
            message = {"role": "assistant", "content": " ".join(words)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            answer = {**whole, "object": "chat.completion", "choices": choices, "usage": usage, "extauthz_demo": about}
            _write(writer, 200, answer, *self.answers_with)
            return
        _write_head(writer, 200, "text/event-stream", "transfer-encoding: chunked")
        for number, word in enumerate(words):
            choices = [{"index": 0, "delta": {"content": word if number == 0 else " " + word}, "finish_reason": None}]
            await _event(writer, {**whole, "object": "chat.completion.chunk", "choices": choices})
        end = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        await _event(writer, {**whole, "object": "chat.completion.chunk", "choices": end, "usage": usage, "extauthz_demo": about})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


async def _read(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises IncompleteReadError at the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    request = Request(method, path, headers, b"")
    if "chunked" in request.header("transfer-encoding"):
        return request._replace(body=b"".join([part async for part in _chunks(reader)]))
    length = min(int(request.header("content-length") or 0), BODY_BYTES_MAX)
    return request._replace(body=await reader.readexactly(length))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readline() not in (b"\r\n", b""):
        pass


def _write_head(writer: asyncio.StreamWriter, status: int, content_type: str, *lines: str) -> None:
    head = (f"HTTP/1.1 {status} Demo", f"content-type: {content_type}", *lines, "", "")
    writer.write("\r\n".join(head).encode())


def _write(writer: asyncio.StreamWriter, status: int, answer: Any, *lines: str) -> None:
    body = json.dumps(answer).encode()
    _write_head(writer, status, "application/json", f"content-length: {len(body)}", *lines)
    writer.write(body)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def _event(writer: asyncio.StreamWriter, data: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + json.dumps(data).encode() + b"\n\n")
    await writer.drain()


async def _main(name: str, port: int) -> None:
    provider = Provider(name)
    await provider.start(port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="demo")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(arguments.name, arguments.port))
