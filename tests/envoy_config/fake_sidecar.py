"""A sidecar that answers what a test tells it to, over real gRPC. For tests of what Envoy does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from extauthz._pb import CheckRequest, CheckResponse, HealthCheckResponse
from extauthz.gateway import headers
from extauthz.gateway.model import chain_cluster

CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"


class Unanswered(Exception):
    """What `decide` raises when the answer is to be an error."""


class FakeSidecar:
    """One worker on a Unix socket.

    Attributes:
        decide: the answer to a request; denies until a test says otherwise.
        asked: every CheckRequest so far.
    """

    def __init__(self, address: str) -> None:
        self.decide: Callable[[Any], Any] = lambda _: denied()
        self.asked: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(address)
        self._server.start()

    def answer(self, method: str, data: bytes) -> bytes:
        if method == HEALTH:
            serving: bytes = HealthCheckResponse(status=1).SerializeToString()
            return serving
        request = CheckRequest.FromString(data)
        self.asked.append(request)
        answer: bytes = self.decide(request).SerializeToString()
        return answer

    def stop(self) -> None:
        self._server.stop(0).wait()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, sidecar: FakeSidecar) -> None:
        self._sidecar = sidecar

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method

        def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return self._sidecar.answer(method, data)
            except Unanswered:
                context.abort(grpc.StatusCode.UNAVAILABLE, "as the test said")

        return grpc.unary_unary_rpc_method_handler(answer)


def denied(status: int = 403, body: str = "denied") -> Any:
    answer = CheckResponse()
    answer.status.code = 7
    answer.denied_response.status.code = status
    answer.denied_response.body = body
    return answer


def allowed(*providers: str, **added: str) -> Any:
    """An allow that names this chain and adds these headers."""
    answer = CheckResponse()
    answer.status.code = 0
    if providers:
        added = {headers.CHAIN: chain_cluster(providers), **added}
    for name, value in added.items():
        option = answer.ok_response.headers.add()
        option.header.key, option.header.value = name, value
        option.append.value = False
        option.append_action = 2
    # As the decision does: what it has just set it does not remove, for Envoy removes after it sets.
    answer.ok_response.headers_to_remove.extend(name for name in headers.CLIENT_CREDENTIALS if name not in added)
    for name in ("tenant", "key_id", "scope"):
        answer.dynamic_metadata[name] = f"some-{name}"
    return answer
