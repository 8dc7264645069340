"""The filesystem store's threads: so many calls at a time, so many waiting, one of a name at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from uploadcore.errors import StoreOverloadedError, StoreUnavailableError
from uploadcore_filesystem.threads import DiskThreads

PATIENCE = 30


class Disk:
    """Work that stands still until the disk moves again."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.moves = threading.Event()
        self.done: list[str] = []

    def work(self, name: str) -> None:
        self.begun.release()
        assert self.moves.wait(PATIENCE)
        self.done.append(name)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def threads(disk: Disk) -> AsyncIterator[DiskThreads]:
    threads = DiskThreads(threads=2, waiting=1)
    yield threads
    disk.moves.set()
    await asyncio.to_thread(threads.close)


async def filled(threads: DiskThreads, disk: Disk) -> list[asyncio.Task[None]]:
    """As many calls as there is room for: two at work, and one that waits."""
    calls = [asyncio.create_task(threads.run(disk.work, name)) for name in ("a", "b", "c")]
    for _ in range(2):
        await disk.has_begun()
    return calls


async def test_who_comes_when_as_many_wait_as_may_is_told_so_and_nothing_is_done(
    threads: DiskThreads, disk: Disk
) -> None:
    calls = await filled(threads, disk)

    for call in (threads.run(disk.work, "d"), threads.in_turn("x", disk.work, "d")):
        with pytest.raises(StoreOverloadedError, match="wait for the disk"):
            await call

    disk.moves.set()
    await asyncio.gather(*calls)
    await threads.run(disk.work, "e")
    assert sorted(disk.done) == ["a", "b", "c", "e"]


async def test_a_caller_that_goes_away_leaves_its_place_when_the_thread_does(threads: DiskThreads, disk: Disk) -> None:
    calls = await filled(threads, disk)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    waiting = asyncio.create_task(threads.run(disk.work, "d"))  # the one that had not begun was taken back
    await asyncio.sleep(0)
    with pytest.raises(StoreOverloadedError):
        await threads.run(disk.work, "e")

    disk.moves.set()
    await waiting
    await asyncio.to_thread(threads.close)  # those whose callers went away end too
    assert sorted(disk.done) == ["a", "b", "d"]


async def test_one_of_a_name_at_a_time_and_who_waits_for_that_holds_a_place_but_no_thread(
    threads: DiskThreads, disk: Disk
) -> None:
    first, second = [asyncio.create_task(threads.in_turn("x", disk.work, name)) for name in ("a", "b")]
    await disk.has_begun()
    other = asyncio.create_task(threads.run(disk.work, "c"))
    await disk.has_begun()
    with pytest.raises(StoreOverloadedError):
        await threads.run(disk.work, "d")

    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    third = asyncio.create_task(threads.in_turn("x", disk.work, "e"))
    disk.moves.set()
    await asyncio.gather(first, other, third)

    assert sorted(disk.done) == ["a", "c", "e"]
    assert disk.done.index("a") < disk.done.index("e")


async def test_a_turn_passes_on_when_its_work_fails(threads: DiskThreads, disk: Disk) -> None:
    def fail() -> None:
        raise OSError("broken")

    disk.moves.set()
    for _ in range(3):
        with pytest.raises(OSError, match="broken"):
            await threads.in_turn("x", fail)
    await threads.in_turn("x", disk.work, "a")
    assert disk.done == ["a"]


async def test_once_closed_nothing_is_begun_and_that_is_said(threads: DiskThreads, disk: Disk) -> None:
    await asyncio.to_thread(threads.close)
    for _ in range(4):
        with pytest.raises(StoreUnavailableError, match="closed"):
            await threads.run(disk.work, "a")
        with pytest.raises(StoreUnavailableError, match="closed"):
            await threads.in_turn("x", disk.work, "a")
    assert disk.done == []


async def test_closing_waits_for_what_was_begun_and_begins_nothing_that_waited(disk: Disk) -> None:
    threads = DiskThreads(threads=1, waiting=4)
    begun = asyncio.create_task(threads.in_turn("x", disk.work, "a"))
    await disk.has_begun()
    for_its_turn = [asyncio.create_task(threads.in_turn("x", disk.work, name)) for name in ("b", "c")]
    for_a_thread = [asyncio.create_task(threads.run(disk.work, name)) for name in ("d", "e")]
    await asyncio.sleep(0)

    closing = asyncio.create_task(asyncio.to_thread(threads.close))
    async with asyncio.timeout(PATIENCE):
        while not threads._is_closed:  # noqa: ASYNC110 - it is another thread that closes
            await asyncio.sleep(0.001)
    assert not closing.done()
    disk.moves.set()
    await asyncio.gather(begun, closing)

    for call in (*for_its_turn, *for_a_thread):
        with pytest.raises(StoreUnavailableError, match="the store was closed"):
            await call
    assert disk.done == ["a"]
