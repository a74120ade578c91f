"""A value typed on a terminal is not shown while it is typed."""

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path

from extauthz.credentials.keyring import load
from extauthz.credentials.store import SecretRef
from extauthz.credentials.stores.redis import RedisStore
from extauthz.record.server import Server
from extauthz.secret import Secret


async def stored(redis_url: str, master_key: Path) -> Secret:
    async with Server(Secret(redis_url.encode())) as server:
        return await RedisStore(server, load([master_key])).get(SecretRef("", "openai", "default", 1))


def test_a_value_typed_on_a_terminal_is_not_echoed(redis_url: str, tmp_path: Path) -> None:
    master_key = tmp_path / "master.key"
    master_key.touch(mode=0o600)
    master_key.write_text("0123456789abcdef" * 4)
    terminal, its_end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", "from extauthz.cli.main import main; main()", "secret", "set", "--platform", "openai"],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
        env={
            **os.environ,
            "EXTAUTHZ_REDIS_URL": redis_url,
            "EXTAUTHZ_MASTER_KEY_FILE": str(master_key),
            "PYTHONPATH": str(Path.cwd()),
        },
    )
    os.close(its_end)
    try:
        seen = b""
        while b"credential of the platform at openai: " not in seen:
            seen += os.read(terminal, 1024)
        os.write(terminal, b"sk-canary\n")
        assert child.wait(20) == 0
        seen += os.read(terminal, 4096)
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
    assert b"sk-canary" not in seen
    assert b"stored: version 1" in seen
    assert asyncio.run(stored(redis_url, master_key)) == Secret(b"sk-canary")


def test_a_value_given_as_an_argument_is_refused_and_not_repeated() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extauthz", "secret", "set", "acme", "openai", "sk-canary"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: name a TENANT and a PROVIDER, or --platform PROVIDER; the value is read from standard input\n"
