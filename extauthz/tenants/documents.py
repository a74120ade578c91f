"""The two documents a decision reads, as values: what is published is checked here, when it is written and when it is read.

A document that names anything outside its alphabet, carries an unknown field, or is not encoded in the one way this code encodes
it, is no document. So a sidecar never decides on half of what a newer publisher meant: upgrade the sidecars first.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from extauthz import _pb
from extauthz.errors import Malformed
from extauthz.gateway.names import LIMIT_NAME, MODEL_PATTERN, NAME, SCOPE_NAME, Alphabet
from extauthz.gateway.units import COUNT_MAX, LIMIT_ALLOWED, WINDOW_MS_MAX, WINDOW_MS_MIN
from extauthz.tenants.api_key import is_key_id
from extauthz.tenants.epochs import VERSION_MAX, epoch_of

#: A document is a few hundred bytes; the bound is what a sidecar is ready to keep 10,000 of.
DOCUMENT_BYTES_MAX = 64 * 1024
#: Of each list inside a document.
ITEMS_MAX = 100

#: The same rule as a vault's strictest: it is part of names there.
TENANT_ID = Alphabet(
    re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"), "a-z, 0-9 and -, 1 to 63 characters, neither first nor last a -"
)
_NETWORK_ALLOWED = "CIDR blocks without host bits, such as 10.0.0.0/8"
_TITLE_ALLOWED = "at most 128 printable characters"


class TenantDocument(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One tenant, as published.

    Attributes:
        version: counts up by one with every change.
        epoch: of the stored bytes; empty in a document that is not stored yet.
        plan: empty: the gateway file's default.
        limits: name, requests and window in ms; another size of the plan's limit, or one more per tenant.
        secrets: provider, name and version of the secret in force; a provider at most once.
    """

    tenant_id: str
    version: int
    is_active: bool
    epoch: bytes = b""
    plan: str = ""
    subdomain: str = ""
    limits: tuple[tuple[str, int, int], ...] = ()
    secrets: tuple[tuple[str, str, int], ...] = ()
    created_at_ms: int = 0


class KeyDocument(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One API key, as published.

    Attributes:
        digest: SHA-256 of the whole key, 32 bytes.
        providers: empty: every provider of its scopes.
        models: patterns; empty: every model of its scopes.
        networks: CIDR blocks; empty: any source.
        expires_at_ms: since 1970; 0: never.
        name: for people.
    """

    key_id: str
    tenant_id: str
    version: int
    is_active: bool
    digest: bytes
    scopes: tuple[str, ...]
    epoch: bytes = b""
    providers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    expires_at_ms: int = 0
    created_at_ms: int = 0
    name: str = ""


def encode_tenant(document: TenantDocument) -> bytes:
    """The bytes to store. Raises Malformed for a document that `decode_tenant` would not take."""
    _check_tenant(document)
    message = _pb.TenantDocument(
        tenant_id=document.tenant_id,
        version=document.version,
        status=_TENANT_STATUS[document.is_active],
        plan=document.plan,
        subdomain=document.subdomain,
        created_at_ms=document.created_at_ms,
    )
    for limit, count, window_ms in document.limits:
        message.limits.add(name=limit, count=count, window_ms=window_ms)
    for provider, name, version in document.secrets:
        message.secrets.add(provider=provider, name=name, version=version)
    return _encoded(message)


def decode_tenant(data: bytes) -> TenantDocument:
    """The tenant in stored bytes, with their epoch. Raises Malformed, which names the field."""
    message = _parsed(_pb.TenantDocument, data)
    document = TenantDocument(
        tenant_id=message.tenant_id,
        version=message.version,
        epoch=epoch_of(message.version, data),
        is_active=_is_active(message.status, _TENANT_STATUS),
        plan=message.plan,
        subdomain=message.subdomain,
        limits=tuple((limit.name, limit.count, limit.window_ms) for limit in message.limits),
        secrets=tuple((secret.provider, secret.name, secret.version) for secret in message.secrets),
        created_at_ms=message.created_at_ms,
    )
    _check_tenant(document)
    return document


def encode_key(document: KeyDocument) -> bytes:
    """The bytes to store. Raises Malformed for a document that `decode_key` would not take."""
    _check_key(document)
    return _encoded(
        _pb.KeyDocument(
            key_id=document.key_id,
            tenant_id=document.tenant_id,
            version=document.version,
            status=_KEY_STATUS[document.is_active],
            digest=document.digest,
            scopes=document.scopes,
            providers=document.providers,
            models=document.models,
            networks=document.networks,
            expires_at_ms=document.expires_at_ms,
            created_at_ms=document.created_at_ms,
            name=document.name,
        )
    )


def decode_key(data: bytes) -> KeyDocument:
    """The key in stored bytes, with their epoch. Raises Malformed, which names the field."""
    message = _parsed(_pb.KeyDocument, data)
    document = KeyDocument(
        key_id=message.key_id,
        tenant_id=message.tenant_id,
        version=message.version,
        epoch=epoch_of(message.version, data),
        is_active=_is_active(message.status, _KEY_STATUS),
        digest=message.digest,
        scopes=tuple(message.scopes),
        providers=tuple(message.providers),
        models=tuple(message.models),
        networks=tuple(message.networks),
        expires_at_ms=message.expires_at_ms,
        created_at_ms=message.created_at_ms,
        name=message.name,
    )
    _check_key(document)
    return document


_TENANT_STATUS = {True: _pb.TenantDocument.ACTIVE, False: _pb.TenantDocument.SUSPENDED}
_KEY_STATUS = {True: _pb.KeyDocument.ACTIVE, False: _pb.KeyDocument.REVOKED}


def _encoded(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    _need(len(data) <= DOCUMENT_BYTES_MAX, "size", f"at most {DOCUMENT_BYTES_MAX} bytes")
    return data


def _parsed(kind: Any, data: bytes) -> Any:
    """The message in the bytes. Unknown fields, repeated scalars and every other second spelling are refused."""
    _need(0 < len(data) <= DOCUMENT_BYTES_MAX, "size", f"1 to {DOCUMENT_BYTES_MAX} bytes")
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise Malformed("a document does not parse") from error
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise Malformed("a document has unknown fields or another encoding")
    return message


def _is_active(status: int, statuses: dict[bool, int]) -> bool:
    for is_active, known in statuses.items():
        if status == known:
            return is_active
    raise Malformed(f"a document's status is {status}, which is none")


def _need(holds: object, field: str, allowed: str) -> None:
    if not holds:
        raise Malformed(f"a document's {field}: {allowed}")


def _check_names(names: Sequence[str], alphabet: Alphabet, field: str) -> None:
    _need(len(names) <= ITEMS_MAX, field, f"at most {ITEMS_MAX}")
    _need(len(set(names)) == len(names), field, "none twice")
    _need(all(alphabet.has(name) for name in names), field, alphabet.allowed)


def _check_tenant(document: TenantDocument) -> None:
    _need(TENANT_ID.has(document.tenant_id), "tenant id", TENANT_ID.allowed)
    _need(0 < document.version <= VERSION_MAX, "version", "1 to 2**53 - 1")
    _need(not document.plan or NAME.has(document.plan), "plan", NAME.allowed)
    _need(not document.subdomain or TENANT_ID.has(document.subdomain), "subdomain", TENANT_ID.allowed)
    _need(0 <= document.created_at_ms <= VERSION_MAX, "time", "0 to 2**53 - 1 ms")
    _check_names([limit[0] for limit in document.limits], LIMIT_NAME, "limit's name")
    for _, count, window_ms in document.limits:
        _need(0 < count <= COUNT_MAX and WINDOW_MS_MIN <= window_ms <= WINDOW_MS_MAX, "limit", LIMIT_ALLOWED)
    _check_names([secret[0] for secret in document.secrets], NAME, "secret's provider")
    for _, name, version in document.secrets:
        _need(NAME.has(name), "secret's name", NAME.allowed)
        _need(0 < version < 2**32, "secret's version", "1 to 2**32 - 1")


def _check_key(document: KeyDocument) -> None:
    _need(is_key_id(document.key_id), "key id", "16 of a-z and 2-7")
    _need(TENANT_ID.has(document.tenant_id), "tenant id", TENANT_ID.allowed)
    _need(0 < document.version <= VERSION_MAX, "version", "1 to 2**53 - 1")
    _need(len(document.digest) == 32, "digest", "32 bytes")
    _need(document.scopes, "scopes", "at least one")
    _check_names(document.scopes, SCOPE_NAME, "scope")
    _check_names(document.providers, NAME, "provider")
    _check_names(document.models, MODEL_PATTERN, "model")
    _need(len(set(document.networks)) == len(document.networks) <= ITEMS_MAX, "network", f"at most {ITEMS_MAX}, none twice")
    _need(all(map(_is_network, document.networks)), "network", _NETWORK_ALLOWED)
    _need(0 <= document.expires_at_ms <= VERSION_MAX, "expiry", "0 to 2**53 - 1 ms")
    _need(0 <= document.created_at_ms <= VERSION_MAX, "time", "0 to 2**53 - 1 ms")
    _need(len(document.name) <= 128 and document.name.isprintable(), "name", _TITLE_ALLOWED)


def _is_network(text: str) -> bool:
    try:
        return str(ipaddress.ip_network(text)) == text
    except ValueError:
        return False
