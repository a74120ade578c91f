"""Tenants over all partitions."""

import asyncio

from extauthz import keyspace
from extauthz.record.server import Server
from extauthz.record.tenants import create_tenant, list_tenants
from tests.record.records import server_at, tenant


async def test_tenants_of_every_partition_are_listed_by_id(redis_url: str, server: Server) -> None:
    """600: more than one batch, and some partition has several."""
    names = [f"tenant-{number:03d}" for number in range(600)]
    await create_tenant(server, tenant(names[0]))

    async def create(some: list[str]) -> None:
        async with server_at(redis_url) as own:
            for name in some:
                await create_tenant(own, tenant(name))

    await asyncio.gather(*(create(names[1 + number :: 4]) for number in range(4)))
    assert [document.tenant_id for document in await list_tenants(server)] == names
    assert len({keyspace.partition(name) for name in names}) > 200
