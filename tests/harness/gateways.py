"""Gateway values for tests, as the loader would make them."""

import dataclasses

from extauthz.gateway.model import FailureMode, Gateway, Limit, Listener, Plan, Provider, Route, Scope

LISTENER = Listener(address="127.0.0.1", port=10000, admin_port=9901, body_bytes_max=1 << 20, check_timeout_ms=1000, trusted_hops=0)


def provider(name: str, header: str = "authorization", format_: str = "Bearer {}", port: int = 9001) -> Provider:
    return Provider(
        name=name,
        host="127.0.0.1",
        port=port,
        tls=False,
        base_path="",
        credential_header=header,
        credential_format=format_ if header else "",
        ca_file="",
    )


def route(name: str, path: str, scope: str, providers: tuple[str, ...], **fields: object) -> Route:
    whole = Route(
        name=name, hosts=("*",), path=path, methods=("POST",), scope=scope, providers=providers, shape="openai", timeout_ms=60_000
    )
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]


def limit(name: str, count: int, *per: str, window_ms: int = 60_000, algorithm: str = "fixed") -> Limit:
    return Limit(name, per or ("tenant",), count, window_ms, algorithm)  # type: ignore[arg-type]


def plan(name: str, *limits: Limit, share: float = 0.0, sidecars: int = 1) -> Plan:
    return Plan(name, limits, FailureMode(share, sidecars))


def gateway(**fields: object) -> Gateway:
    """Two providers for chat with a fallback, a restricted and an unrestricted scope, an internal service, and a few plans."""
    whole = Gateway(
        listener=LISTENER,
        providers={
            "openai": provider("openai"),
            "backup": provider("backup", port=9002),
            "anthropic": provider("anthropic", "x-api-key", "{}", 9003),
            "gemini": provider("gemini", "x-goog-api-key", "{}", 9004),
            "agno": provider("agno", "", port=9005),
        },
        scopes={
            "chat": Scope("chat", frozenset({"openai", "backup", "anthropic", "gemini"}), ()),
            "strict": Scope("strict", frozenset({"openai", "gemini"}), ("gpt-4o-mini", "claude-opus-*")),
            "internal": Scope("internal", frozenset({"agno"}), ()),
        },
        routes=(
            route("chat", "/v1/chat/completions", "chat", ("openai", "backup")),
            route("strict", "/v1/strict", "strict", ("openai",)),
            route("messages", "/v1/messages", "chat", ("anthropic",), shape="anthropic"),
            route("generate", "/v1beta/models/{model}:generateContent", "strict", ("gemini",), shape="gemini"),
            route("runs", "/agents/{agent}/runs", "internal", ("agno",)),
            route("hosted", "/v1/hosted", "chat", ("openai",), hosts=("api.example.com",)),
        ),
        plans={
            "free": plan("free", limit("requests", 100)),
            "none": plan("none"),
            "one": plan("one", limit("requests", 1)),
            "bench": plan(
                "bench",
                limit("tenant", 1 << 30),
                limit("key", 1 << 30, "key"),
                limit("endpoint", 1 << 30, "endpoint"),
                limit("platform", 1 << 30, "global"),
            ),
            "shared": plan("shared", limit("requests", 10), share=0.5, sidecars=1),
        },
        default_plan="free",
        digest="0" * 64,
    )
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]
