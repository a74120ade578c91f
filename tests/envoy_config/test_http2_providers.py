"""Providers that speak HTTP/2 over TLS, as the large ones do: each attempt has its own credential, host and path there too."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from demo.envoy_server import EnvoyServer
from extauthz.envoy_config.render import render
from extauthz.settings import Listen
from tests.end_to_end.wire import http1, http1_headers, http2
from tests.envoy_config import gateways
from tests.envoy_config.fake_sidecar import FakeSidecar, allowed

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'
HEADERS = [("content-type", "application/json"), ("authorization", "Bearer theirs"), ("x-api-key", "theirs")]


class Http2Provider:
    """Answers every request with `status`, over TLS with ALPN `h2` alone; `seen` has the headers of each."""

    def __init__(self, authority: trustme.CA, status: int) -> None:
        self.seen: list[list[tuple[str, str]]] = []
        self._status = status
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["h2"])
        authority.issue_cert("localhost").configure_cert(self._context)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._server.accept()
                self._links.append(link)
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        with suppress(OSError), self._context.wrap_socket(link, server_side=True) as tls:
            connection.initiate_connection()
            tls.sendall(connection.data_to_send())
            while data := tls.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.seen.append([(str(name), str(value)) for name, value in event.headers])
                    elif isinstance(event, h2.events.StreamEnded):
                        connection.send_headers(event.stream_id, [(":status", str(self._status))])
                        connection.send_data(event.stream_id, json.dumps({"port": self.port}).encode(), end_stream=True)
                tls.sendall(connection.data_to_send())

    def stop(self) -> None:
        for link in (self._server, *self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_each_attempt_over_http2_has_its_own_credential_host_and_path(
    version: str, tmp_path_factory: pytest.TempPathFactory, ending: ExitStack
) -> None:
    folder: Path = tmp_path_factory.mktemp("t")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    fails, answers = Http2Provider(authority, 503), Http2Provider(authority, 200)
    sidecar = FakeSidecar(f"unix:{folder}/x.sock")
    for one in (fails, answers, sidecar):
        ending.callback(one.stop)
    secured: dict[str, object] = {"host": "localhost", "tls": True, "ca_file": str(folder / "ca.pem")}
    gateway = gateways.gateway(
        [
            gateways.provider("p", fails.port, base_path="/p", **secured),
            gateways.provider(
                "q", answers.port, base_path="/q/q", credential_header="x-api-key", credential_format="{}", **secured
            ),
        ],
        gateways.route("chat", CHAT, "p", "q"),
    )
    envoy = EnvoyServer(folder, render(gateway, [Listen(f"{folder}/x.sock")]))
    ending.callback(envoy.stop)
    keys = {"x-extauthz-credential-p": "Bearer key-p", "x-extauthz-credential-q": "key-q"}
    sidecar.decide = lambda _: allowed("p", "q", **keys)
    if version == "2":
        answer = http2(gateway.listener.port, "POST", CHAT, "gw.test", HEADERS, BODY)
    else:
        answer = http1(gateway.listener.port, "POST", CHAT, http1_headers("gw.test", BODY, HEADERS), BODY)
    assert (answer.status, answer.body) == (200, json.dumps({"port": answers.port}).encode())
    (first,), (second,) = fails.seen, answers.seen
    expected = {
        "p": {":path": f"/p{CHAT}", ":authority": f"localhost:{fails.port}", "authorization": "Bearer key-p"},
        "q": {":path": f"/q/q{CHAT}", ":authority": f"localhost:{answers.port}", "x-api-key": "key-q"},
    }
    common = {":method": "POST", ":scheme": "https", "content-type": "application/json"}
    for name, seen in (("p", first), ("q", second)):
        shown = {key: value for key, value in seen if key not in {"x-request-id", "content-length"}}
        assert shown == {**common, **expected[name]}
        assert len(seen) == len(dict(seen))
