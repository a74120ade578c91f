"""Whatever is wrong with Redis is one of our errors with a text of ours."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from demo.processes import free_port
from demo.redis_server import RedisServer
from extauthz.errors import BadConfig, Unavailable
from extauthz.record import server as server_module
from extauthz.record.server import Server
from tests.record.records import server_at


@pytest.mark.parametrize("url", ["", "127.0.0.1:6379", "http://127.0.0.1:6379", "redis://127.0.0.1:port"])
def test_what_is_no_url_of_a_redis_is_named(url: str) -> None:
    with pytest.raises(BadConfig, match="EXTAUTHZ_REDIS_URL: "):
        server_at(url)


async def test_a_unix_socket_and_another_database_are_reached(socket_folder: Path) -> None:
    own = RedisServer(socket_folder, options=(f"unixsocket {socket_folder}/r.sock",))
    try:
        async with (
            server_at(f"unix://{socket_folder}/r.sock?db=3") as there,
            server_at(f"{own.url}/3") as here,
            server_at(own.url) as other,
        ):
            await there.execute("SET", "a", 1)
            assert await here.execute("GET", "a") == b"1"
            assert await other.execute("GET", "a") is None
            assert there.where == f"{socket_folder}/r.sock"
    finally:
        own.stop()


async def test_tls_verifies_the_server(tmp_path: Path) -> None:
    """A server of another authority, and one that speaks no TLS, are not spoken to."""
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    answers = {"ours": ours, "theirs": theirs}
    for name, authority in answers.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)

        async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Enough of Redis for a first command: +OK to whatever comes."""
            while data := await reader.read(65536):
                writer.write(b"+OK\r\n" * data.count(b"*"))
            writer.close()

        listener = await asyncio.start_server(pong, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        async with listener, server_at(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.pem") as server:
            if name == "ours":
                assert await server.execute("ECHO", "a") == b"OK"
            else:
                with pytest.raises(Unavailable, match="cannot be reached"):
                    await server.execute("ECHO", "a")


async def test_nothing_listening_is_unavailable_and_says_where() -> None:
    port = free_port()
    async with server_at(f"redis://someone:hunter2@127.0.0.1:{port}/0") as server:
        with pytest.raises(Unavailable) as raised:
            await server.execute("PING")
    assert str(raised.value) == f"Redis at 127.0.0.1:{port} cannot be reached"


async def test_a_silent_server_is_unavailable_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with server_at(f"redis://127.0.0.1:{listener.getsockname()[1]}") as server:
            with pytest.raises(Unavailable, match="did not answer in time"):
                await server.execute("PING")


async def test_a_stranger_that_speaks_http_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                with link:
                    link.recv(4096)
                    link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        async with server_at(f"redis://127.0.0.1:{listener.getsockname()[1]}") as server:
            with pytest.raises(Unavailable):
                await server.execute("PING")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("NOSUCHCOMMAND", "hunter2"), "answered with an error"),
        (("INCR", "text"), "answered with an error"),
        (("EVAL", "return redis.error_reply('READONLY no')", 0), "is a read-only replica: name the primary"),
        (("EVAL", "return redis.error_reply('OOM no')", 0), "is out of memory"),
        (("EVAL", "return redis.error_reply('MASTERDOWN no')", 0), "is a cluster that is down"),
        (("EVAL", "return redis.error_reply('NOPERM no')", 0), "refused the user's rights"),
        (("EVAL", "return redis.error_reply('MOVED 1 127.0.0.1:1')", 0), "is part of a cluster"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
async def test_an_error_of_redis_keeps_its_cause_and_loses_its_text(server: Server, command: tuple[str, ...], text: str) -> None:
    await server.execute("SET", "text", "text")
    with pytest.raises(Unavailable, match=text) as raised:
        await server.execute(*command)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is not None


async def test_the_wrong_password_is_said_without_the_password(tmp_path: Path) -> None:
    guarded = RedisServer(tmp_path)
    try:
        async with server_at(guarded.url) as server:
            await server.execute("CONFIG", "SET", "requirepass", "right")
        async with server_at(f"redis://:wrong@127.0.0.1:{guarded.port}") as server:
            with pytest.raises(Unavailable, match="refused the user name or password") as raised:
                await server.execute("PING")
            assert "wrong" not in str(raised.value)
        async with server_at(f"redis://:right@127.0.0.1:{guarded.port}") as server:
            assert await server.execute("PING")
    finally:
        guarded.stop()


async def test_a_restarted_server_is_reached_again(tmp_path: Path) -> None:
    own = RedisServer(tmp_path)
    try:
        async with server_at(own.url) as server:
            await server.execute("PING")
            own.restart()
            assert await server.execute("INCR", "n") == 1
    finally:
        own.stop()
