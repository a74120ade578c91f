"""A reload: each content once, a bad one as its problems, whichever way the file is replaced."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from extauthz.errors import BadConfig
from extauthz.gateway.load import load
from extauthz.gateway.model import Gateway
from extauthz.gateway.watch import POLL_MS, watch
from tests.gateway.configs import GOOD

FREE = GOOD
GOLD = GOOD.replace("free", "gold")
#: What is seen within this was reported by the system, not found by the poll.
BEFORE_POLL_S = POLL_MS / 1_000 * 0.75
BROKEN = GOOD.replace("default_plan: free", "default_plan: none-such")


class Watched:
    """What `watch` yielded, shortened to the default plan or the number of problems."""

    def __init__(self, changes: AsyncIterator[Gateway | BadConfig]) -> None:
        self._changes = changes

    async def next(self, timeout_s: float = 8) -> str | int:
        async with asyncio.timeout(timeout_s):
            change = await anext(self._changes)
        return len(change.problems) if isinstance(change, BadConfig) else change.default_plan


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Watched]:
    """A watch that has begun: its first look has found FREE where the caller had nothing."""
    async with aclosing(watch(path, known=None)) as changes:
        watching = Watched(changes)
        assert await watching.next() == "free"
        yield watching


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _rename_over(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def _delete_and_write(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("replace", [_write, _rename_over, _delete_and_write])
async def test_new_content_is_yielded_however_it_is_written(tmp_path: Path, replace: Callable[[Path, str], None]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FREE)
    async with watched(path) as changes:
        replace(path, GOLD)
        assert await changes.next(BEFORE_POLL_S) == "gold"
        replace(path, FREE)
        assert await changes.next(BEFORE_POLL_S) == "free"


async def test_bad_content_is_yielded_as_its_problems_and_the_next_good_one_follows(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FREE)
    async with watched(path) as changes:
        path.write_text(BROKEN)
        assert await changes.next() == 1
        path.unlink()
        assert await changes.next() == 1
        path.write_text(FREE)
        assert await changes.next() == "free"


async def test_symlink_that_a_config_map_swaps_is_followed(tmp_path: Path) -> None:
    # kubelet: gateway.yaml -> ..data/gateway.yaml, ..data -> ..1; a new folder ..2, then ..data is renamed over.
    for number, text in (("..1", FREE), ("..2", GOLD)):
        (tmp_path / number).mkdir()
        (tmp_path / number / "gateway.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "gateway.yaml"
    path.symlink_to("..data/gateway.yaml")
    async with watched(path) as changes:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        assert await changes.next(BEFORE_POLL_S) == "gold"


async def test_file_behind_a_link_into_another_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "seen").mkdir()
    real = tmp_path / "real" / "gateway.yaml"
    real.write_text(FREE)
    (tmp_path / "seen" / "gateway.yaml").symlink_to(real)
    async with watched(tmp_path / "seen" / "gateway.yaml") as changes:
        real.write_text(GOLD)
        assert await changes.next() == "gold"


async def test_change_between_load_and_watch_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FREE)
    digest = load(path).digest
    path.write_text(GOLD)
    async with aclosing(watch(path, digest)) as changes:
        assert await Watched(changes).next(BEFORE_POLL_S) == "gold"


async def test_bad_file_that_is_mended_between_load_and_watch_is_found(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(BROKEN)
    with pytest.raises(BadConfig) as caught:
        load(path)
    path.write_text(GOLD)
    async with aclosing(watch(path, caught.value)) as changes:
        assert await Watched(changes).next(BEFORE_POLL_S) == "gold"


async def test_what_load_said_is_not_said_again(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(BROKEN)
    with pytest.raises(BadConfig) as caught:
        load(path)
    async with aclosing(watch(path, caught.value)) as changes:
        following = asyncio.ensure_future(Watched(changes).next())
        await asyncio.wait({following}, timeout=0.3)
        path.write_text(GOLD)
        assert await following == "gold"


async def test_folder_that_appears_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "later" / "gateway.yaml"
    with pytest.raises(BadConfig) as caught:
        load(path)
    async with aclosing(watch(path, caught.value)) as changes:
        first = asyncio.ensure_future(anext(changes))
        await asyncio.wait({first}, timeout=0.1)
        path.parent.mkdir()
        _rename_over(path, GOLD)
        gateway = await asyncio.wait_for(first, 8)
    assert isinstance(gateway, Gateway)


async def test_same_content_is_yielded_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FREE)
    async with watched(path) as changes:
        following = asyncio.ensure_future(changes.next())
        for _ in range(3):
            _rename_over(path, FREE)
            (tmp_path / "neighbour").write_text("x")
            await asyncio.wait({following}, timeout=0.25)
        assert not following.done()
        path.write_text(GOLD)
        assert await following == "gold"


async def test_cancelled_watch_ends(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FREE)
    async with watched(path) as changes:
        following = asyncio.ensure_future(changes.next())
        await asyncio.wait({following}, timeout=0.2)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(following, 2)
    # No thread waits on for a change that nobody wants to hear of: a worker ends at once.
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), BEFORE_POLL_S)
