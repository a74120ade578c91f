import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extauthz import _pb, keyspace
from extauthz.clock import SystemClock
from extauthz.services.check import decoded
from extauthz.tenants.cache import Identity
from tests.harness.deciding import Deciding, deciding
from tests.harness.gateways import gateway, route
from tests.harness.messages import check_request

CHAT = "/v1/chat/completions"
STRICT = "/v1/strict"


@pytest.fixture
async def system(redis_url: str, tmp_path: Path) -> AsyncIterator[Deciding]:
    async with deciding(redis_url, tmp_path) as system:
        yield system


async def test_a_request_passes_with_the_tenants_own_credential(system: Deciding) -> None:
    key = await system.acme("free")
    for remaining in (99, 98):
        answer = await system.check(key.text)
        assert answer.is_allow, answer.body
        assert answer.request_headers == {"authorization": "Bearer credential-of-acme-for-openai"}
        limits = answer.response_headers
        assert (limits["x-ratelimit-limit"], limits["x-ratelimit-remaining"]) == ("100", str(remaining))
        assert 0 < int(limits["x-ratelimit-reset"]) <= 60
        removed = set(answer.message.ok_response.headers_to_remove)
        assert {"x-api-key", "api-key", "x-goog-api-key", "cookie", "x-tenant-id", "x-extauthz-chain"} <= removed
        assert "authorization" not in removed
        assert answer.message.dynamic_metadata.fields["tenant"].string_value == "acme"
        assert "credential" not in str(answer.message.dynamic_metadata)


async def test_every_option_says_overwrite_twice(system: Deciding) -> None:
    key = await system.acme("free")
    answer = await system.check(key.text, chains=True)
    options = [*answer.message.ok_response.headers, *answer.message.ok_response.response_headers_to_add]
    assert len(options) == 5
    for option in options:
        assert option.HasField("append")
        assert (option.append.value, option.append_action) == (False, 2)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "key_missing"),
        ({"authorization": "Bearer "}, "key_malformed"),
        ({"authorization": "Basic KEY"}, "key_malformed"),
        ({"authorization": "KEY"}, "key_malformed"),
        ({"authorization": "Bearer KEY x"}, "key_malformed"),
        ({"authorization": "Bearer KEY,Bearer KEY"}, "key_malformed"),
        ({"x-api-key": "KEY,KEY"}, "key_malformed"),
        ({"x-api-key": "sk-123"}, "key_malformed"),
        ({"x-api-key": "schlüssel"}, "key_malformed"),
        ({"x-api-key": "KEY", "authorization": "Bearer other"}, "key_ambiguous"),
        ({"x-api-key": "KEY", "api-key": "other"}, "key_ambiguous"),
        ({"x-goog-api-key": "KEY", "api-key": "other"}, "key_ambiguous"),
    ],
)
async def test_a_request_without_one_whole_key_is_refused(system: Deciding, headers: dict[str, str], code: str) -> None:
    key = await system.acme()
    sent = {name: value.replace("KEY", key.text) for name, value in headers.items()}
    for raw in (False, True):
        answer = await system.check(headers=sent, raw=raw)
        assert (answer.status, answer.refused_by) == (401, code)


@pytest.mark.parametrize("name", ["x-api-key", "authorization", "api-key", "x-goog-api-key"])
@pytest.mark.parametrize("raw", [False, True])
async def test_a_key_is_taken_from_each_header(system: Deciding, name: str, raw: bool) -> None:
    key = await system.acme()
    value = f"Bearer {key.text}" if name == "authorization" else key.text
    assert (await system.check(headers={name: value}, raw=raw)).is_allow


async def test_all_refused_keys_get_one_body(system: Deciding) -> None:
    key = await system.acme()
    other = await system.record.key("acme", ("chat",), expires_at_ms=1)
    revoked = await system.record.key("acme", ("chat",))
    await system.record.revoke(revoked.key_id)
    unknown = key.text[:20] + "x" + key.text[21:]
    answers = [await system.check(text) for text in ("", "junk", unknown, other.text, revoked.text)]
    assert [answer.refused_by for answer in answers] == [
        "key_missing",
        "key_malformed",
        "key_malformed",
        "key_expired",
        "key_revoked",
    ]
    assert len({(answer.status, answer.body, tuple(sorted(answer.response_headers.items()))) for answer in answers}) == 1


async def test_the_documents_found_must_be_the_keys_own(system: Deciding) -> None:
    """An index that leads to another tenant's key, as a corrupted Redis would have it, lets nobody pass."""
    key = await system.acme()
    await system.record.tenant("other")
    theirs = await system.record.key("other", ("chat",))
    await system.record.server.execute("SET", keyspace.key_index(key.digest), f"other/{theirs.key_id}")
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (401, "key_unknown")
    await system.record.server.execute("SET", keyspace.key_index(key.digest), f"other/{key.key_id}")
    for epoch_of, document_of in ((keyspace.key_epoch, keyspace.key_document),):
        for of in (epoch_of, document_of):
            value = await system.record.server.execute("GET", of("other", theirs.key_id))
            await system.record.server.execute("SET", of("other", key.key_id), value)
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) in {(503, "unavailable"), (401, "key_unknown")}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": "/nowhere"}, (404, "route_not_found")),
        ({"path": "/agents/../x"}, (400, "path_refused")),
        ({"method": "GET"}, (404, "route_not_found")),
        ({"path": "/v1/hosted", "host": "evil"}, (404, "route_not_found")),
    ],
)
async def test_nothing_is_served_by_default(system: Deciding, fields: dict[str, str], expected: tuple[int, str]) -> None:
    key = await system.acme()
    answer = await system.check(key.text, **fields)
    assert (answer.status, answer.refused_by) == expected


async def test_a_scope_that_was_not_granted_is_refused_and_acts_at_once_when_granted(system: Deciding) -> None:
    key = await system.acme(scopes=("strict",))
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (403, "scope_not_granted")
    await system.record.change_key("acme", key.key_id, lambda document: msgspec.structs.replace(document, scopes=("chat",)))
    assert (await system.check(key.text)).is_allow


async def test_a_claimed_tenant_must_be_the_keys(system: Deciding) -> None:
    key = await system.acme()
    for _ in range(2):  # decided, then remembered
        mine = {"x-api-key": key.text, "x-tenant-id": "acme"}
        assert (await system.check(headers=mine)).is_allow
        answer = await system.check(headers={"x-api-key": key.text, "x-tenant-id": "other"})
        assert (answer.status, answer.refused_by) == (403, "tenant_mismatch")


async def test_a_key_bound_to_networks_works_only_from_them(system: Deciding) -> None:
    key = await system.acme(networks=("192.0.2.0/24", "2001:db8::/32"))
    sources = ["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.9", "192.0.3.1", "", "not-an-address", "2001:db9::1"]
    answers = [await system.check(key.text, source=source) for source in sources * 2]
    assert [answer.status for answer in answers] == [200, 200, 200, 403, 403, 403, 403] * 2
    assert answers[3].refused_by == "network_not_allowed"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "gpt-4o-mini"}, (200, "")),
        ({"model": "claude-opus-4"}, (200, "")),
        ({"model": "gpt-4o"}, (403, "model_not_found")),
        ({}, (400, "model_unreadable")),
        ({"model": ""}, (400, "model_unreadable")),
        ({"model": "claude-opus-" + "x" * 300}, (400, "model_unreadable")),
        ({"llm": {"model": 7}}, (400, "model_unreadable")),
        ({"llm": {"model": None}}, (400, "model_unreadable")),
        ({"llm": {"model": ["gpt-4o-mini"]}}, (400, "model_unreadable")),
        ({"llm": {"model": "gpt-4o-mini", "problem": "error"}}, (400, "model_unreadable")),
        ({"llm": {"model": "gpt-4o-mini", "other_spelling": True}}, (400, "model_ambiguous")),
    ],
)
async def test_a_restricted_scope_needs_one_readable_allowed_model(
    system: Deciding, fields: dict[str, object], expected: tuple[int, str]
) -> None:
    key = await system.acme()
    for _ in range(2):
        answer = await system.check(key.text, path=STRICT, **fields)
        assert (answer.status, answer.refused_by) == expected


async def test_what_was_remembered_for_one_model_allows_no_other(system: Deciding) -> None:
    key = await system.acme()
    models = ["gpt-4o-mini", "gpt-4o", "claude-opus-1", "gpt-4o-mini", "o1", None]
    answers = [await system.check(key.text, path=STRICT, model=model) for model in models]
    assert [answer.status for answer in answers] == [200, 403, 200, 200, 403, 400]


async def test_the_keys_own_models_restrict_an_unrestricted_scope(system: Deciding) -> None:
    key = await system.acme(models=("gpt-4o*",))
    statuses = [(await system.check(key.text, model=model)).status for model in ("gpt-4o-mini", "o1", None, "gpt-4o")]
    assert statuses == [200, 403, 400, 200]


@pytest.mark.parametrize(
    ("path_model", "body_model", "expected"),
    [
        ("gpt-4o-mini", None, (200, "")),
        ("gpt-4o-mini", "gpt-4o-mini", (200, "")),
        ("gpt-4o-mini", "claude-opus-1", (400, "model_disagrees")),
        ("gpt-4o", "gpt-4o-mini", (400, "model_disagrees")),
        ("gpt-4o", None, (403, "model_not_found")),
    ],
)
async def test_body_and_path_must_agree_on_the_model(
    system: Deciding, path_model: str, body_model: str | None, expected: tuple[int, str]
) -> None:
    key = await system.acme()
    path = f"/v1beta/models/{path_model}:generateContent"
    for _ in range(2):
        answer = await system.check(key.text, path=path, model=body_model)
        assert (answer.status, answer.refused_by) == expected


@pytest.mark.parametrize(
    ("llm", "statuses"),
    [
        ({"problem": "missing"}, {"POST": 200, "GET": 200}),
        ({"problem": "error"}, {"POST": 400, "GET": 200}),  # Envoy says so too where there is no body
        ({"model": 7.0}, {"POST": 400, "GET": 200}),
        ({"model": ["o1"]}, {"POST": 400, "GET": 200}),
        ({"model": "gpt-4o-mini", "problem": "error"}, {"POST": 400, "GET": 200}),
        ({"problem": "missing", "other_spelling": False}, {"POST": 400, "GET": 400}),
    ],
)
async def test_a_body_that_cannot_be_read_does_not_agree_with_the_path(
    system: Deciding, llm: dict[str, object], statuses: dict[str, int]
) -> None:
    """A provider that takes the body's word would be asked for a model that nobody looked at."""
    path = "/v1beta/models/{model}:generateContent"
    either = route("either", path, "strict", ("gemini",), methods=("POST", "GET"))
    free = route("free", "/v1beta/free/{model}", "chat", ("gemini",))
    system.core.install(gateway(routes=(either, free)))
    key = await system.acme()
    for _ in range(2):
        seen = {
            m: (await system.check(key.text, method=m, path=path.format(model="gpt-4o-mini"), llm=llm)).status for m in statuses
        }
        assert seen == statuses
    assert (await system.check(key.text, path="/v1beta/free/o1", llm=llm)).is_allow, "where no model is restricted none is read"


async def test_the_keys_own_providers_restrict_the_chain(system: Deciding) -> None:
    key = await system.acme(providers=("backup",))
    answer = await system.check(key.text, chains=True)
    assert answer.request_headers == {
        "x-extauthz-chain": "chain:backup",
        "authorization": "Bearer credential-of-acme-for-backup",
    }
    answer = await system.check(key.text, path="/v1/messages")
    assert (answer.status, answer.refused_by) == (403, "provider_not_allowed")


async def test_a_fallback_waits_for_nobody_and_then_has_its_own_credential(system: Deciding) -> None:
    key = await system.acme()
    first = await system.check(key.text, chains=True)
    assert first.request_headers["x-extauthz-chain"] == "chain:openai"
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 5
    answer = first
    while answer.request_headers["x-extauthz-chain"] == "chain:openai" and loop.time() < deadline:
        await asyncio.sleep(0.01)
        answer = await system.check(key.text, chains=True)
    assert answer.request_headers == {
        "x-extauthz-chain": "chain:openai+backup",
        "x-extauthz-credential-openai": "Bearer credential-of-acme-for-openai",
        "x-extauthz-credential-backup": "Bearer credential-of-acme-for-backup",
    }
    removed = set(answer.message.ok_response.headers_to_remove)
    assert {"authorization", "x-api-key"} <= removed
    assert (await system.check(key.text)).request_headers == {"authorization": "Bearer credential-of-acme-for-openai"}


async def test_a_request_is_decided_by_the_policy_it_came_under(system: Deciding) -> None:
    """A reload while a cold request waits for its documents neither fails it nor mixes two policies."""
    key = await system.acme()
    waiting = asyncio.ensure_future(system.check(key.text))
    await asyncio.sleep(0)
    system.core.install(gateway(routes=(route("chat", "/v1/chat/completions", "chat", ("backup",)),)))
    assert (await waiting).request_headers == {"authorization": "Bearer credential-of-acme-for-openai"}
    assert (await system.check(key.text)).request_headers == {"authorization": "Bearer credential-of-acme-for-backup"}


async def test_a_slot_of_another_policy_is_never_taken_for_ones_own(system: Deciding) -> None:
    """Route 0 of the old policy is not route 0 of the new one, though both are remembered under 0."""
    key = await system.acme(scopes=("chat",))
    old = system.core.checker.policy
    assert old is not None
    request = decoded(_pb.CheckRequest.FromString(check_request(key.text)))
    matched = old.match(request.method, request.host, request.path)
    assert matched is not None
    system.core.install(gateway(routes=(route("messages", "/v1/messages", "chat", ("anthropic",), shape="anthropic"),)))
    assert (await system.check(key.text, path="/v1/messages")).is_allow
    allowed = await system.core.checker.check(request, old, matched, asyncio.get_running_loop().time() + 1)
    assert [link.provider.name for link in allowed.passage.chain] == ["openai"]


async def test_a_tenant_without_a_credential_is_refused_and_never_gets_anothers(system: Deciding) -> None:
    await system.acme()
    await system.record.tenant("poor", "none")
    key = await system.record.key("poor", ("chat",))
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (403, "no_credential")
    await system.record.secret("poor", "backup", "credential-of-poor")
    answer = await system.check(key.text)
    assert answer.request_headers == {"authorization": "Bearer credential-of-poor"}


async def test_an_internal_service_gets_the_identity_and_no_credential(system: Deciding) -> None:
    key = await system.acme()
    answer = await system.check(key.text, path="/agents/7/runs", chains=True)
    assert answer.request_headers == {
        "x-extauthz-chain": "chain:agno",
        "x-extauthz-tenant": "acme",
        "x-extauthz-key-id": key.key_id,
        "x-extauthz-scope": "internal",
    }
    assert "authorization" in answer.message.ok_response.headers_to_remove


async def test_the_limit_refuses_with_the_time_to_wait(system: Deciding) -> None:
    key = await system.acme("one")
    assert (await system.check(key.text)).is_allow
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (429, "rate_limit_exceeded")
    headers = answer.response_headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert 1 <= int(headers["retry-after-ms"]) <= 60_000
    assert json.loads(answer.body)["error"]["code"] == "rate_limit_exceeded"
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("1", "0")
    assert 1 <= int(headers["x-ratelimit-reset"]) <= 60


@pytest.mark.parametrize("fields", [{"path": "/nowhere"}, {"path": "/v1/strict", "model": "o1"}, {"headers": {"x-tenant-id": "b"}}])
async def test_a_refusal_says_whose_request_it_was_once_that_is_known(
    system: Deciding, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "extauthz.check")
    key = await system.acme()
    if "headers" in fields:
        fields = {"headers": {**fields["headers"], "x-api-key": key.text}}
    answer = await system.check(key.text, **fields)
    said = {name: answer.message.dynamic_metadata.fields[name].string_value for name in ("tenant", "key_id")}
    assert said == {"tenant": "acme", "key_id": key.key_id}
    assert [(line.tenant, line.key_id) for line in caplog.records if line.msg == "refused"] == [("acme", key.key_id)]  # type: ignore[attr-defined]
    unknown = await system.check("junk")
    assert "tenant" not in unknown.message.dynamic_metadata.fields


async def test_suspending_and_resuming_act_on_the_next_request(system: Deciding) -> None:
    key = await system.acme()
    for _ in range(3):
        assert (await system.check(key.text)).is_allow
        await system.record.change("acme", is_active=False)
        answer = await system.check(key.text)
        assert (answer.status, answer.refused_by) == (403, "tenant_suspended")
        await system.record.change("acme", is_active=True)


async def test_a_lowered_and_a_raised_limit_act_on_the_next_request(system: Deciding) -> None:
    key = await system.acme("free")
    assert (await system.check(key.text)).response_headers["x-ratelimit-remaining"] == "99"
    await system.record.change("acme", limits=(("requests", 1, 60_000),))
    assert (await system.check(key.text)).status == 429
    await system.record.change("acme", limits=(("requests", 3, 60_000),))
    assert (await system.check(key.text)).response_headers["x-ratelimit-remaining"] == "1"


async def test_a_replaced_credential_is_used_by_the_next_request(system: Deciding) -> None:
    key = await system.acme()
    for number in range(3):
        await system.record.secret("acme", "openai", f"number-{number}")
        assert (await system.check(key.text)).request_headers == {"authorization": f"Bearer number-{number}"}


@pytest.mark.parametrize(
    ("path", "shape"),
    [(CHAT, {"error"}), ("/v1/messages", {"type", "error", "request_id"}), ("/v1beta/models/x:generateContent", {"error"})],
)
async def test_a_refusal_has_the_shape_of_its_route(system: Deciding, path: str, shape: set[str]) -> None:
    body = json.loads((await system.check("junk", path=path)).body)
    assert set(body) == shape
    expected = {"/v1/messages": ("type", "authentication_error"), CHAT: ("code", "invalid_api_key")}.get(
        path, ("status", "UNAUTHENTICATED")
    )
    assert body["error"][expected[0]] == expected[1]


async def test_a_passage_that_may_not_be_used_is_not_kept_either(system: Deciding) -> None:
    key = await system.acme()
    assert (await system.check(key.text)).is_allow
    identity = system.core.identities.held()[0]
    await system.core.checker.forget_expired()
    assert len(identity.passages) == 1
    for passage in identity.passages.values():
        passage.valid_until = 0.0
    await system.core.checker.forget_expired()
    assert identity.passages == {}
    assert (await system.check(key.text)).is_allow


async def test_a_tenant_taken_off_a_plan_that_the_gateway_file_lacks_passes_at_once(system: Deciding) -> None:
    key = await system.acme("no-such-plan")
    assert [(await system.check(key.text)).refused_by for _ in range(2)] == ["plan_unusable"] * 2
    await system.record.change("acme", plan="none")
    assert (await system.check(key.text)).is_allow


@pytest.mark.parametrize("value", [b"no envelope", None], ids=["does not open", "is in no store"])
async def test_a_credential_that_cannot_be_used_is_replaced_at_once(system: Deciding, value: bytes | None) -> None:
    """The document in memory names it, and nothing but a confirmation would ever read another."""
    key, name = await system.acme(), keyspace.secret("acme", "openai", "default", 1)
    await (system.record.server.execute("SET", name, value) if value else system.record.server.execute("DEL", name))
    assert [(await system.check(key.text)).refused_by for _ in range(2)] == ["unavailable"] * 2
    await system.record.secret("acme", "openai", "the-new-one")
    assert (await system.check(key.text)).request_headers == {"authorization": "Bearer the-new-one"}


async def test_a_key_expires_by_the_calendar_also_where_it_is_remembered(system: Deciding) -> None:
    """A clock that is set, or a machine that was suspended, moves the calendar and not the clock of the loop."""
    checker, unix_ms = system.core.checker, SystemClock().unix_ms
    key = await system.acme(expires_at_ms=unix_ms() + 60_000)
    assert [(await system.check(key.text)).status for _ in range(2)] == [200, 200]
    checker._unix_ms = lambda: unix_ms() + 60_000
    answer = await system.check(key.text)
    assert (answer.status, answer.refused_by) == (401, "key_expired")


async def test_a_refusal_on_documents_that_were_read_for_an_earlier_request_is_confirmed(system: Deciding) -> None:
    """Who joins a reading that began before him may be told what was so before he asked."""
    key, identities = await system.acme(), system.core.identities
    await system.record.change("acme", is_active=False)
    read, has_read, answers = identities._read, asyncio.Event(), asyncio.Event()

    async def read_slowly(digest: bytes, key_id: str) -> Identity:
        identity = await read(digest, key_id)
        has_read.set()
        await answers.wait()
        return identity

    identities._read = read_slowly  # type: ignore[method-assign]
    earlier = asyncio.ensure_future(system.check(key.text))
    await has_read.wait()
    identities._read = read  # type: ignore[method-assign]
    await system.record.change("acme", is_active=True)
    later = asyncio.ensure_future(system.check(key.text))
    await asyncio.sleep(0)
    answers.set()
    assert [(await earlier).status, (await later).status] == [403, 200]


async def test_what_a_reload_made_useless_does_not_hide_what_is_remembered_since(system: Deciding) -> None:
    """A route is remembered under its slot, and by model as well once its scope restricts models."""
    key, whole = await system.acme(), gateway()
    assert (await system.check(key.text)).is_allow
    scopes = {**whole.scopes, "chat": dataclasses.replace(whole.scopes["chat"], models=("gpt-4o",))}
    system.core.install(dataclasses.replace(whole, scopes=scopes))
    (identity,) = system.core.identities.held()
    assert (await system.check(key.text, model="gpt-4o")).is_allow
    assert list(identity.passages) == [(0, None, "gpt-4o")]
