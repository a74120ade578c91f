"""The fixed window, defined in integers. fixed.lua is what runs; the tests hold it against this."""

from extauthz.limits.algorithms.outcome import Outcome

State = tuple[int, int]


def outcome(state: State | None, now_ms: int, limit: int, window_ms: int, cost: int) -> Outcome:
    """A window opens with the first request that is counted, and ends `window_ms` later.

    Let (start, used) be the state. At `now`:

        none, or now >= start + window     start = now, used = 0
        now < start                        start = now, used stays: the clock stepped back, the window moves with it
        otherwise                          both stay

    The request fits when used + cost <= limit; then used grows by cost. So within [start, start + window) never more than the
    limit is counted, and within any stretch of that length never more than twice the limit.
    """
    start, used = now_ms, 0
    if state is not None and now_ms < state[0] + window_ms:
        start, used = min(state[0], now_ms), state[1]
    reset_ms = start + window_ms - now_ms
    fits = used + cost <= limit
    return Outcome(
        fits=fits,
        remaining=limit - used - (cost if fits else 0),
        reset_ms=reset_ms,
        retry_ms=0 if fits else (reset_ms if cost <= limit else None),
        counted=(start, used + cost),
        uncounted=(start, used),
    )
