"""The breaker's scripts, each joined from its files once."""

from importlib.resources import files
from typing import Final

from extauthz.redisio.script import Script


def _script(name: str, *fragments: str) -> Script:
    folder = files(__package__).joinpath("lua")
    sources = [folder.joinpath(f"{fragment}.lua").read_text(encoding="utf-8") for fragment in fragments]
    return Script(f"breaker {name}", "".join(sources))


OUTCOME: Final = _script("outcome", "state", "outcome")
ACQUIRE: Final = _script("acquire", "state", "acquire")
RELEASE: Final = _script("release", "release")
OPEN_BY_HAND: Final = _script("open", "open")

#: What the data plane's connection loads.
SCRIPTS: Final = (OUTCOME, ACQUIRE, RELEASE)
