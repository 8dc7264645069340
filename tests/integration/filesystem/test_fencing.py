"""One writer per part, and none after the upload was sealed: not even one that was asleep meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.integration.filesystem.serving import Served, files_below, stored_sizes, until
from uploadcore.errors import NoSuchMultipartError
from uploadcore.upload import Address

OLD, NEW = b"o" * 4096, b"n" * 4096
SIZE = 3 * 1024 * 1024
"""Enough that some of it is on disk before the rest has been sent."""


class StalledDisk:
    """`os.pwritev` that falls asleep on some bytes, inside the call, until it is woken; then it writes them."""

    def __init__(self) -> None:
        self._write: Callable[[int, Sequence[bytes], int], int] = os.pwritev
        self._first: bytes | None = None
        self.is_asleep = threading.Event()
        self._wake = threading.Event()

    def stall(self, first: bytes) -> None:
        """Sleep on the next write that begins with these bytes."""
        self._first = first

    def wake(self) -> None:
        self._wake.set()

    def pwritev(self, descriptor: int, chunks: Sequence[bytes], offset: int) -> int:
        if self._first is not None and bytes(chunks[0][: len(self._first)]) == self._first:
            self._first = None
            self.is_asleep.set()
            assert self._wake.wait(20)
        return self._write(descriptor, chunks, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[StalledDisk]:
    disk = StalledDisk()
    monkeypatch.setattr(os, "pwritev", disk.pwritev)
    yield disk
    disk.wake()


# --- a second PUT of the same part ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [True, False], ids=["at its offset", "in a file of its own"])
async def test_a_newer_put_cuts_an_older_one_that_waits_for_its_body(served: Served, bound: bool) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, SIZE if bound else None)
    older = await served.connect(signed, length=SIZE)
    await older.send(b"o" * (SIZE - 1000))
    await until(lambda: _has_written(served, b"o"))

    newer = await served.send(signed, b"n" * SIZE)

    assert newer.status_code == 200
    assert await older.status() == 409
    await older.send(b"o" * 1000)
    assert b"OperationAborted" in await older.error()
    await served.complete(address)
    assert await served.content() == b"n" * SIZE
    assert len(files_below(served.root)) == 2, "a record and its data"


async def test_a_write_that_sleeps_in_the_system_ends_before_a_newer_put_writes(
    served: Served, disk: StalledDisk
) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 4096)
    disk.stall(b"o")
    older = asyncio.create_task(served.send(signed, OLD))
    await until(disk.is_asleep.is_set)
    newer = asyncio.create_task(served.send(signed, NEW))
    await until(lambda: _is_cut(served))

    assert not await _ends_soon(newer), "it may not write while the older still can"
    disk.wake()

    assert (await newer).status_code == 200
    assert (await older).status_code == 409
    await served.complete(address)
    assert await served.content() == NEW


async def test_of_many_puts_of_one_part_the_last_to_begin_is_the_one_that_counts(
    served: Served, disk: StalledDisk
) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 4096)
    disk.stall(b"o")
    first = asyncio.create_task(served.send(signed, OLD))
    await until(disk.is_asleep.is_set)
    second = await served.connect(signed, length=4096)
    await until(lambda: _is_cut(served))
    third = await served.connect(signed, length=4096)
    await until(lambda: sum(writer.is_cut for writer in served.writers) == 2)
    await second.send(b"2" * 4096)
    await third.send(NEW)
    disk.wake()

    assert await third.status() == 200
    assert await second.status() == 409
    assert (await first).status_code == 409
    await served.complete(address)
    assert await served.content() == NEW


async def test_a_part_stays_listed_until_a_newer_put_has_a_byte_to_write(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, OLD)
    before = await served.store.list_parts(address)
    connection = await served.connect(await served.sign(address, 1, 4096), length=4096)
    await until(lambda: served.admitted == 1)

    await connection.close()

    await until(lambda: not served.writers)
    assert await served.store.list_parts(address) == before


async def test_a_part_is_unlisted_on_disk_before_its_bytes_are_overwritten(served: Served, disk: StalledDisk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, OLD)
    disk.stall(b"n")
    newer = asyncio.create_task(served.send(await served.sign(address, 1, 4096), NEW))
    await until(disk.is_asleep.is_set)

    assert await served.store.list_parts(address) == []
    assert _records(served, address) == []
    disk.wake()
    assert (await newer).status_code == 200
    assert len(_records(served, address)) == 1


# --- completion -------------------------------------------------------------------------------------------------------


async def test_a_put_that_wakes_after_completion_changes_no_byte(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, NEW)
    same_part = await served.connect(await served.sign(address, 1, 4096), length=4096)
    other_part = await served.connect(await served.sign(address, 2, SIZE, offset=4096), length=SIZE)
    await other_part.send(b"o" * (SIZE - 1000))
    await until(lambda: _has_written(served, b"o") and served.admitted == 2)

    listed = await served.store.list_parts(address)
    await served.store.complete_multipart(address, listed, size=4096, checksum=None)
    await same_part.send(OLD)
    await other_part.send(b"o" * 1000)

    assert await same_part.status() == 409
    assert await other_part.status() == 409
    assert await served.content() == NEW
    await until(lambda: not served.writers)
    assert len(files_below(served.root)) == 2, "a record and its data"


async def test_completion_waits_for_a_write_that_sleeps_in_the_system(served: Served, disk: StalledDisk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, NEW)
    listed = await served.store.list_parts(address)
    disk.stall(b"o")
    late = asyncio.create_task(served.send(await served.sign(address, 2, 4096, offset=4096), OLD))
    await until(disk.is_asleep.is_set)
    completing = asyncio.create_task(served.store.complete_multipart(address, listed, size=4096, checksum=None))
    await until(lambda: _is_cut(served))

    assert not await _ends_soon(completing), "the writer still can write into what is to be the object"
    assert await served.store.head(address) is None
    disk.wake()

    await completing
    assert (await late).status_code == 409
    assert await served.content() == NEW


async def test_a_sealed_upload_takes_no_part_and_still_lists(served: Served, disk: StalledDisk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, NEW)
    listed = await served.store.list_parts(address)
    disk.stall(b"o")
    late = asyncio.create_task(served.send(await served.sign(address, 2, 4096, offset=4096), OLD))
    await until(disk.is_asleep.is_set)
    completing = asyncio.create_task(served.store.complete_multipart(address, listed, size=4096, checksum=None))
    await until(lambda: _is_cut(served))

    refused = await served.send(await served.sign(address, 3, 1, offset=8192), b"3")

    assert (refused.status_code, "being completed" in refused.text) == (409, True)
    assert await served.store.list_parts(address) == listed
    disk.wake()
    await asyncio.gather(completing, late)


async def test_a_rejected_completion_lets_parts_in_again(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, OLD)
    stale = await served.store.list_parts(address)
    await served.put_part(address, 1, NEW)
    with pytest.raises(Exception, match="part 1 is not here as named"):
        await served.store.complete_multipart(address, stale, size=4096, checksum=None)

    await served.put_part(address, 2, b"more", offset=4096)

    await served.complete(address)
    assert await served.content() == NEW + b"more"


# --- abort ------------------------------------------------------------------------------------------------------------


async def test_abort_cuts_who_writes_and_removes_everything(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, NEW)
    await served.put_part(address, 3, NEW, offset=None)
    writing = await served.connect(await served.sign(address, 2, 4096, offset=4096), length=4096)
    await writing.send(OLD[:100])
    own_file = await served.connect(await served.sign(address, 4, None), length=4096)
    await own_file.send(OLD[:100])
    await until(lambda: served.admitted == 2)

    await served.store.abort_multipart(address)

    assert await writing.status() == 409
    assert await own_file.status() == 409
    await until(lambda: not served.writers)
    assert files_below(served.root) == set()
    with pytest.raises(NoSuchMultipartError):
        await served.store.list_parts(address)


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_closing_cuts_who_writes(served: Served) -> None:
    address = await served.begin()
    part = await served.connect(await served.sign(address, 1, 4096), length=4096)
    await part.send(OLD[:100])
    whole = await served.connect(await served.sign_put("up/b", 4096), length=4096)
    await whole.send(OLD[:100])
    await until(lambda: len(served.writers) == 2)

    await served.store.close()

    assert await part.status() == 409
    assert await whole.status() == 409
    await served.store.open()
    assert stored_sizes(await served.store.list_parts(address)) == []


async def _ends_soon(task: asyncio.Task[Any]) -> bool:
    """If it does, given every chance: a request to this store takes a few milliseconds."""
    done, _ = await asyncio.wait({task}, timeout=0.3)
    return bool(done)


def _has_written(served: Served, byte: bytes) -> bool:
    """If a block of these has got to the disk."""
    block = byte * 1000
    return any(block in path.read_bytes() for path in (served.root / "multiparts").rglob("*") if path.is_file())


async def test_closing_waits_for_a_write_that_sleeps_and_lets_nobody_in_meanwhile(
    served: Served, disk: StalledDisk
) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 4096)
    disk.stall(b"o")
    asleep = asyncio.create_task(served.send(signed, OLD))
    await until(disk.is_asleep.is_set)
    waiting = asyncio.create_task(served.send(signed, NEW))
    await until(lambda: _is_cut(served))
    closing = asyncio.create_task(served.store.close())
    await until(lambda: all(writer.is_cut for writer in served.writers))

    late = await served.send(await served.sign(address, 2, 1, offset=4096), b"2")

    assert late.status_code == 503
    assert not await _ends_soon(closing), "the folder may not be let go of while somebody writes to it"
    disk.wake()
    await closing
    assert [(await request).status_code for request in (asleep, waiting)] == [409, 409]
    await served.store.open()
    assert await served.store.list_parts(address) == []


def _is_cut(served: Served) -> bool:
    return any(writer.is_cut for writer in served.writers)


def _records(served: Served, address: Address) -> list[str]:
    return os.listdir(served.root / "multiparts" / (address.storage_upload_id or "") / "parts")
