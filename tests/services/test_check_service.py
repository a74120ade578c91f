"""Step 1 of a Check, and the decision's half of promise 2: whatever bytes arrive, what leaves is a whole allow, a whole denial or
an error; and an allow needs a whole key.
"""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from extauthz import _pb
from extauthz.errors import Malformed
from extauthz.services.check import decoded
from extauthz.tenants import api_key
from tests.harness.deciding import Deciding, deciding
from tests.harness.messages import Answer, check_request

UNKNOWN = api_key.mint("test")[0].reveal().decode()
#: Of promise 2, when it is proven; the slice is 250 per property.
EXAMPLES = 10_000


class Service:
    """A whole decision in a loop of its own, asked from outside it."""

    def __init__(self, runner: "asyncio.Runner", system: Deciding, key: str, other: str) -> None:
        self._runner = runner
        self._system = system
        self.key = key
        self.other = other
        self.examples = 0
        self.allows = 0

    def judged(self, message: bytes) -> bool:
        """Whether it was allowed. Fails when the answer is neither a whole allow nor a whole denial nor the error Malformed."""
        self.examples += 1
        try:
            data = self._runner.run(self._asked(message))
        except Malformed:
            return False
        assert data
        answer = Answer(data)
        assert answer.message.SerializeToString()
        if not answer.is_allow:
            assert answer.message.WhichOneof("http_response") == "denied_response"
            assert answer.message.status.code > 0
            assert 400 <= answer.message.denied_response.status.code <= 599
            assert answer.refused_by
            return False
        assert answer.message.WhichOneof("http_response") == "ok_response"
        assert answer.message.HasField("status")
        assert any(value.startswith("Bearer credential-of-acme-for-") for value in answer.request_headers.values())
        self.allows += 1
        return True

    async def _asked(self, message: bytes) -> bytes:
        return await self._system.core.check(message, asyncio.get_running_loop().time() + 0.5)


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[Service]:
    with asyncio.Runner() as runner:
        block = deciding(redis_url, tmp_path)

        async def opened() -> tuple[Deciding, str, str]:
            system = await block.__aenter__()
            key = await system.acme("bench")
            other = await system.record.key("acme", ("strict",))
            return system, key.text, other.text

        service = Service(runner, *runner.run(opened()))
        yield service
        runner.run(block.__aexit__(None, None, None))


def examples(proving: bool) -> settings:
    number = EXAMPLES if proving else EXAMPLES // 40
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=not proving,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


_names = st.sampled_from(
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-tenant-id", "Authorization", ":path", "cookie"]
)
_texts = st.text(max_size=40)
_models = st.one_of(st.none(), st.sampled_from(["gpt-4o-mini", "o1", "", "\0"]), _texts)


@st.composite
def structured(draw: st.DrawFn, keys: tuple[str, ...]) -> bytes:
    """A CheckRequest that parses, with anything in its fields; half of the time only its credentials are strange."""
    is_plain = draw(st.booleans())
    values = st.sampled_from([*keys, *(f"Bearer {key}" for key in keys), "Bearer ", "Basic x"])
    message = _pb.CheckRequest()
    http = message.attributes.request.http
    http.method = "POST" if is_plain else draw(st.sampled_from(["POST", "GET", "post", ""]))
    paths = st.sampled_from(["/v1/chat/completions", "/v1/strict", "/v1/strict?x", "//", ""])
    http.path = "/v1/chat/completions" if is_plain else draw(st.one_of(paths, _texts))
    http.host, http.id = draw(_texts), draw(_texts)
    in_a_map = draw(st.booleans())
    for name, value in draw(st.lists(st.tuples(_names, values if is_plain else st.one_of(values, _texts)), min_size=1, max_size=4)):
        if in_a_map or (not is_plain and draw(st.booleans())):
            pair = http.header_map.headers.add()
            pair.key, pair.raw_value = name, value.encode()
        else:
            http.headers[name] = value
    model = draw(_models)
    if model is not None:
        message.attributes.metadata_context.filter_metadata["llm"].update({"model": model})
    if draw(st.booleans()):
        message.attributes.context_extensions["extauthz.chain"] = draw(st.sampled_from(["v1", "v2", ""]))
    return bytes(message.SerializeToString())


def mutated(message: bytes, rng: random.Random) -> bytes:
    """A few octets changed, taken out, put in or cut off."""
    data = bytearray(message)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.timeout(300)
@pytest.mark.prove(2)
def test_bytes_without_a_whole_key_are_never_allowed(service: Service, proving: bool) -> None:
    @examples(proving)
    @given(
        st.one_of(
            st.binary(max_size=2_000), structured((UNKNOWN, "junk", service.key[:-1], service.key + "x", service.key.upper()))
        )
    )
    def judge(message: bytes) -> None:
        assert not service.judged(message)

    judge()
    print(f"row 2, without a key: {service.examples} examples, {service.allows} allows")
    assert service.allows == 0


@pytest.mark.timeout(300)
@pytest.mark.prove(2)
def test_a_request_with_a_key_is_answered_whole(service: Service, proving: bool) -> None:
    @examples(proving)
    @given(structured((service.key, service.other)))
    def judge(message: bytes) -> None:
        is_allowed = service.judged(message)
        request = decoded(_pb.CheckRequest.FromString(message))
        held = {request.x_api_key, request.authorization.partition(" ")[2], request.api_key, request.x_goog_api_key} - {""}
        if is_allowed:
            assert held in ({service.key}, {service.other})
            assert request.path.partition("?")[0] in {"/v1/chat/completions", "/v1/strict"}
            assert request.method == "POST"

    judge()
    print(f"row 2, with a key: {service.examples} examples, {service.allows} allows")
    assert service.allows


@pytest.mark.timeout(300)
@pytest.mark.prove(2)
def test_a_damaged_request_is_answered_whole(service: Service, proving: bool) -> None:
    rng = random.Random(2)
    for _ in range(EXAMPLES if proving else EXAMPLES // 20):
        chains, raw = rng.random() < 0.5, rng.random() < 0.5
        message = mutated(check_request(service.key, chains=chains, raw=raw), rng)
        if service.judged(message):
            assert service.key.encode() in message
        whole_of_another = mutated(check_request(UNKNOWN, chains=chains, raw=raw), rng)
        assert not service.judged(whole_of_another)
    print(f"row 2, damaged: {service.examples} examples, {service.allows} allows")
    assert service.allows


@pytest.fixture
async def system(redis_url: str, tmp_path: Path) -> AsyncIterator[Deciding]:
    async with deciding(redis_url, tmp_path) as system:
        yield system


async def test_bytes_that_are_no_request_are_malformed_and_an_empty_request_is_denied(system: Deciding) -> None:
    loop = asyncio.get_running_loop()
    for message in (b"\xff", b"\x0a\x05ab", check_request("x")[:-1], check_request("x") + b"\x0a"):
        with pytest.raises(Malformed):
            await system.core.check(message, loop.time() + 1)
    answer = Answer(await system.core.check(b"", loop.time() + 1))
    assert (answer.status, answer.refused_by) == (401, "key_missing")


def with_headers(pairs: list[tuple[str, bytes]], *, raw: bool, plain: dict[str, str] | None = None) -> bytes:
    message = _pb.CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = "POST", "/v1/chat/completions"
    http.headers.update(plain or {})
    for name, value in pairs:
        pair = http.header_map.headers.add()
        pair.key = name
        if raw:
            pair.raw_value = value
        else:
            pair.value = value.decode()
    return bytes(message.SerializeToString())


@pytest.mark.parametrize("raw", [False, True], ids=["value", "raw value"])
async def test_headers_and_the_header_map_mean_the_same(raw: bool) -> None:
    fields = {"authorization": "Bearer a", "x-api-key": "b", "api-key": "c", "x-goog-api-key": "d", "x-tenant-id": "e"}
    plain = decoded(_pb.CheckRequest.FromString(with_headers([], raw=raw, plain=fields)))
    pairs = [(name.title() if raw else name, value.encode()) for name, value in fields.items()]
    assert decoded(_pb.CheckRequest.FromString(with_headers(pairs, raw=raw))) == plain
    assert plain[3:8] == ("b", "Bearer a", "c", "d", "e")


@pytest.mark.parametrize("name", ["x-api-key", "authorization", "x-tenant-id"])
async def test_a_header_twice_is_refused_in_the_header_map(system: Deciding, name: str) -> None:
    key = await system.acme()
    values = {"x-api-key": key.text, "authorization": f"Bearer {key.text}", "x-tenant-id": "acme"}
    pairs = [(each, value.encode()) for each, value in values.items()]
    loop = asyncio.get_running_loop()
    assert Answer(await system.core.check(with_headers(pairs, raw=True), loop.time() + 1)).is_allow
    twice = [*pairs, (name, values[name].encode())]
    assert not Answer(await system.core.check(with_headers(twice, raw=True), loop.time() + 1)).is_allow


async def test_the_plain_headers_win_over_a_header_map_beside_them(system: Deciding) -> None:
    """Envoy fills one of the two. With both, a key in the map is not taken for one in the headers."""
    key = await system.acme()
    message = with_headers([("x-api-key", key.text.encode())], raw=True, plain={"user-agent": "x"})
    answer = Answer(await system.core.check(message, asyncio.get_running_loop().time() + 1))
    assert (answer.status, answer.refused_by) == (401, "key_missing")


@pytest.mark.parametrize("value", [b"\xff" * 67, b"KEY\xc3\xbc", b"KEY\0", b"\xe2\x80\x8bKEY", b"KEY ", b"KEY\n"])
async def test_a_raw_value_that_is_not_the_key_byte_for_byte_is_refused(system: Deciding, value: bytes) -> None:
    key = await system.acme()
    for name in ("x-api-key", "authorization"):
        sent = value.replace(b"KEY", key.text.encode())
        pairs = [(name, b"Bearer " + sent if name == "authorization" else sent)]
        answer = Answer(await system.core.check(with_headers(pairs, raw=True), asyncio.get_running_loop().time() + 1))
        assert (answer.status, answer.refused_by) == (401, "key_malformed")


async def test_a_request_as_large_as_a_message_may_be_is_answered(system: Deciding) -> None:
    key = await system.acme()
    for size in (1_000, 200_000):
        headers = {"x-api-key": key.text, **{f"x-{number}": "v" * 1_000 for number in range(size // 1_000)}}
        assert (await system.check(headers=headers)).is_allow
        answer = await system.check(headers={"x-api-key": "k" * size})
        assert (answer.status, answer.refused_by) == (401, "key_malformed")


@pytest.mark.parametrize(
    ("llm", "model", "ambiguous"),
    [
        ({}, None, False),
        ({"model": "gpt-4o"}, "gpt-4o", False),
        ({"model": ""}, "", False),
        ({"model": 7.0}, "", False),
        ({"model": True}, "", False),
        ({"model": None}, "", False),
        ({"model": ["gpt-4o"]}, "", False),
        ({"model": {"name": "gpt-4o"}}, "", False),
        ({"model": "gpt-4o", "problem": "error"}, "", False),
        ({"model": "gpt-4o", "problem": "missing"}, "", False),
        ({"problem": "error"}, "", False),
        ({"problem": 1.0}, "", False),
        ({"problem": "missing"}, None, False),
        ({"model": "gpt-4o", "other_spelling": None}, "gpt-4o", True),
        ({"other_spelling": "gpt-4o"}, None, True),
    ],
)
def test_only_one_string_without_a_problem_is_a_model(llm: dict[str, Any], model: str | None, ambiguous: bool) -> None:
    request = decoded(_pb.CheckRequest.FromString(check_request(llm=llm)))
    assert (request.model, request.model_is_ambiguous) == (model, ambiguous)


def test_an_absent_field_is_empty() -> None:
    request = decoded(_pb.CheckRequest())
    assert [value for value in request if value] == []


@pytest.mark.parametrize(("value", "takes"), [("v1", True), ("v2", False), ("", False), ("V1", False), (None, False)])
def test_only_an_envoy_that_says_so_takes_chains(value: str | None, takes: bool) -> None:
    message = _pb.CheckRequest()
    if value is not None:
        message.attributes.context_extensions["extauthz.chain"] = value
    assert decoded(message).takes_chain == takes


async def test_a_refusal_is_logged_once_with_its_reason_and_without_the_key(
    system: Deciding, caplog: pytest.LogCaptureFixture
) -> None:
    key = await system.acme(expires_at_ms=1)
    with caplog.at_level("INFO", "extauthz.check"):
        await system.check(key.text, request_id="the-id")
    [record] = caplog.records
    logged = vars(record)
    assert (logged["code"], logged["status"], logged["route"], logged["request_id"]) == ("key_expired", 401, "chat", "the-id")
    assert key.text not in str(logged)


async def test_what_was_made_of_a_passage_is_not_used_for_another_policy(system: Deciding) -> None:
    """The fixed part of an answer goes with its passage: after a reload with another header the next answer has that one."""
    key = await system.acme()
    assert set((await system.check(key.text)).request_headers) == {"authorization"}
    policy = system.core.checker.policy
    assert policy is not None
    openai = dataclasses.replace(policy.gateway.providers["openai"], credential_header="x-other", credential_format="Key {}")
    system.core.install(dataclasses.replace(policy.gateway, providers={**policy.gateway.providers, "openai": openai}))
    assert (await system.check(key.text)).request_headers == {"x-other": "Key credential-of-acme-for-openai"}
