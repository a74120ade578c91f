"""A server that may forget counters is refused at start, in words that say what to set."""

import pytest
import redis

from extauthz.errors import BadConfig
from extauthz.redisio.topology import ServerFacts, check_server
from tests.redisio.conftest import Connect, Serve


async def test_facts_are_the_servers_own(each_redis_url: str, connect: Connect) -> None:
    with redis.Redis.from_url(each_redis_url, decode_responses=True) as client:
        info = client.info()
    facts = await check_server(await connect(each_redis_url, timeout_s=1.0))
    major, minor, patch = map(int, info.get("valkey_version", info["redis_version"]).split("."))
    assert facts == ServerFacts(
        product="valkey" if "valkey_version" in info else "redis",
        version=(major, minor, patch),
        run_id=info["run_id"],
        replication_id=info["master_replid"],
        role="master",
        mode="standalone",
        maxmemory_policy="noeviction",
        is_append_only=False,
    )
    assert len(facts.run_id) == 40
    assert len(facts.replication_id) == 40


@pytest.mark.parametrize("policy", ["volatile-ttl", "allkeys-lru", "volatile-lfu"])
@pytest.mark.parametrize("is_config_denied", [False, True])
async def test_server_that_evicts_is_refused(serve: Serve, connect: Connect, policy: str, is_config_denied: bool) -> None:
    acl = ("user default on nopass ~* +@all -config",) if is_config_denied else ()
    connection = await connect(serve(options=(f"maxmemory-policy {policy}", *acl)).url)
    with pytest.raises(BadConfig, match=f"maxmemory-policy is {policy}.*CONFIG SET maxmemory-policy noeviction"):
        await check_server(connection)


async def test_denied_config_and_append_only_file_are_no_obstacle(serve: Serve, connect: Connect) -> None:
    server = serve(options=("user default on nopass ~* +@all -config", "appendonly yes"))
    facts = await check_server(await connect(server.url))
    assert (facts.maxmemory_policy, facts.is_append_only) == ("noeviction", True)


class Answers:
    """A server of words: what managed services leave out of INFO cannot be had from a real one."""

    def __init__(self, info: str) -> None:
        self._info = info

    async def execute(self, *args: bytes | str | int, deadline: float | None = None) -> object:
        return self._info.encode() if args == ("INFO",) else None


@pytest.mark.parametrize(
    ("info", "problems"),
    [
        ("redis_version:6.0.16\r\nmaxmemory_policy:noeviction\r\n", ["redis 6.0.16"]),
        ("redis_version:7.2.4\r\n", ["cannot be read"]),
        ("# Server\r\n", ["redis 0.0.0", "cannot be read"]),
        ("redis_version:5.0\r\nmaxmemory_policy:allkeys-random\r\n", ["redis 5.0.0", "is allkeys-random"]),
        ("redis_version:7.2.4\r\nvalkey_version:8.1.0-rc1\r\nmaxmemory_policy:noeviction\r\n", []),
    ],
)
async def test_every_problem_is_named_at_once(info: str, problems: list[str]) -> None:
    if not problems:
        assert (await check_server(Answers(info))).version == (8, 1, 0)
        return
    with pytest.raises(BadConfig) as caught:
        await check_server(Answers(info), "SOURCE")
    assert len(problems) == len(caught.value.problems)
    assert all(part in problem.what for part, problem in zip(problems, caught.value.problems, strict=True))
