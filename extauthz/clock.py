"""Time as a value that is passed in, so that a test can hold it still. Redis' own clock decides about counters, not this one."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that only goes forward, one that agrees with the calendar."""

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may step."""


class SystemClock:
    """The machine's clocks. `monotonic` is the clock asyncio and uvloop use for `loop.time()`."""

    def monotonic(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000
