"""A record on a real Redis."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from extauthz.credentials.keyring import Keyring, LocalKek
from extauthz.record.server import Server
from extauthz.secret import Secret
from tests.record.records import server_at


@pytest_asyncio.fixture
async def server(redis_url: str) -> AsyncIterator[Server]:
    async with server_at(redis_url) as one:
        yield one


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([LocalKek(Secret(bytes(range(32))))])
