"""What a decision is asked about: one request of a client, in plain values, as Envoy saw it."""

from typing import NamedTuple


class Request(NamedTuple):
    """One request. A named tuple, because building one costs half of what a frozen dataclass costs.

    Attributes:
        method: upper case, as sent.
        host: as sent, with a port if it had one.
        path: as Envoy normalised it, with its query.
        x_api_key, authorization, api_key, x_goog_api_key: the headers in which a key may stand; empty when absent.
        tenant_hint: the client's `x-tenant-id`, empty when absent.
        model: the body's model; None when the body has none, empty when it could not be read: it may have one.
        model_is_ambiguous: whether another spelling of `model` stands beside it.
        source: the client's address as Envoy trusts it; empty when Envoy did not say.
        takes_chain: whether this Envoy keeps the credentials of several providers apart.
        request_id: Envoy's, kept over retries; for the log.
    """

    method: str
    host: str
    path: str
    x_api_key: str
    authorization: str
    api_key: str
    x_goog_api_key: str
    tenant_hint: str
    model: str | None
    model_is_ambiguous: bool
    source: str
    takes_chain: bool
    request_id: str
