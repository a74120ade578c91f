"""A script's name is Redis' own name for it."""

import redis

from extauthz.redisio.script import Script


def test_script_has_the_name_that_redis_gives_it(redis_url: str) -> None:
    script = Script("sum", "return 1 + #ARGV -- ä")
    with redis.Redis.from_url(redis_url) as client:
        assert client.script_load(script.source) == script.sha
