"""The whole decision of one worker in this process, on a real Redis: everything but the listening socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from extauthz.cli.wiring import Core
from extauthz.gateway.model import Gateway
from extauthz.secret import Secret
from extauthz.settings import RecordSettings, ServingSettings
from tests.harness.gateways import gateway as a_gateway
from tests.harness.messages import Answer, check_request
from tests.harness.record import MadeKey, Record, master_key_file, opened_record


class Deciding:
    """A core, and the record it decides on."""

    def __init__(self, core: Core, record: Record) -> None:
        self.core = core
        self.record = record

    async def check(self, key: str = "", **fields: Any) -> Answer:
        """One Check, with half a second until its deadline."""
        deadline = asyncio.get_running_loop().time() + 0.5
        return Answer(await self.core.check(check_request(key, **fields), deadline))

    async def acme(self, plan: str = "none", scopes: tuple[str, ...] = ("chat", "strict", "internal"), **fields: object) -> MadeKey:
        """A tenant with a credential for every provider, and a key of it."""
        await self.record.tenant("acme", plan)
        for provider in ("openai", "backup", "anthropic", "gemini"):
            await self.record.secret("acme", provider, f"credential-of-acme-for-{provider}")
        return await self.record.key("acme", scopes, **fields)


def serving_settings(redis_url: str, folder: Path) -> ServingSettings:
    return ServingSettings(
        record=RecordSettings(Secret(redis_url.encode()), 250, "test"),
        master_key_file=master_key_file(folder),
        log_level="info",
        traces_endpoint="",
        has_tenant_label=False,
        document_cache_max=1000,
        credential_cache_s=300,
        drain_s=5,
    )


@asynccontextmanager
async def deciding(redis_url: str, folder: Path, gateway: Gateway | None = None) -> AsyncIterator[Deciding]:
    """Decide by this gateway until the end of the block."""
    async with opened_record(redis_url, folder) as record:
        core = Core(serving_settings(redis_url, folder))
        await core.start()
        core.install(gateway or a_gateway())
        try:
            yield Deciding(core, record)
        finally:
            await core.close()
