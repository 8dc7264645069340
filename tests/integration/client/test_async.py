"""The client for code with an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.client.scripted import FarEnd, until
from uploadcore_client import AsyncClient, Progress, ServerUnreachableError

Blobs = Callable[..., Path]


def sending_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("uploadcore-part")]


async def test_it_uploads_and_downloads(far: FarEnd, blob: Blobs, tmp_path: Path) -> None:
    path = blob()
    seen: list[Progress] = []

    async with AsyncClient(far.url, state_dir=tmp_path / "state") as client:
        file = await client.upload(path, progress=seen.append)
        copy = await client.download(file.id, tmp_path / "copy")
        uploads = await client.uploads()

    assert copy.read_bytes() == path.read_bytes()
    assert [upload.state for upload in uploads] == ["completed"]
    assert seen[-1].done == path.stat().st_size


async def test_progress_is_told_in_the_loops_thread(far: FarEnd, blob: Blobs, tmp_path: Path) -> None:
    threads: set[threading.Thread] = set()

    def note(_: Progress) -> None:
        threads.add(threading.current_thread())

    async with AsyncClient(far.url, state_dir=tmp_path / "state") as client:
        await client.upload(blob(), progress=note)
        await asyncio.sleep(0)

    assert threads == {threading.current_thread()}


async def test_cancelling_the_task_cuts_the_upload_and_leaves_it_resumable(
    far: FarEnd, blob: Blobs, tmp_path: Path
) -> None:
    path, may_go = blob(), threading.Event()
    far.before_part = lambda handler, tries: (may_go.wait(30), False)[1]
    async with AsyncClient(far.url, state_dir=tmp_path / "state") as client:
        task = asyncio.create_task(client.upload(path))
        await asyncio.to_thread(until, lambda: far.in_flight > 0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # They have done their work by now, but for ending.
        await asyncio.to_thread(until, lambda: not sending_threads())
        may_go.set()

        file = await client.upload(path)

    assert far.files[file.id] == path.read_bytes()
    assert len(far.uploads) == 1


async def test_errors_come_through(tmp_path: Path, blob: Blobs) -> None:
    async with AsyncClient("http://127.0.0.1:9", state_dir=tmp_path / "state") as client:
        with pytest.raises(ServerUnreachableError):
            await client.upload(blob())
