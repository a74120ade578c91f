"""The whole system on loopback: Redis, the sidecar through its command, providers, Envoy in front. What `make run` shows is this,
and what the end-to-end tests run is the same.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from demo.envoy_server import EnvoyServer
from demo.processes import Process
from demo.redis_server import RedisServer

#: The `extauthz` of this Python, wherever its scripts are.
COMMAND = (sys.executable, "-m", "extauthz")


class CommandFailed(RuntimeError):
    """A command ended with an error; the text is what it said."""


class System:
    """Redis and an empty record, at once; sidecar and Envoy when asked.

    Args:
        folder: gets the master key, the gateway file, the configurations and the logs.
        gateway: the gateway file's text.
        redis_port: a free one when 0.
    """

    def __init__(self, folder: Path, gateway: str, redis_port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.gateway_file = folder / "gateway.yaml"
        self.gateway_file.write_text(gateway)
        self._ending = contextlib.ExitStack()
        # A socket's path must be short, and `folder` may be deep.
        self._sockets = Path(self._ending.enter_context(tempfile.TemporaryDirectory(prefix="extauthz-")))
        master_key = folder / "master.key"
        master_key.unlink(missing_ok=True)
        master_key.touch(mode=0o600)
        master_key.write_text(secrets.token_hex(32))
        self.redis = RedisServer(folder / "redis", port=redis_port)
        self._ending.callback(self.redis.stop)
        self.environment = {"EXTAUTHZ_REDIS_URL": self.redis.url, "EXTAUTHZ_MASTER_KEY_FILE": str(master_key)}

    @property
    def listen(self) -> str:
        """The value of `--listen` for `serve` and `envoy-config`."""
        return f"unix:{self._sockets}/sidecar.sock"

    def command(self, *arguments: str, stdin: bytes = b"") -> str:
        """What an `extauthz` command writes. Raises CommandFailed with what it said."""
        done = subprocess.run(
            (*COMMAND, *arguments),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, **self.environment},
        )
        if done.returncode:
            raise CommandFailed(f"extauthz {' '.join(arguments)}: exit {done.returncode}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def start(self, command: Sequence[str], name: str, environment: Mapping[str, str] | None = None) -> Process:
        """A program whose output goes to `<name>.log`; it ends with the system."""
        process = Process(command, self.folder / f"{name}.log", environment)
        self._ending.callback(process.stop)
        return process

    def serve(self, *options: str) -> Process:
        """The sidecar. Whether it is ready is what Envoy's health checks say; see `wait_until_healthy`."""
        arguments = ("serve", "--config", str(self.gateway_file), "--listen", self.listen, *options)
        return self.start((*COMMAND, *arguments), "sidecar", self.environment)

    def envoy(self, workers: int | None = None, options: tuple[str, ...] = ("--log-level", "warning")) -> EnvoyServer:
        """Envoy with the configuration that belongs to the gateway file, once every worker of the sidecar is healthy."""
        flags = () if workers is None else ("--workers", str(workers))
        configuration = self.command("envoy-config", "--config", str(self.gateway_file), "--listen", self.listen, *flags)
        envoy = EnvoyServer(self.folder / "envoy", configuration, options)
        self._ending.callback(envoy.stop)
        envoy.process.wait_until(lambda: all_healthy(envoy, workers or 1), 15)
        return envoy

    def stop(self) -> None:
        """Stop everything, the last started first."""
        self._ending.close()


def all_healthy(envoy: EnvoyServer, workers: int) -> bool:
    """Whether Envoy's health checks have found all of the sidecar's workers serving."""
    lines = envoy.admin("/clusters")[1].splitlines()
    flags = [line for line in lines if line.startswith("extauthz::") and "::health_flags::" in line]
    return len(flags) == workers and all(line.endswith("::healthy") for line in flags)


@contextlib.contextmanager
def stopped_at_the_end(system: System) -> Iterator[System]:
    """The system, stopped whatever happens in the block."""
    try:
        yield system
    finally:
        system.stop()
