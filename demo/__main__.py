"""`make run`: the main job on this machine. A tenant's request goes through Envoy, and the tenant's own credential arrives."""

import argparse
import http.client
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from demo.processes import DidNotStart, Process, accepts
from demo.system import System, stopped_at_the_end

FOLDER = Path(".run")
TENANT = "demo"
CREDENTIALS = {"openai": "sk-demo-key-of-the-tenant-at-openai", "backup": "sk-demo-key-of-the-tenant-at-backup"}
#: As it is typed in this folder; another Python may lack what the demo needs.
_PYTHON = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello?"}]})

GATEWAY = """\
# What `make run` serves. Change it while it runs: the sidecar takes it at once. The whole example is envoy/gateway.yaml.
listener: {{address: 127.0.0.1, port: {port}, admin_port: {admin_port}, body_bytes_max: 4194304, check_timeout_ms: 1000}}
providers:
  openai: {{address: "http://127.0.0.1:{openai}", credential: {{header: authorization, format: "Bearer {{}}"}}}}
  backup: {{address: "http://127.0.0.1:{backup}", credential: {{header: x-api-key}}}}
scopes:
  agents:orchestration: {{providers: [openai, backup], models: [gpt-4o-mini]}}
routes:
  - name: openai-chat
    hosts: ["*"]
    path: /v1/chat/completions
    methods: [POST]
    scope: agents:orchestration
    providers: [openai, backup]
    shape: openai
    timeout: 5m
plans:
  free: {{limits: {{requests: {{per: tenant, limit: 100/minute}}}}}}
default_plan: free
"""


class PortTaken(RuntimeError):
    """Something else listens where the demo wants to."""


def main() -> int:
    """Run until Ctrl-C. 0 when it was stopped, 1 when it could not start or something ended by itself."""
    ports = _ports()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        _refuse_taken(ports)
        with stopped_at_the_end(System(FOLDER, GATEWAY.format(**ports), ports["redis"])) as system:
            print("redis     ", system.redis.url)
            ended = _run(system, ports)
            print(f"{ended} ended by itself; its log is in {FOLDER}/", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped")
        return 0
    except (PortTaken, DidNotStart, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _end(_number: int, _frame: object) -> NoReturn:
    """Stop everything, and let no later signal interrupt that: a second Ctrl-C would leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _ports() -> dict[str, int]:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    for name, default in (("port", 10000), ("admin_port", 9901), ("redis", 6399), ("openai", 9101), ("backup", 9102)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    return dict(vars(parser.parse_args()))


def _refuse_taken(ports: dict[str, int]) -> None:
    for name, port in ports.items():
        if accepts(port):
            flag = f"--{name.replace('_', '-')}"
            what = f"port {port} of 127.0.0.1 is in use"
            raise PortTaken(f"{what}; stop what listens there, or choose another: {_PYTHON} -m demo {flag} PORT")


def _run(system: System, ports: dict[str, int]) -> str:
    """Start the rest, show one request, and wait. The name of what ended by itself; Ctrl-C leaves by KeyboardInterrupt."""
    running: dict[str, Process] = {"redis": system.redis.process}
    for name in CREDENTIALS:
        command = (sys.executable, "-m", "demo.provider", "--name", name, "--port", str(ports[name]))
        running[name] = system.start(command, name)
        running[name].wait_until(lambda name=name: accepts(ports[name]))  # type: ignore[misc]
        print(f"{name:<10}", f"http://127.0.0.1:{ports[name]}")
    key = _create_tenant(system)
    running["sidecar"] = system.serve()
    running["envoy"] = system.envoy().process
    print("sidecar   ", system.listen)
    print("envoy     ", f"http://127.0.0.1:{ports['port']}, admin http://127.0.0.1:{ports['admin_port']}")
    print("\nAsk it yourself:\n")
    print(f"  curl -s http://127.0.0.1:{ports['port']}{CHAT} -H 'authorization: Bearer {key}' \\")
    print(f"    -H 'content-type: application/json' -d '{BODY}'\n")
    _show(_ask(ports["port"], key), key)
    print(f"\nFail over: curl -X PUT http://127.0.0.1:{ports['openai']}/__fail/503, and ask again. Logs are in {FOLDER}/.")
    print("Ctrl-C stops everything.")
    while True:
        for name, process in running.items():
            if process.exit_code is not None:
                return name
        time.sleep(0.2)


def _create_tenant(system: System) -> str:
    """A tenant with a key and a credential for each provider, as an operator makes them. The key."""
    config = ("--config", str(system.gateway_file))
    system.command("tenant", "create", TENANT, "--plan", "free", *config)
    made = json.loads(system.command("key", "create", TENANT, "--scope", "agents:orchestration", *config, "--json"))
    for provider, credential in CREDENTIALS.items():
        system.command("secret", "set", TENANT, provider, *config, stdin=credential.encode())
    return str(made["key"])


def _ask(port: int, key: str) -> Any:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.request("POST", CHAT, BODY, {"authorization": f"Bearer {key}", "content-type": "application/json"})
    answer = link.getresponse()
    body = answer.read().decode()
    link.close()
    if answer.status != 200:
        raise RuntimeError(f"the first request was answered {answer.status}: {body}")
    return json.loads(body)


def _show(answer: Any, key: str) -> None:
    about = answer["extauthz_demo"]
    print("Asked once:")
    print("  answer     ", answer["choices"][0]["message"]["content"])
    print("  provider   ", about["provider"], "got", ", ".join(f"{name}: {value}" for name, value in about["credentials"].items()))
    print("  its own key", "did not leave Envoy" if key not in json.dumps(about["headers"]) else "REACHED THE PROVIDER")


if __name__ == "__main__":
    sys.exit(main())
