"""The sliding window, defined in integers. sliding.lua is what runs; the tests hold it against this."""

from extauthz.limits.algorithms.outcome import Outcome

State = tuple[int, int, int]

#: A weight is in parts of this, rounded up: 2^31 requests times 2^16, and 2^35 ms times 2^16, stay under 2^53.
PARTS = 65_536


def outcome(state: State | None, now_ms: int, limit: int, window_ms: int, cost: int) -> Outcome:
    """Two neighbouring buckets of one window each; the older one counts for the part that a window ending now still covers.

    Let (start, before, used) be the state. At `now`:

        none, or now >= start + 2 window   start = now, before = used = 0
        now >= start + window              start = start + window, before = used, used = 0
        now < start                        start = now, the rest stays: the clock stepped back, `before` weighs in full again
        otherwise                          all stay

    With left = start + window - now, 1 to window, the older bucket weighs

        ceil(before * ceil(left * PARTS / window) / PARTS)

    never less than its exact part, before * left / window. The request fits when used + weight + cost <= limit; then used grows
    by cost. So within a bucket never more than the limit is counted; the real count of a stretch of one window that begins inside
    the older bucket can differ from its weight, as far as its requests were not spread evenly.
    """
    start, before, used = _at(state, now_ms, window_ms)
    left = start + window_ms - now_ms
    weight = _weight(before, left, window_ms)
    fits = used + weight + cost <= limit
    return Outcome(
        fits=fits,
        remaining=limit - used - weight - (cost if fits else 0),
        reset_ms=left + (window_ms if used + (cost if fits else 0) > 0 else 0),
        retry_ms=0 if fits else _wait(before, used, left, limit - cost, window_ms),
        counted=(start, before, used + cost),
        uncounted=(start, before, used),
    )


def _at(state: State | None, now_ms: int, window_ms: int) -> State:
    if state is None or now_ms >= state[0] + 2 * window_ms:
        return now_ms, 0, 0
    start, before, used = state
    if now_ms >= start + window_ms:
        return start + window_ms, used, 0
    return min(start, now_ms), before, used


def _weight(before: int, left_ms: int, window_ms: int) -> int:
    parts = -(-left_ms * PARTS // window_ms)
    return -(-before * parts // PARTS)


def _wait(before: int, used: int, left_ms: int, free: int, window_ms: int) -> int | None:
    """The first moment, by bisection over both buckets, at which what was counted weighs no more than `free`."""
    if free < 0:
        return None
    early, late = 0, left_ms + window_ms
    while late - early > 1:
        middle = (early + late) // 2
        ahead = left_ms - middle
        weighs = used + _weight(before, ahead, window_ms) if ahead > 0 else _weight(used, ahead + window_ms, window_ms)
        early, late = (early, middle) if weighs <= free else (middle, late)
    return late
