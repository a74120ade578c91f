"""Flags and environment, read once into frozen values. The only reader of the environment.

Each command reads the one value it needs: `read_record` for what changes tenants and keys, `read_sealing` for what also seals
secrets, `read_serving` for the sidecar. Everything wrong is said at once, by the variable's name; docs/configuration.md lists them
all. An unknown EXTAUTHZ_* variable is no error: Kubernetes sets EXTAUTHZ_PORT and others for a Service named extauthz, which is
also why no variable of ours has such a name.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extauthz.errors import BadConfig, BadFlag, Problem
from extauthz.secret import Secret

WORKERS_MAX = 64
#: Where `serve` listens and `envoy-config` connects when nobody says: a socket in the current folder.
LISTEN_DEFAULT = ("unix:extauthz.sock",)
#: The same for `--help`.
LISTEN_DEFAULT_SHOWN = "unix:extauthz.sock, in the current folder"
#: sun_path of Linux without its final zero byte.
SOCKET_PATH_BYTES_MAX = 107
PORT_MAX = 65_535

LOG_LEVELS = ("debug", "info", "warning", "error")
_TCP_ALLOWED = "HOST:PORT or [IPV6]:PORT"
_LISTEN_ALLOWED = f"unix:PATH, {_TCP_ALLOWED}"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_FILE_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What a command needs that reads or changes tenants and keys.

    Attributes:
        redis_url: may carry a password.
        redis_timeout_ms: how long one command may take.
        env: the word in new keys, `xa_<env>_…`.
    """

    redis_url: Secret
    redis_timeout_ms: int
    env: str


@dataclass(frozen=True, slots=True)
class SealingSettings:
    """What a command needs that also seals or opens secrets. The key file is there; what is in it is the keyring's to judge."""

    record: RecordSettings
    master_key_file: Path


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What the sidecar needs beside its flags.

    Attributes:
        log_level: one of LOG_LEVELS.
        traces_endpoint: base URL of an OTLP/HTTP collector; empty: no traces.
        has_tenant_label: whether metrics name the first 100 tenants.
        document_cache_max: documents kept in a worker, the oldest go first.
        credential_cache_s: how long an opened credential stays in memory.
        drain_s: how long running requests may take after SIGTERM.
    """

    record: RecordSettings
    master_key_file: Path
    log_level: str
    traces_endpoint: str
    has_tenant_label: bool
    document_cache_max: int
    credential_cache_s: int
    drain_s: int


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to serve on: a Unix socket when `path` is set, else TCP."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_record(environment: Mapping[str, str] | None = None) -> RecordSettings:
    """For commands on tenants and keys. Raises BadConfig. The process' own environment where none is given."""
    reader = _Reader(environment)
    record = _record(reader)
    reader.finish()
    return record


def read_sealing(environment: Mapping[str, str] | None = None) -> SealingSettings:
    """For commands on secrets. Raises BadConfig."""
    reader = _Reader(environment)
    sealing = SealingSettings(_record(reader), reader.file("EXTAUTHZ_MASTER_KEY_FILE"))
    reader.finish()
    return sealing


def read_serving(environment: Mapping[str, str] | None = None) -> ServingSettings:
    """For `extauthz serve`. Raises BadConfig."""
    reader = _Reader(environment)
    serving = ServingSettings(
        record=_record(reader),
        master_key_file=reader.file("EXTAUTHZ_MASTER_KEY_FILE"),
        log_level=reader.choice("EXTAUTHZ_LOG_LEVEL", LOG_LEVELS, "info"),
        traces_endpoint=_traces(reader),
        has_tenant_label=reader.choice("EXTAUTHZ_TENANT_LABEL", ("off", "on"), "off") == "on",
        document_cache_max=reader.integer("EXTAUTHZ_DOCUMENT_CACHE_MAX", 100, 1_000_000, 100_000),
        credential_cache_s=reader.integer("EXTAUTHZ_CREDENTIAL_CACHE_S", 1, 300, 300),
        drain_s=reader.integer("EXTAUTHZ_DRAIN_S", 1, 600, 20),
    )
    reader.finish()
    return serving


def parse_listen(text: str, name: str = "--listen") -> Listen:
    """`unix:/run/x.sock`, `127.0.0.1:9000` or `[::1]:9000`; a relative path is taken from the current folder.

    Raises BadFlag that names `name`, the flag the text came from.
    """
    kind, _, path = text.partition(":")
    if kind == "unix" and path and "\0" not in path:
        return Listen(path=_short_enough(os.path.abspath(path), name))  # noqa: PTH100 (Path.resolve would follow links)
    return _parse_tcp(text, name, _LISTEN_ALLOWED)


def parse_port(text: str, name: str) -> Listen:
    """The same without Unix sockets: what a probe or a scrape reaches over the network. Raises BadFlag that names `name`."""
    return _parse_tcp(text, name, _TCP_ALLOWED)


def _parse_tcp(text: str, name: str, allowed: str) -> Listen:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else ""
    is_host = _IPV6.fullmatch(bare) if bare else _HOST.fullmatch(host)
    if text.startswith("unix:") or not is_host or not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > PORT_MAX:
        raise BadFlag([Problem(name, 0, f"{text!r} is no address", f"{allowed}, ports 1 to {PORT_MAX}")])
    return Listen(host=bare or host, port=int(port))


def worker_listens(listens: Sequence[Listen], workers: int | None) -> tuple[tuple[Listen, ...], ...]:
    """The addresses of each worker. `serve` and `envoy-config` both ask here, so they agree.

    Without a number of workers there is one, on the addresses as given. With N, worker i has PATH.i and PORT + i.

    Raises BadFlag when there is no address, the number is out of bounds, or two workers would share an address.
    """
    if not listens:
        raise BadFlag([Problem("--listen", 0, "is missing", _LISTEN_ALLOWED)])
    if workers is not None and not 1 <= workers <= WORKERS_MAX:
        raise BadFlag([Problem("--workers", 0, f"is {workers}", f"1 to {WORKERS_MAX}")])
    if workers is None:
        each: tuple[tuple[Listen, ...], ...] = (tuple(listens),)
    else:
        each = tuple(tuple(_of_worker(listen, index) for listen in listens) for index in range(workers))
    flat = [listen for own in each for listen in own]
    twice = sorted({str(listen) for listen in flat if flat.count(listen) > 1})
    if twice:
        raise BadFlag(
            [Problem("--listen", 0, f"{address} would be served twice", "addresses that stay apart") for address in twice]
        )
    return each


def _of_worker(listen: Listen, index: int) -> Listen:
    if listen.is_unix:
        return Listen(path=_short_enough(f"{listen.path}.{index}", "--listen"))
    if listen.port + index > PORT_MAX:
        raise BadFlag([Problem("--listen", 0, f"{listen} has no port left for worker {index}", f"ports up to {PORT_MAX}")])
    return Listen(host=listen.host, port=listen.port + index)


def _short_enough(path: str, name: str) -> str:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise BadFlag([Problem(name, 0, f"unix:{path} is too long", f"a path of at most {SOCKET_PATH_BYTES_MAX} bytes")])
    return path


def _record(reader: "_Reader") -> RecordSettings:
    env = reader.text("EXTAUTHZ_ENV", "live")
    if not re.fullmatch(r"[a-z]{1,8}", env):
        reader.wrong("EXTAUTHZ_ENV", f"is {env!r}", "1 to 8 letters a-z, such as live or test")
    redis_url = reader.secret(
        "EXTAUTHZ_REDIS_URL", "redis://HOST:PORT, rediss:// or unix://, or a file with it in EXTAUTHZ_REDIS_URL_FILE"
    )
    return RecordSettings(redis_url, reader.integer("EXTAUTHZ_REDIS_TIMEOUT_MS", 10, 10_000, 250), env)


def _traces(reader: "_Reader") -> str:
    text = reader.text("EXTAUTHZ_TRACES", "off")
    if text == "off":
        return ""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        reader.wrong("EXTAUTHZ_TRACES", "is no address of a collector", "off, or http(s)://HOST:PORT of an OTLP/HTTP collector")
    return text.rstrip("/")


class _Reader:
    """Takes variables and notes what is wrong; an empty variable is one that is not set."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        self._environment = os.environ if environment is None else environment
        self._problems: list[Problem] = []

    def finish(self) -> None:
        if self._problems:
            raise BadConfig(self._problems)

    def wrong(self, name: str, what: str, allowed: str) -> None:
        self._problems.append(Problem(name, 0, what, allowed))

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, "") or default

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        text = self.text(name, default).lower()
        if text not in choices:
            self.wrong(name, f"is {text!r}", ", ".join(choices))
        return text

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        text = self.text(name, str(default))
        if re.fullmatch(r"[0-9]{1,10}", text) and low <= int(text) <= high:
            return int(text)
        self.wrong(name, f"is {text!r}", f"a whole number from {low} to {high}")
        return default

    def file(self, name: str) -> Path:
        text = self.text(name, "")
        if not text:
            self.wrong(name, "is not set", "the path of a file; openssl rand -hex 32 > master.key makes one")
        elif not Path(text).is_file():
            self.wrong(name, f"{text!r} is no file", "the path of a file that this process may read")
        return Path(text)

    def secret(self, name: str, allowed: str) -> Secret:
        """A value that may stand in a file instead, named by the variable's twin. Never shown in a message."""
        text, path = self.text(name, ""), self.text(f"{name}_FILE", "")
        if text and path:
            self.wrong(name, f"and {name}_FILE are both set", "one of the two")
        elif path:
            text = self._content(f"{name}_FILE", path)
        elif not text:
            self.wrong(name, "is not set", allowed)
        return Secret(text.encode())

    def _content(self, name: str, path: str) -> str:
        try:
            with Path(path).open("rb") as file:
                text = file.read(_FILE_BYTES_MAX).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.wrong(name, f"{path!r} cannot be read: {why}", "a readable file")
            return ""
        if not text:
            self.wrong(name, f"{path!r} is empty", "a file with the value in it")
        return text
