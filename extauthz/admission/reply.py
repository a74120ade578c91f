"""What the admission script answers: a list whose first number says which of these it is. lua/admit.lua is the other side.

    [ADMITTED, rule, remaining, reset_ms]          counted under every rule
    [DENIED, rule, remaining, reset_ms, retry_ms]  counted nowhere
    [STALE]                                        counted nowhere; an epoch is missing or another: read the documents again
    [BREAKER_OPEN, retry_ms]                       counted nowhere; this tenant's breaker for this provider is open

`rule` is the position in `Prepared.rules`. Of an admission it is the one with the least remaining (of two, the one with the longer
reset), -1 without rules; of a denial the one with the longest wait. `retry_ms` is exact: a request with the same rules fits after
it and not before, if none comes between; NEVER when its cost is more than a limit.
"""

from typing import Final

ADMITTED: Final = 0
DENIED: Final = 1
STALE: Final = 2
BREAKER_OPEN: Final = 3

NEVER: Final = -1
