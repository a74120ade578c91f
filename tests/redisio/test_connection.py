"""The connection against real servers: commands, scripts, access, restarts, failovers, and what it says of itself."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from math import inf
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import pytest_asyncio
import redis
import trustme

from demo.processes import free_port
from demo.redis_server import RedisServer
from extauthz.redisio.connection import Connection
from extauthz.redisio.errors import CommandFailed, NotSent, OutcomeUnknown, ServerBusy
from extauthz.redisio.pipeline import pack
from extauthz.redisio.script import Script
from extauthz.redisio.url import RedisUrl
from tests.redisio.conftest import Connect, Serve
from tests.redisio.proxy import Proxy
from tests.redisio.waiting import until

ECHO = Script("echo", "return {KEYS[1], ARGV[1], 7}")
WRITE = Script("write", "return redis.call('INCR', KEYS[1])")


@pytest_asyncio.fixture
async def connection(each_redis_url: str, connect: Connect) -> Connection:
    return await connect(each_redis_url, [ECHO])


async def test_replies_have_the_types_that_are_promised(connection: Connection) -> None:
    assert [
        await connection.execute("SET", "a", 1),
        await connection.execute(b"GET", "a"),
        await connection.execute("INCR", "a"),
        await connection.execute("GET", "absent"),
        await connection.execute("MGET", "a", "absent"),
    ] == [b"OK", b"1", 2, None, [b"2", None]]


async def test_script_is_known_from_the_first_command_on(connection: Connection) -> None:
    command = pack("EVALSHA", ECHO.sha, 1, "k", "v")
    assert await connection.submit(command, inf) == [b"k", b"v", 7]


async def test_script_survives_script_flush_under_load(connection: Connection) -> None:
    await connection.execute("SCRIPT", "FLUSH")
    replies = await asyncio.gather(*(connection.run(ECHO, pack("EVALSHA", ECHO.sha, 1, "k", n), inf) for n in range(64)))
    assert [[b"k", str(n).encode(), 7] for n in range(64)] == replies


async def test_error_of_one_command_is_not_the_next_ones(connection: Connection) -> None:
    wrong = connection.submit(pack("NOSUCH", "canary"), inf)
    right = connection.submit(pack("PING"), inf)
    with pytest.raises(CommandFailed) as caught:
        await wrong
    assert caught.value.code == "ERR"
    assert "canary" not in str(caught.value)
    assert await right == b"PONG"


async def test_nothing_is_sent_before_start_or_after_close(redis_url: str) -> None:
    connection = Connection(RedisUrl.parse(redis_url))
    with pytest.raises(NotSent, match="not started"):
        connection.submit(pack("PING"), inf)
    await connection.start()
    assert await connection.execute("PING") == b"PONG"
    await connection.close()
    with pytest.raises(NotSent, match="closed"):
        connection.submit(pack("PING"), inf)


async def test_killed_and_restarted_server_is_found_again_with_its_scripts(own_server: RedisServer, connect: Connect) -> None:
    server = own_server
    connection = await connect(server.url, [ECHO])
    server.process.send(SIGKILL)
    await until(lambda: not connection.is_connected)
    with pytest.raises(NotSent):
        connection.submit(pack("PING"), inf)
    await asyncio.to_thread(server.restart)
    restarted_at = asyncio.get_running_loop().time()
    await until(lambda: connection.is_connected)
    assert asyncio.get_running_loop().time() - restarted_at < 1.0
    assert await connection.submit(pack("EVALSHA", ECHO.sha, 1, "k", "v"), inf) == [b"k", b"v", 7]
    assert connection.generation == 2


async def test_start_returns_when_nobody_listens_and_connects_later(serve: Serve, connect: Connect) -> None:
    port = free_port()
    connection = await connect(f"redis://127.0.0.1:{port}")
    assert (connection.is_connected, connection.has_connected_once) == (False, False)
    await asyncio.to_thread(serve, port=port)
    await until(lambda: connection.is_connected)
    assert connection.has_connected_once


async def test_close_while_nobody_listens(connect: Connect) -> None:
    connection = await connect(f"redis://127.0.0.1:{free_port()}")
    await connection.close()
    with pytest.raises(NotSent, match="closed"):
        connection.submit(pack("PING"), inf)


async def test_close_ends_what_is_in_flight(redis_url: str, connect: Connect) -> None:
    async with Proxy(int(redis_url.rpartition(":")[2])) as proxy:
        connection = await connect(proxy.url)
        proxy.swallow = True
        waiting = connection.submit(pack("PING"), inf)
        await until(lambda: proxy.swallowed_bytes > 0)
        await connection.close()
        with pytest.raises(OutcomeUnknown, match="closed"):
            await waiting


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage().partition(": ")[2]) for record in caplog.records if record.name == "extauthz.redis"
    ]


async def test_each_change_of_state_is_logged_once(
    own_server: RedisServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = own_server
    async with Proxy(server.port) as proxy:
        connection = await connect(proxy.url, timeout_s=0.05)
        proxy.delay_s = 0.15
        with pytest.raises(OutcomeUnknown):
            await connection.execute("PING")
        await until(lambda: connection.is_connected)
        proxy.delay_s = 0
        await asyncio.to_thread(server.stop)
        await until(lambda: not connection.is_connected)
        await until(lambda: proxy.connections > 5)
        await asyncio.to_thread(server.restart)
        await until(lambda: connection.is_connected)
        await connection.close()
    said = records(caplog)
    assert said[:3] == [
        (logging.INFO, "connected"),
        (logging.WARNING, "stalled: the oldest command has no answer; commands are refused until that changes"),
        (logging.INFO, "connected"),
    ]
    assert said[3][1].startswith("connection ")
    assert said[4][0] == logging.ERROR
    assert said[4][1].startswith("cannot connect: ")
    assert said[-1] == (logging.INFO, "connected")
    assert len(said) <= 7, said


@pytest.fixture
def locked_url(each_redis_server: RedisServer) -> Iterator[str]:
    """A server that asks for a password, with further users: one may not use CLIENT, one may not load scripts."""
    client = redis.Redis.from_url(each_redis_server.url)
    client.acl_setuser("clientless", enabled=True, passwords=["+canary1"], categories=["+@all"], keys=["*"], commands=["-client"])
    client.acl_setuser("scriptless", enabled=True, passwords=["+canary2"], categories=["+@all"], keys=["*"], commands=["-script"])
    client.config_set("requirepass", "canary0")
    client.close()
    yield each_redis_server.url.removeprefix("redis://")
    with redis.Redis.from_url(each_redis_server.url, password="canary0") as client:
        client.config_set("requirepass", "")
        client.acl_deluser("clientless", "scriptless")


@pytest.mark.parametrize("who", [":canary0", "default:canary0", "clientless:canary1"])
async def test_password_lets_in(locked_url: str, connect: Connect, who: str) -> None:
    connection = await connect(f"redis://{who}@{locked_url}/3", [ECHO])
    assert await connection.execute("SET", "in", "3") == b"OK"
    await connection.close()
    with redis.Redis.from_url(f"redis://:canary0@{locked_url}/3") as client:
        assert client.get("in") == b"3"


@pytest.mark.parametrize(
    ("who", "db", "why"),
    [
        (":canary9@", 0, "the server refused user and password (WRONGPASS)"),
        ("nobody:canary9@", 0, "the server refused user and password (WRONGPASS)"),
        ("", 0, "the server wants a user and password (NOAUTH)"),
        ("", 3, "the server refused database 3 (NOAUTH)"),
        (":canary0@", 999, "the server refused database 999 (ERR)"),
        ("scriptless:canary2@", 0, "the server refused the script echo (NOPERM)"),
    ],
)
async def test_what_is_refused_is_said_clearly_once_and_without_secrets(
    locked_url: str, connect: Connect, who: str, db: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scripts = [ECHO] if who.startswith("scriptless") else []
    connection = await connect(f"redis://{who}{locked_url}/{db}", scripts)
    with pytest.raises(NotSent) as caught:
        connection.submit(pack("PING"), inf)
    assert str(caught.value) == f"Redis is not connected: {why}"
    await asyncio.sleep(0.2)  # some further attempts
    await connection.close()
    assert records(caplog) == [(logging.ERROR, f"cannot connect: {why}")]
    shown = f"{caplog.text}{connection!r}{vars(connection)}{caught.value!r}"
    assert "canary" not in shown


async def test_unix_socket_carries_the_same(serve: Serve, connect: Connect, socket_folder: Path) -> None:
    path = socket_folder / "redis.sock"
    server = await asyncio.to_thread(serve, options=(f"unixsocket {path}",))
    connection = await connect(f"unix://{path}?db=1", [ECHO])
    assert await connection.submit(pack("EVALSHA", ECHO.sha, 1, "k", "v"), inf) == [b"k", b"v", 7]
    server.process.send(SIGKILL)
    await until(lambda: not connection.is_connected)
    await asyncio.to_thread(server.restart)
    await until(lambda: connection.is_connected)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_spoken_and_verified(redis_url: str, connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    async with Proxy(int(redis_url.rpartition(":")[2]), tls=tls_context(authority, "localhost")) as proxy:
        connection = await connect(f"rediss://localhost:{proxy.port}?ssl_ca_certs={ca_file}", [ECHO])
        replies = await asyncio.gather(*(connection.submit(pack("ECHO", n), inf) for n in range(100)))
        assert [str(n).encode() for n in range(100)] == replies
        proxy.cut()
        await until(lambda: connection.generation == 2)


@pytest.mark.parametrize("flaw", ["unknown authority", "another name", "no TLS"])
async def test_server_that_cannot_prove_itself_gets_no_password(
    redis_url: str, connect: Connect, authority: trustme.CA, tmp_path: Path, flaw: str
) -> None:
    ca_file = tmp_path / "ca.pem"
    (trustme.CA() if flaw == "unknown authority" else authority).cert_pem.write_to_path(str(ca_file))
    context = tls_context(authority, "another" if flaw == "another name" else "localhost")
    async with Proxy(int(redis_url.rpartition(":")[2]), tls=None if flaw == "no TLS" else context) as proxy:
        connection = await connect(f"rediss://:canary@localhost:{proxy.port}?ssl_ca_certs={ca_file}")
        with pytest.raises(NotSent, match=r"not connected: (TLS failed|no answer|lost|Connection)"):
            connection.submit(pack("PING"), inf)
        await connection.close()
        assert not connection.has_connected_once


async def test_missing_certificate_file_is_named_as_such(connect: Connect) -> None:
    connection = await connect("rediss://localhost?ssl_ca_certs=/nowhere/ca.pem")
    with pytest.raises(NotSent, match="No such file"):
        connection.submit(pack("PING"), inf)


@pytest.mark.asyncio_loop_only  # uvloop resolves by libuv, which no test can lead astray
async def test_demoted_primary_is_left_and_its_name_resolved_anew(
    redis_url: str, own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover behind a name: the old primary answers READONLY, the name leads to the new one."""
    old = own_server
    port = free_port()
    leads_to = ["127.0.0.2"]
    resolve = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **options: Any) -> Any:
        return resolve(leads_to[0] if host == "primary.test" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with Proxy(old.port, "127.0.0.2", port), Proxy(int(redis_url.rpartition(":")[2]), "127.0.0.3", port):
        connection = await connect(f"redis://primary.test:{port}", [WRITE])
        command = pack("EVALSHA", WRITE.sha, 1, "n")
        assert await connection.run(WRITE, command, inf) == 1
        await asyncio.to_thread(_demote, old.url)
        leads_to[0] = "127.0.0.3"
        with pytest.raises(ServerBusy) as caught:
            await connection.run(WRITE, command, inf)
        assert caught.value.code == "READONLY"
        await until(lambda: connection.generation == 2)
        assert await connection.run(WRITE, command, inf) == 1, "the other server's counter"
        await connection.close()


def _demote(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.replicaof("127.0.0.1", "1")


async def test_server_that_stays_read_only_is_not_stormed(own_server: RedisServer, connect: Connect) -> None:
    server = own_server
    await asyncio.to_thread(_demote, server.url)
    async with Proxy(server.port) as proxy:
        connection = await connect(proxy.url)
        loop = asyncio.get_running_loop()
        began = loop.time()
        kinds = set()
        while loop.time() < began + 1.5:
            try:
                await connection.execute("INCR", "n")
            except (NotSent, ServerBusy) as error:
                kinds.add(type(error))
            await asyncio.sleep(0.002)
        assert kinds == {NotSent, ServerBusy}
        assert 3 <= proxy.connections <= 15


async def test_script_that_vanishes_twice_is_unavailable(connection: Connection) -> None:
    """What is sent as the script is another one, which no loading of this one helps."""
    with pytest.raises(ServerBusy) as caught:
        await connection.run(ECHO, pack("EVALSHA", "0" * 40, 0), inf)
    assert caught.value.code == "NOSCRIPT"


async def test_script_that_fails_is_not_sent_again(connection: Connection) -> None:
    script = Script("half", "redis.call('INCR', KEYS[1]) return redis.error_reply('HALF done')")
    for count in (b"1", b"2"):  # not known to the server, then known
        with pytest.raises(CommandFailed) as caught:
            await connection.run(script, pack("EVALSHA", script.sha, 1, "n"), inf)
        assert caught.value.code == "HALF"
        assert await connection.execute("GET", "n") == count
