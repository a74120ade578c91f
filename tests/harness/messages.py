"""CheckRequests as Envoy writes them, and CheckResponses as it reads them."""

from collections.abc import Mapping
from typing import Any

from extauthz import _pb


def check_request(
    key: str = "",
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    host: str = "api.example.com",
    headers: Mapping[str, str] | None = None,
    model: str | None = None,
    llm: Mapping[str, Any] | None = None,
    source: str = "192.0.2.7",
    chains: bool = False,
    raw: bool = False,
    request_id: str = "7f6b0f9e-8a1c-4b6e-9d0e-111111111111",
) -> bytes:
    """One request; a key goes into `authorization` unless the headers say otherwise. `raw`: as with encode_raw_headers."""
    message = _pb.CheckRequest()
    http = message.attributes.request.http
    http.id, http.method, http.path, http.host = request_id, method, path, host
    everything = {":authority": host, ":method": method, ":path": path, "user-agent": "test", **(headers or {})}
    if key and not headers:
        everything["authorization"] = f"Bearer {key}"
    for name, value in everything.items():
        if raw:
            pair = http.header_map.headers.add()
            pair.key, pair.raw_value = name, value.encode("latin-1")
        else:
            http.headers[name] = value
    fields = {**({"model": model} if model is not None else {}), **(llm or {})}
    if fields:
        message.attributes.metadata_context.filter_metadata["llm"].update(fields)
    message.attributes.source.address.socket_address.address = source
    if chains:
        message.attributes.context_extensions["extauthz.chain"] = "v1"
    return bytes(message.SerializeToString())


class Answer:
    """A CheckResponse, and how Envoy would take it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.message = _pb.CheckResponse.FromString(data)

    @property
    def is_allow(self) -> bool:
        """As Envoy decides: OK in the status, or a denial without a status code."""
        if self.message.WhichOneof("http_response") == "denied_response":
            return bool(self.message.denied_response.status.code == 0)
        return bool(self.message.status.code == 0)

    @property
    def status(self) -> int:
        """The HTTP status of a denial, 200 for an allow."""
        return 200 if self.is_allow else int(self.message.denied_response.status.code)

    @property
    def request_headers(self) -> dict[str, str]:
        return {option.header.key: option.header.value for option in self.message.ok_response.headers}

    @property
    def response_headers(self) -> dict[str, str]:
        options = self.message.ok_response.response_headers_to_add if self.is_allow else self.message.denied_response.headers
        return {option.header.key: option.header.value for option in options}

    @property
    def refused_by(self) -> str:
        """The code of the refusal."""
        return str(self.message.dynamic_metadata.fields["refused"].string_value)

    @property
    def body(self) -> str:
        return str(self.message.denied_response.body)
