"""Promise 10: h2spec, strict, plain and over TLS, on the fast transport."""

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from demo.processes import free_port
from extauthz.transport.seam import Services
from tests.transport.conftest import Serve

CASES = 146


async def echo(message: bytes, _deadline: float) -> bytes:
    return message


async def h2spec(port: int, *arguments: str) -> str:
    """h2spec's report. The tool is built by `make test`; without it there is no proof, so its absence is a failure."""
    tool = shutil.which("h2spec")
    assert tool is not None, "h2spec is not on PATH: make .tools/h2spec"
    process = await asyncio.create_subprocess_exec(
        tool,
        "--strict",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode()


def verdict(report: str) -> str:
    """The last line, with the failures before it when there are any."""
    found = re.search(r"\d+ tests, \d+ passed, \d+ skipped, \d+ failed", report)
    assert found is not None, report
    return found[0] if found[0].endswith(" 0 failed") else report[report.find("Failures:") :]


@pytest.mark.prove(10)
async def test_h2spec_passes_every_case_in_plaintext(serve: Serve) -> None:
    port = free_port()
    await serve("fast", Services(unary={"/test.Service/Echo": echo}), f"127.0.0.1:{port}")
    assert verdict(await h2spec(port)) == f"{CASES} tests, {CASES} passed, 0 skipped, 0 failed"


@pytest.mark.prove(10)
async def test_h2spec_passes_every_case_over_tls(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    await serve("fast", Services(unary={"/test.Service/Echo": echo}), f"127.0.0.1:{port}", ssl_context=context)
    assert verdict(await h2spec(port, "-t", "-k")) == f"{CASES} tests, {CASES} passed, 0 skipped, 0 failed"


async def test_a_tls_client_without_h2_is_not_served(serve: Serve) -> None:
    port = free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    served = await serve("fast", Services(), f"127.0.0.1:{port}", ssl_context=context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["http/1.1"])
    answer = await asyncio.to_thread(_first_octets, port, client)
    assert answer == b""
    assert served.server.closed_because == {"no ALPN h2": 1}


def _first_octets(port: int, context: ssl.SSLContext) -> bytes:
    """What the server says to a TLS client before it closes."""
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.recv(100)
    return b""
