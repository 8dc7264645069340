# ruff: noqa: ASYNC240 - a test may look at the disk, and start a process, while nothing else runs
"""Kills a store at every call that changes the disk, and looks at what is there afterwards.

    python -m tests.integration.filesystem.killed_store SCENARIO FOLDER

A scenario is prepared, then carried out by a child that kills itself (SIGKILL) before its k-th such call, for k = 1, 2, … until it comes to its end.
After each, what is left is opened and must be as the scenario says. Prints how many deaths there were.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from uploadcore.errors import NoSuchMultipartError
from uploadcore.plan import StoredPart
from uploadcore.ports import ObjectHeaders, StoredObject
from uploadcore.upload import Address
from uploadcore_filesystem import FilesystemObjectStore, PartGrant, PutGrant

CALLS = ("rename", "link", "unlink", "rmdir", "mkdir", "fsync", "fdatasync", "pwritev", "ftruncate", "copy_file_range")
KEY = "up/a"
HEADERS = ObjectHeaders("video/mp4", {"uploadcore-upload": "u1"})
WHOLE = b"a" * 70_000 + b"b" * 30_000
OLD = b"the object that was there before"


def die_before(deadly: int) -> None:
    """Let the k-th call of those that change the disk not happen, nor anything after it."""
    passed = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return calling

    import uploadcore_filesystem.disk

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    uploadcore_filesystem.disk._datasync = os.fdatasync


@dataclass
class Left:
    """What is in a store, all of it."""

    head: StoredObject | None
    content: bytes | None
    parts: list[StoredPart] | None
    files: set[str]


@dataclass
class Scenario:
    """Something done to a store."""

    prepare: Callable[[FilesystemObjectStore], Awaitable[Address]]
    act: Callable[[FilesystemObjectStore, Address], Awaitable[object]]
    finish: Callable[[FilesystemObjectStore, Address, Left, Left], Awaitable[None]]
    address: Address = field(default_factory=lambda: Address("files", KEY))


# --- steps ------------------------------------------------------------------------------------------------------------


def store_in(folder: Path) -> FilesystemObjectStore:
    return FilesystemObjectStore(folder, public_url="http://127.0.0.1:1", secret=bytes(32))


async def put_part(
    store: FilesystemObjectStore, address: Address, number: int, body: bytes, offset: int | None
) -> StoredPart:
    length = None if offset is None else len(body)
    grant = PartGrant(address.key, address.storage_upload_id or "", number, offset, length, None)
    return await store.receive_part(grant, _reading(body))


async def put_object(store: FilesystemObjectStore, body: bytes) -> None:
    await store.receive_object(PutGrant(KEY, len(body), None, HEADERS), _reading(body))


def _reading(body: bytes) -> Callable[[], Awaitable[bytes]]:
    blocks = [body[start : start + 20_000] for start in range(0, len(body), 20_000)]

    async def read() -> bytes:
        return blocks.pop(0) if blocks else b""

    return read


async def begin(store: FilesystemObjectStore) -> Address:
    return Address("files", KEY, await store.create_multipart(Address("files", KEY), HEADERS))


async def look(store: FilesystemObjectStore, address: Address, folder: Path) -> Left:
    head = await store.head(address)
    try:
        parts = await store.list_parts(address)
    except NoSuchMultipartError:
        parts = None
    content = (await store.find(KEY)).path.read_bytes() if head is not None else None
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return Left(head, content, parts, files - {"lock", "signing.key"})


# --- scenarios --------------------------------------------------------------------------------------------------------


def completing(offsets: tuple[int | None, ...], *, over: bool = False) -> Scenario:
    """Complete an upload of `WHOLE`, cut into as many parts; `over` an object that is there."""

    async def prepare(store: FilesystemObjectStore) -> Address:
        if over:
            await put_object(store, OLD)
        address = await begin(store)
        bodies = [WHOLE[:70_000], WHOLE[70_000:]] if len(offsets) == 2 else [WHOLE]
        for number, (body, offset) in enumerate(zip(bodies, offsets, strict=True), 1):
            await put_part(store, address, number, body, offset)
        await put_part(store, address, 9, b"a stray part", 100_000)
        await put_part(store, address, 10, b"another", None)
        return address

    async def act(store: FilesystemObjectStore, address: Address) -> None:
        named = [part for part in await store.list_parts(address) if part.part_number < 9]
        await store.complete_multipart(address, named, size=len(WHOLE), checksum=None)

    async def finish(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
        if left.parts is not None:
            assert (left.head, left.content, left.parts) == (before.head, before.content, before.parts)
            await act(store, address)
        else:
            assert left.content == WHOLE
            named = [part for part in before.parts or [] if part.part_number < 9]
            await store.complete_multipart(address, named, size=len(WHOLE), checksum=None)
        head = await store.head(address)
        assert head is not None
        assert (head.size, head.metadata) == (len(WHOLE), dict(HEADERS.metadata))
        assert (await store.find(KEY)).path.read_bytes() == WHOLE

    return Scenario(prepare, act, finish)


async def _prepare_parts(store: FilesystemObjectStore) -> Address:
    address = await begin(store)
    await put_part(store, address, 1, b"1" * 50_000, 0)
    await put_part(store, address, 2, b"2" * 50_000, None)
    return address


async def _unchanged_or_gone(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
    assert left.parts in (before.parts, None)
    assert left.head is None
    await store.abort_multipart(address)


def sending(number: int, offset: int | None) -> Scenario:
    """Send one of two parts again."""

    async def act(store: FilesystemObjectStore, address: Address) -> object:
        return await put_part(store, address, number, b"x" * 50_000, offset)

    async def finish(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
        assert left.parts is not None
        assert before.parts is not None
        others = [part for part in left.parts if part.part_number != number]
        assert others == [part for part in before.parts if part.part_number != number]
        for part in left.parts:
            if part.part_number == number:
                old = part in before.parts
                content = _content_of(store, address, part)
                assert content == (str(number).encode() if old else b"x") * 50_000
        await put_part(store, address, number, b"y" * 50_000, offset)
        listed = await store.list_parts(address)
        await store.complete_multipart(address, listed, size=100_000, checksum=None)
        expected = {1: b"1" * 50_000, 2: b"2" * 50_000} | {number: b"y" * 50_000}
        assert (await store.find(KEY)).path.read_bytes() == expected[1] + expected[2]

    return Scenario(_prepare_parts, act, finish)


def _content_of(store: FilesystemObjectStore, address: Address, part: StoredPart) -> bytes:
    with store._multiparts.use(address.storage_upload_id or "") as multipart:
        record = multipart._parts.get(part.part_number)
        assert record is not None
        own = record.offset is None
        path = multipart.folder / "chunks" / record.etag if own else multipart.folder / "data"
        return path.read_bytes()[record.offset or 0 :][: record.size]


async def _prepare_nothing(store: FilesystemObjectStore) -> Address:
    return Address("files", KEY)


async def _prepare_object(store: FilesystemObjectStore) -> Address:
    await put_object(store, OLD)
    return Address("files", KEY)


async def _whole_or_absent(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
    assert left.content in (WHOLE, None)


async def _there_or_gone(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
    assert left.content in (OLD, None)


async def _old_or_marker(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
    assert left.content in (OLD, b"")


async def _made_or_not(store: FilesystemObjectStore, address: Address, before: Left, left: Left) -> None:
    async for found in store.list_multiparts(""):
        assert found.initiated > datetime.now(UTC) - timedelta(minutes=5)
        made = Address("files", KEY, found.storage_upload_id)
        assert await store.list_parts(made) == []
        await store.abort_multipart(made)


SCENARIOS = {
    "complete in place": completing((0, 70_000)),
    "complete by copying": completing((None, None)),
    "complete a part of its own": completing((None,)),
    "complete over an object": completing((0, 70_000), over=True),
    "abort": Scenario(_prepare_parts, lambda store, address: store.abort_multipart(address), _unchanged_or_gone),
    "create": Scenario(_prepare_nothing, lambda store, address: begin(store), _made_or_not),
    "send a part at its offset": sending(1, 0),
    "send a part of its own": sending(2, None),
    "put an object": Scenario(_prepare_nothing, lambda store, address: put_object(store, WHOLE), _whole_or_absent),
    "delete": Scenario(_prepare_object, lambda store, address: store.delete(address), _there_or_gone),
    "put a marker": Scenario(
        _prepare_object, lambda store, address: store.put_marker(address, HEADERS), _old_or_marker
    ),
}


# --- how --------------------------------------------------------------------------------------------------------------


async def act_and_die(scenario: Scenario, folder: Path, address: Address, deadly: int) -> None:
    store = store_in(folder)
    await store.open()
    die_before(deadly)
    await scenario.act(store, address)


async def open_and_die(folder: Path, deadly: int) -> None:
    die_before(deadly)
    await store_in(folder).open()


async def check(scenario: Scenario, folder: Path, address: Address, before: Left) -> None:
    store = store_in(folder)
    await store.open()
    left = await look(store, address, folder)
    await scenario.finish(store, address, before, left)
    await store.delete(address)
    if address.storage_upload_id is not None:
        await store.abort_multipart(address)
    stray = (await look(store, address, folder)).files
    assert stray == set(), stray
    await store.close()


def survives(work: Awaitable[None]) -> bool:
    """Do this in a child; if it came to its end."""
    child = os.fork()
    if child == 0:
        asyncio.run(work)  # type: ignore[arg-type]
        os._exit(0)
    work.close()  # type: ignore[attr-defined]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def run(scenario: Scenario, folder: Path, *, also_while_opening: bool) -> int:
    """How often the store was killed."""
    prepared, tried = folder / "prepared", folder / "tried"

    async def preparation() -> tuple[Address, Left]:
        store = store_in(prepared)
        await store.open()
        address = await scenario.prepare(store)
        before = await look(store, address, prepared)
        await store.close()
        return address, before

    address, before = asyncio.run(preparation())
    deaths = deadly = 0
    finished = False
    while not finished:
        deadly += 1
        shutil.copytree(prepared, tried)
        finished = survives(act_and_die(scenario, tried, address, deadly))
        deaths += not finished
        if also_while_opening:
            while_opening = 0
            opened = False
            while not opened:
                while_opening += 3
                opened = survives(open_and_die(tried, while_opening))
                deaths += not opened
        asyncio.run(check(scenario, tried, address, before))
        shutil.rmtree(tried)
    return deaths


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    print(run(SCENARIOS[name], folder, also_while_opening=len(sys.argv) > 3))


if __name__ == "__main__":
    main()
