"""A TCP proxy before a real Redis that misbehaves on request: swallows replies, cuts, delays, injects bytes, speaks TLS."""

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self


class Proxy:
    """Between a client and 127.0.0.1:`port`, in the loop of the test.

    Attributes to turn at any time: `swallow` drops what the server answers; `chunk` passes
    replies in pieces of so many bytes; `delay_s` holds each piece of a reply for so long.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", own_port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._host = host
        self._tls = tls
        self.port = own_port
        self.swallow = False
        self.chunk = 0
        self.delay_s = 0.0
        self.swallowed_bytes = 0
        self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        return f"redis://{self._host}:{self.port}"

    def cut(self) -> None:
        """Reset every client's connection now."""
        for writer in tuple(self._open):
            writer.transport.abort()

    def inject(self, data: bytes) -> None:
        """Say something to every client that the server did not say."""
        for writer in self._open:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._open.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            answers = asyncio.create_task(self._answers(from_server, writer))
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    to_server.write(data)
            answers.cancel()
            await asyncio.wait([answers])
            to_server.transport.abort()
        self._open.discard(writer)
        writer.transport.abort()
        self._tasks.discard(task)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.swallow:
                    self.swallowed_bytes += len(data)
                    continue
                for piece in self._pieces(data):
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                    writer.write(piece)
                    if self.chunk:
                        await asyncio.sleep(0)
            writer.transport.abort()

    def _pieces(self, data: bytes) -> list[bytes]:
        size = self.chunk or len(data)
        return [data[start : start + size] for start in range(0, len(data), size)]
