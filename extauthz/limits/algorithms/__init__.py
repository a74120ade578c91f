"""Each way of counting: a Lua fragment that runs inside Redis, and beside it the same definition in Python, slow and obvious."""

from importlib.resources import files
from typing import Final

#: The names of the gateway file and their codes in a rule's record: position in the script's table, from 1. Never renumber.
CODES: Final = {"fixed": 1, "sliding": 2}


def fragments() -> str:
    """The Lua of all algorithms and the table that the admission script calls them by."""
    folder = files(__package__)
    names = sorted(CODES, key=CODES.__getitem__)
    sources = [folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names]
    return "".join(sources) + f"local algorithms = {{{', '.join(names)}}}\n"
