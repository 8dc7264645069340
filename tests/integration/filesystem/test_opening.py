# ruff: noqa: ASYNC220, ASYNC240 - a test may look at the disk, and start a process, while nothing else runs
"""Who may open a folder, what is made there once, and what a crash left that opening puts right."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import uploadcore_filesystem.store
from tests.integration.filesystem.serving import HEADERS, SECRET, Served, files_below, serving, until
from uploadcore.errors import InvalidRequestError, StorageFullError, StoreUnavailableError
from uploadcore.plan import Part
from uploadcore.ports import AdapterContext
from uploadcore.upload import Address
from uploadcore_filesystem import FilesystemObjectStore, from_url

URL = "http://127.0.0.1:1"


async def test_a_folder_is_open_once_at_a_time_and_the_error_says_so(tmp_path: Path) -> None:
    first = FilesystemObjectStore(tmp_path, public_url=URL)
    second = FilesystemObjectStore(tmp_path, public_url=URL)
    await first.open()
    with pytest.raises(StoreUnavailableError, match=f"in use by process {os.getpid()}: one process at a time"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_opening_twice_is_refused_and_keeps_the_folder(tmp_path: Path) -> None:
    store = FilesystemObjectStore(tmp_path, public_url=URL)
    await store.open()
    with pytest.raises(StoreUnavailableError, match="open already"):
        await store.open()
    with pytest.raises(StoreUnavailableError, match="in use by process"):
        await FilesystemObjectStore(tmp_path, public_url=URL).open()
    await store.close()


class Held:
    """Work that stands still before it begins, until it is let go."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.is_there = threading.Event()
        self._go = threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.is_there.set()
        assert self._go.wait(20)
        return self._work(*args)

    def let_go(self) -> None:
        self._go.set()


async def _opened_soon(store: FilesystemObjectStore) -> None:
    """Open it once the folder is let go of."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await store.open()
            except StoreUnavailableError:
                await asyncio.sleep(0.001)


async def _cancelled_in(held: Held, store: FilesystemObjectStore) -> None:
    opening = asyncio.create_task(store.open())
    await until(held.is_there.is_set)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_opening_that_was_cancelled_keeps_others_out_until_its_thread_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [FilesystemObjectStore(tmp_path, public_url=URL) for _ in range(2)]
    recovering = Held(first._objects.recover)
    monkeypatch.setattr(first._objects, "recover", recovering)
    await _cancelled_in(recovering, first)

    for store in (second, first, second):
        with pytest.raises(StoreUnavailableError, match="in use by process"):
            await store.open()
    recovering.let_go()

    await _opened_soon(second)
    await second.close()
    await first.open()
    await first.close()


async def test_opening_that_was_cancelled_before_it_had_the_lock_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [FilesystemObjectStore(tmp_path, public_url=URL) for _ in range(2)]
    with monkeypatch.context() as patch:
        locking = Held(uploadcore_filesystem.store._locked)
        patch.setattr(uploadcore_filesystem.store, "_locked", locking)
        await _cancelled_in(locking, first)
    locking.let_go()

    await _opened_soon(second)
    await second.close()


async def test_closing_that_was_given_up_goes_on_and_is_waited_for_by_closing_again(tmp_path: Path) -> None:
    first, second = [FilesystemObjectStore(tmp_path, public_url=URL) for _ in range(2)]
    await first.open()
    assert first._threads is not None
    work = Held(lambda: None)
    busy = asyncio.create_task(first._threads.run(work))
    await until(work.is_there.is_set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await first.close()

    with pytest.raises(StoreUnavailableError, match="in use by process"):
        await second.open()
    again = asyncio.create_task(first.close())
    await asyncio.sleep(0)
    assert not again.done()
    work.let_go()

    await asyncio.gather(busy, again)
    await second.open()
    await second.close()


async def test_another_process_is_kept_out_and_its_death_lets_in(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from uploadcore_filesystem import FilesystemObjectStore\n"
        "async def hold():\n"
        "    await FilesystemObjectStore(sys.argv[1], public_url='http://x').open()\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(hold())\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    store = FilesystemObjectStore(tmp_path, public_url=URL)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnavailableError, match=f"process {other.pid}"):
            await store.open()
        other.send_signal(signal.SIGKILL)
    await store.open()
    await store.close()


async def test_a_folder_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FilesystemObjectStore(tmp_path / "file" / "store", public_url=URL)
    with pytest.raises(StoreUnavailableError, match="can't be used as an object store"):
        await store.open()


async def test_a_disk_too_full_to_note_the_process_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = FilesystemObjectStore(tmp_path, public_url=URL)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageFullError):
            await store.open()

    await store.open()
    await store.close()


async def test_the_secret_is_made_once_and_survives(tmp_path: Path) -> None:
    urls = []
    for _ in range(2):
        store = FilesystemObjectStore(tmp_path, public_url=URL)
        await store.open()
        urls.append(await _sign(store))
        grant = store.verify("GET", *_split(urls[0]), [])
        assert grant.key == "up/a"
        await store.close()
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "signing.key").read_bytes()) == 32


async def test_a_secret_that_is_given_is_not_written(tmp_path: Path) -> None:
    store = FilesystemObjectStore(tmp_path, public_url=URL, secret=SECRET)
    await _sign(store)
    await store.open()
    await store.close()
    assert not (tmp_path / "signing.key").exists()
    assert SECRET.decode() not in repr(store)


async def test_without_a_secret_nothing_is_signed_before_opening(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="has not been opened"):
        await _sign(FilesystemObjectStore(tmp_path, public_url=URL))


async def test_a_damaged_secret_is_told(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_bytes(b"short")
    with pytest.raises(StoreUnavailableError, match="too short to be a signing secret"):
        await FilesystemObjectStore(tmp_path, public_url=URL).open()


async def test_from_url_opens_nothing_and_keeps_the_secret_in_the_data_folder(tmp_path: Path) -> None:
    context = AdapterContext(tmp_path / "data", URL)
    store = from_url(f"file://{tmp_path}/with%20space", context)
    assert list(tmp_path.iterdir()) == []
    await store.open()
    assert (await _sign(store)).startswith(f"{URL}/data/files/")
    await store.close()
    assert (tmp_path / "data" / "signing.key").is_file()
    assert (tmp_path / "with space" / "objects").is_dir()


@pytest.mark.parametrize("url", ["file://", "file:///", "file://host/path", "s3://bucket", "file:///a?b=c"])
def test_from_url_refuses_what_is_no_folder(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file:///an/absolute/path"):
        from_url(url, AdapterContext(tmp_path, URL))


@pytest.mark.parametrize("bucket", ["", "a/b", "..", "ü", "b" * 64])
def test_a_bucket_that_can_not_be_is_refused(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be a bucket"):
        FilesystemObjectStore(tmp_path, public_url=URL, bucket=bucket)


async def test_another_bucket_is_refused(served: Served) -> None:
    elsewhere = Address("elsewhere", "up/a", "x")
    with pytest.raises(InvalidRequestError):
        await served.store.head(elsewhere)
    with pytest.raises(InvalidRequestError):
        await served.store.abort_multipart(elsewhere)


async def test_a_server_killed_while_parts_arrive_lists_none_of_them_and_loses_no_other(tmp_path: Path) -> None:
    root = tmp_path / "store"
    async with serving(root) as served:
        address = await served.begin()
        await served.put_part(address, 1, b"1" * 1000)
        listed = await served.store.list_parts(address)
        await served.store.close()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.filesystem.killed_server", str(root)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with process:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        upload = address.storage_upload_id or ""
        signer = FilesystemObjectStore(root, public_url=f"http://127.0.0.1:{port}", secret=SECRET)
        parts = [Part(2, 1000, 3_000_000), Part(3, 0, None)]
        signed = await signer.presign_parts(address, parts, checksums={}, expires_in=timedelta(minutes=1))
        writers = []
        for request in signed:
            path = request.url.removeprefix(f"http://127.0.0.1:{port}")
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode() + b"x" * 2_999_999
            )
            await writer.drain()
            writers.append(writer)
        data = root / "multiparts" / upload / "data"
        chunks = root / "multiparts" / upload / "chunks"
        await until(lambda: data.stat().st_size > 1_000_000 and any(f.stat().st_size for f in chunks.iterdir()))
        process.send_signal(signal.SIGKILL)
    for writer in writers:
        writer.close()

    async with serving(root) as served:
        assert await served.store.list_parts(address) == listed
        assert list(chunks.iterdir()) == []
        await served.complete(address)
        assert await served.content() == b"1" * 1000
        await served.store.delete(address)
        assert files_below(root) == set()


async def test_what_was_put_survives_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "store"
    async with serving(root) as served:
        await served.put_object("up/a", b"bytes")
        address = await served.begin("up/b")
        await served.put_part(address, 1, b"part")
        before = await served.store.head(Address("files", "up/a")), await served.store.list_parts(address)
    async with serving(root) as served:
        assert (await served.store.head(Address("files", "up/a")), await served.store.list_parts(address)) == before
        assert await served.content() == b"bytes"
        [found] = [found async for found in served.store.list_multiparts("up/")]
        assert (found.key, found.storage_upload_id) == ("up/b", address.storage_upload_id)


async def test_more_uploads_than_are_kept_in_memory_are_all_there(served: Served) -> None:
    addresses = [await served.begin(f"up/{number}") for number in range(70)]
    for address in addresses:
        await served.put_part(address, 1, address.key.encode())
    for address in addresses:
        await served.complete(address)
        assert await served.content(address.key) == address.key.encode()


async def _sign(store: FilesystemObjectStore) -> str:
    signed = await store.presign_get(
        Address("files", "up/a"), filename="f", content_type=HEADERS.content_type, expires_in=timedelta(hours=1)
    )
    return signed.url


def _split(url: str) -> tuple[str, bytes]:
    path, _, query = url.removeprefix(URL).partition("?")
    return path, query.encode()
