"""The floor: the same frames through the fast transport, one GET, a constant answer. What is above it is the price of the decision.

`python -m bench.floor LISTEN REDIS_URL ANSWER_FILE`
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from extauthz.redisio.connection import Connection
from extauthz.redisio.pipeline import pack
from extauthz.redisio.url import RedisUrl
from extauthz.transport.fast import FastServer
from extauthz.transport.seam import Services

METHOD = "/envoy.service.auth.v3.Authorization/Check"


async def _serve(listen: str, redis_url: str, answer: bytes) -> None:
    redis = Connection(RedisUrl.parse(redis_url))
    await redis.start()
    command = pack("GET", "floor")
    submit = redis.submit

    async def check(_message: bytes, deadline: float) -> bytes:
        await submit(command, deadline)
        return answer

    server = FastServer(Services(unary={METHOD: check}), on_bug=lambda _path, error: print(repr(error)))
    await server.start(listen)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
