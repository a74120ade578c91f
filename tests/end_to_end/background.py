"""Providers that answer while a test waits."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from demo.provider import Provider

T = TypeVar("T")


class Background:
    """An event loop in a thread: providers answer while a test waits."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._providers: list[Provider] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def provider(self, name: str, **options: Any) -> Provider:
        provider = Provider(name)
        self.run(provider.start(**options))
        self._providers.append(provider)
        return provider

    def stop(self) -> None:
        for provider in self._providers:
            self.run(provider.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
