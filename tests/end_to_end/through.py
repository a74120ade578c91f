"""A real Envoy before a real sidecar before real providers, with one tenant: what the matrices of rows 3 and 4 are asked of."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from demo.envoy_server import EnvoyServer
from demo.processes import Process, free_port
from demo.provider import Provider
from demo.system import System
from tests.conftest import eventually
from tests.end_to_end.background import Background
from tests.end_to_end.wire import Answer, Headers, http1, http1_headers

C = TypeVar("C")

CHAT = "/v1/chat/completions"
SINGLE = "/v1/single"
RUN = "/agents/run"
CLOSED = "/v1/closed"
GENERATE = "/v1/models/{model}:generate"
BODY = b'{"model":"m"}'
TENANT = "acme"
#: Numbers the requests of a matrix; any header that is nobody's passes.
CELL = "x-cell"
#: By provider: the header its credential goes into, and the whole value that must stand there.
CREDENTIALS = {
    "first": ("authorization", "Bearer credential-of-first"),
    "second": ("x-api-key", "credential-of-second"),
    "third": ("xi-api-key", "credential-of-third"),
    "closed": ("authorization", "Bearer credential-of-closed"),
}

_GATEWAY = """\
listener: {{address: 127.0.0.1, port: {port}, admin_port: {admin}, body_bytes_max: 65536, check_timeout_ms: 5000}}
providers:
  first: {{address: "http://127.0.0.1:{first}", credential: {{header: authorization, format: "Bearer {{}}"}}}}
  second: {{address: "http://127.0.0.1:{second}", credential: {{header: x-api-key}}}}
  third: {{address: "http://127.0.0.1:{third}/base", credential: {{header: xi-api-key}}}}
  closed: {{address: "http://127.0.0.1:{closed}", credential: {{header: authorization, format: "Bearer {{}}"}}}}
  service: {{address: "http://127.0.0.1:{service}", credential: none}}
scopes:
  chat: {{providers: [first, second, third]}}
  agents: {{providers: [service]}}
  closed: {{providers: [closed]}}
routes:
  - {{name: chat, path: /v1/chat/completions, methods: [POST], scope: chat, providers: [first, second]}}
  - {{name: single, path: /v1/single, methods: [POST], scope: chat, providers: [third]}}
  - {{name: generate, path: "/v1/models/{{model}}:generate", methods: [POST], scope: chat, providers: [third]}}
  - {{name: run, path: /agents/run, methods: [POST], scope: agents, providers: [service]}}
  - {{name: closed, path: /v1/closed, methods: [POST], scope: closed, providers: [closed]}}
plans:
  free: {{limits: {{requests: {{per: tenant, limit: 1000000000/minute}}}}}}
default_plan: free
"""


@dataclass(frozen=True)
class Through:
    """The system, its providers by name, and a key that may use everything but the closed route."""

    system: System
    sidecar: Process
    envoy: EnvoyServer
    providers: dict[str, Provider]
    port: int
    key: str

    def forget(self) -> None:
        for provider in self.providers.values():
            provider.seen.clear()

    def fail_over(self, failing: int = 503) -> None:
        """Let the first provider fail, and return once a chat is answered by the second.

        A fallback joins the chain when its credential has been fetched, which happens behind the first request.
        """
        self.providers["first"].failing = failing
        headers = http1_headers("h", BODY, [("content-type", "application/json"), ("x-api-key", self.key)])
        eventually(lambda: http1(self.port, "POST", CHAT, headers, BODY).status == 200)
        self.forget()

    def ask_all(self, ask: Callable[[C, Headers], Answer], cells: Sequence[C]) -> list[tuple[C, Answer, list[dict[str, Any]]]]:
        """Every cell with its answer and with the requests that providers saw of it, told apart by a header that `ask` must send.

        Many at a time: where Envoy refuses an HTTP/2 connection it keeps it for a second.
        """
        self.forget()
        with ThreadPoolExecutor(48) as pool:
            answers = list(pool.map(lambda pair: ask(pair[1], [(CELL, str(pair[0]))]), enumerate(cells)))
        seen: dict[str, list[dict[str, Any]]] = {}
        for provider in self.providers.values():
            for entry in provider.seen:
                seen.setdefault(dict(entry["headers"])[CELL], []).append(entry)
        return [(cell, answer, seen.get(str(number), [])) for number, (cell, answer) in enumerate(zip(cells, answers, strict=True))]


@contextmanager
def through(folder: Path, workers: int | None = None) -> Iterator[Through]:
    """Everything, once Envoy has found the sidecar healthy."""
    with ExitStack() as ending:
        background = Background()
        ending.callback(background.stop)
        names = (*CREDENTIALS, "service")
        providers = {name: background.provider(name) for name in names}
        ports = {name: provider.port for name, provider in providers.items()}
        port = free_port()
        system = System(folder, _GATEWAY.format(port=port, admin=free_port(), **ports))
        ending.callback(system.stop)
        system.command("tenant", "create", TENANT)
        made = json.loads(system.command("key", "create", TENANT, "--scope", "chat", "--scope", "agents", "--json"))
        for provider, (_, value) in CREDENTIALS.items():
            system.command("secret", "set", TENANT, provider, stdin=value.removeprefix("Bearer ").encode())
        sidecar = system.serve(*(() if workers is None else ("--workers", str(workers))))
        envoy = system.envoy(workers)
        yield Through(system, sidecar, envoy, providers, port, made["key"])
