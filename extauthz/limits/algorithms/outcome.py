"""What every definition of an algorithm answers."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """One rule's answer, with nothing counted yet.

    Attributes:
        fits: whether the cost fits now.
        remaining: how much fits after this request, when it fits; how much fits now, when it does not; may be negative when the
            limit was lowered.
        reset_ms: until nothing that was counted weighs any more, if nothing follows.
        retry_ms: 0 when it fits; else the smallest wait after which it fits, if nothing follows; None when it never will.
        counted: the state after counting this request.
        uncounted: the state without it, moved to where the clock is.
    """

    fits: bool
    remaining: int
    reset_ms: int
    retry_ms: int | None
    counted: tuple[int, ...]
    uncounted: tuple[int, ...]
