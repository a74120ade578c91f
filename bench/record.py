"""Tenants for the bench, written in bulk: the same documents, epochs, indexes and envelopes that the commands write one by one."""

from dataclasses import dataclass
from pathlib import Path

from extauthz import _pb, keyspace
from extauthz.credentials import envelope, keyring
from extauthz.credentials.store import SecretRef
from extauthz.record.server import Command, Server
from extauthz.record.setup import prepare
from extauthz.secret import Secret
from extauthz.tenants.api_key import mint
from extauthz.tenants.documents import KeyDocument, TenantDocument, encode_key, encode_tenant
from extauthz.tenants.epochs import epoch_of

PATH = "/v1/chat/completions"
HOST = "api.example.com"
SCOPE = "agents:orchestration"
MODEL = "gpt-4o-mini"
PROVIDER = "openai"
_WRITTEN_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with one key and one credential.

    Attributes:
        key: what its client sends.
        credential: what its provider gets.
    """

    name: str
    key: str
    credential: str

    def message(self) -> bytes:
        """The CheckRequest of a chat completion, with the fields and headers of a rendered Envoy's."""
        message = _pb.CheckRequest()
        http = message.attributes.request.http
        http.id, http.method, http.path, http.host = "11223344556677889900", "POST", PATH, HOST
        http.headers.update(
            {
                ":authority": HOST,
                ":method": "POST",
                ":path": PATH,
                ":scheme": "http",
                "accept": "application/json",
                "accept-encoding": "gzip, deflate",
                "authorization": f"Bearer {self.key}",
                "content-length": "312",
                "content-type": "application/json",
                "user-agent": "OpenAI/Python 2.8.0",
                "x-forwarded-for": "192.0.2.7",
                "x-forwarded-proto": "http",
                "x-request-id": "7f6b0f9e-8a1c-4b6e-9d0e-111111111111",
                "x-stainless-lang": "python",
            }
        )
        message.attributes.metadata_context.filter_metadata["llm"].update({"model": MODEL})
        message.attributes.source.address.socket_address.address = "192.0.2.7"
        message.attributes.context_extensions["extauthz.chain"] = "v1"
        return bytes(message.SerializeToString())

    def expected(self) -> tuple[bytes, ...]:
        """What stands in the right answer: OK with an ok_response, this tenant's own credential, the rate headers."""
        credential = f"Bearer {self.credential}".encode()
        return (b"\x0a\x00\x1a", credential, b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")


async def write_tenants(redis_url: str, master_key: Path, names: list[str], plan: str) -> list[Tenant]:
    """Create tenants on this plan, each with a key and a sealed credential of its own."""
    kek = keyring.load([master_key]).primary
    tenants, commands = [], list[Command]()
    async with Server(Secret(redis_url.encode())) as server:
        await prepare(server)
        for number, name in enumerate(names, 1):
            tenant, written = _tenant(name, plan)
            tenants.append(tenant)
            ref = SecretRef(name, PROVIDER, "default", 1)
            sealed = await envelope.seal(kek, ref.context(), Secret(tenant.credential.encode()), number)
            commands += (*written, ("SET", keyspace.secret(*ref), sealed))
            if number % _WRITTEN_AT_ONCE == 0 or number == len(names):
                await server.execute_all(commands)
                commands.clear()
    return tenants


def _tenant(name: str, plan: str) -> tuple[Tenant, list[Command]]:
    secret, key_id, digest = mint("test")
    document = encode_tenant(
        TenantDocument(
            tenant_id=name,
            version=1,
            epoch=b"",
            is_active=True,
            plan=plan,
            subdomain=name,
            limits=(),
            secrets=((PROVIDER, "default", 1),),
            created_at_ms=1,
        )
    )
    key = encode_key(
        KeyDocument(
            key_id=key_id,
            tenant_id=name,
            version=1,
            epoch=b"",
            is_active=True,
            digest=digest,
            scopes=(SCOPE,),
            providers=(),
            models=(),
            networks=(),
            expires_at_ms=0,
            created_at_ms=1,
            name="",
        )
    )
    commands: list[Command] = [
        ("SET", keyspace.tenant_document(name), document),
        ("SET", keyspace.tenant_epoch(name), epoch_of(1, document)),
        ("SET", keyspace.key_document(name, key_id), key),
        ("SET", keyspace.key_epoch(name, key_id), epoch_of(1, key)),
        ("SET", keyspace.key_index(digest), f"{name}/{key_id}"),
    ]
    return Tenant(name, secret.reveal().decode(), f"sk-of-{name}-0123456789abcdef0123456789abcdef"), commands
