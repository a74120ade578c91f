"""Both ends of an Envoy: a load client of HTTP/1.1 with keep-alive, and a provider that only looks at the credential.

`python -m bench.http1 PORT CREDENTIAL` is the provider: 200 when `authorization: Bearer CREDENTIAL` is in the request, else 500.
"""

import asyncio
import sys
import time
from typing import cast

import uvloop

from bench.h2_client import Result

_BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello?"}]}'
_ANSWER = b"ok"


async def load(port: int, path: str, host: str, key: str, *, total: int, connections: int) -> Result:
    """Send `total` requests, one in flight on each connection, and wait for their answers: 200, with the rate headers."""
    loop = asyncio.get_running_loop()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"accept: application/json\r\naccept-encoding: gzip, deflate\r\nuser-agent: OpenAI/Python 2.8.0\r\n"
        f"x-stainless-lang: python\r\ncontent-length: {len(_BODY)}\r\n\r\n"
    )
    request = head.encode() + _BODY
    shares = [total // connections + (index < total % connections) for index in range(connections)]
    clients = [_Client(loop.create_future(), request, share) for share in shares if share]
    begun = time.perf_counter()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.is_done for client in clients))
    elapsed_s = time.perf_counter() - begun
    failures: dict[str, int] = {}
    for client in clients:
        client.close()
        for what, count in client.failures.items():
            failures[what] = failures.get(what, 0) + count
    return Result(sum(client.good for client in clients), elapsed_s, failures)


class _Client(asyncio.Protocol):
    def __init__(self, is_done: asyncio.Future[None], request: bytes, share: int) -> None:
        self.is_done = is_done
        self.good = 0
        self.failures: dict[str, int] = {}
        self._request = request
        self._left = share
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_done.done():
            self.failures[f"connection lost: {exc}"] = self._left
            self.is_done.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._data = data
            return
        if data.startswith(b"HTTP/1.1 200 ") and b"\r\nx-ratelimit-remaining: " in data:
            if len(data) < end + 4 + len(_ANSWER):
                self._data = data
                return
            self.good += 1
        else:
            what = f"another answer: {data[:300]!r}"
            self.failures[what] = self.failures.get(what, 0) + self._left
            self.is_done.set_result(None)
            self._transport.abort()
            return
        self._data = b""
        self._left -= 1
        if self._left:
            self._transport.write(self._request)
        elif not self.is_done.done():
            self.is_done.set_result(None)


class _Provider(asyncio.Protocol):
    """Requests come whole or in pieces, one at a time on a connection."""

    def __init__(self, credential: bytes) -> None:
        self._credential = credential
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data
        if not data.endswith(_BODY):
            return
        self._data = b""
        status = b"200 OK" if self._credential in data else b"500 Another Credential"
        self._transport.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(_ANSWER), _ANSWER))


async def _serve(port: int, credential: str) -> None:
    expected = f"authorization: Bearer {credential}\r\n".encode()
    server = await asyncio.get_running_loop().create_server(lambda: _Provider(expected), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
