"""The admission script, joined from its fragments. Its text, and so its name in Redis, follows from the files alone."""

from importlib.resources import files
from typing import Final

from extauthz.limits import algorithms
from extauthz.redisio.script import Script

_CLOCK_MARK: Final = "--@clock\n"


def joined(clock: str | None = None) -> str:
    """The whole source.

    Args:
        clock: takes the place of lua/clock.lua, in a simulation: Lua that defines `now`, in unix ms.

    Raises ValueError when admit.lua does not read the clock in exactly one place.
    """
    admit = _lua("admit")
    if admit.count(_CLOCK_MARK) != 1:
        raise ValueError("admit.lua has one line --@clock")
    return _lua("names") + algorithms.fragments() + admit.replace(_CLOCK_MARK, clock or _lua("clock"))


def _lua(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


#: What is given to the connection, which loads it.
ADMIT: Final = Script("admit", joined())
