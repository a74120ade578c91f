"""A key that could not be shown must not stay: nobody has it, and nobody would know."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from extauthz.record.keys import list_keys
from extauthz.record.tenants import create_tenant
from extauthz.tenants.documents import TenantDocument
from tests.record.records import server_at

COMMAND = [sys.executable, "-c", "from extauthz.cli.main import main; main()"]


async def make_tenant(url: str) -> None:
    async with server_at(url) as server:
        await create_tenant(server, TenantDocument(tenant_id="acme", version=1, is_active=True))


async def are_active(url: str) -> list[bool]:
    async with server_at(url) as server:
        return [key.is_active for key in await list_keys(server, "acme")]


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["people", "json"])
@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_key_that_nobody_read_is_revoked(redis_url: str, form: list[str], buffered: str) -> None:
    asyncio.run(make_tenant(redis_url))
    with Path("/dev/full").open("wb") as full:
        done = run(redis_url, full.fileno(), buffered, "key", "create", "acme", "--scope", "agents:voice", *form)
    assert done.returncode == 1
    told = done.stderr.decode().splitlines()[-1]
    assert told == "error: the key could not be written to standard output (No space left on device), so it is revoked"
    assert "Traceback" not in done.stderr.decode()
    assert asyncio.run(are_active(redis_url)) == [False]


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_cannot_be_written_is_a_failure_in_one_line(redis_url: str, buffered: str) -> None:
    asyncio.run(make_tenant(redis_url))
    with Path("/dev/full").open("wb") as full:
        done = run(redis_url, full.fileno(), buffered, "tenant", "list")
    assert (done.returncode, done.stderr) == (1, b"error: the output could not be written: No space left on device\n")


def run(url: str, stdout: int, unbuffered: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "EXTAUTHZ_REDIS_URL": url, "PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([*COMMAND, *arguments], stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
