"""Whoever changes a file and its uploads in one transaction holds the file first: no two wait for each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.rig import OWNER, Rig
from uploadcore.file import File
from uploadcore.upload import Transition, Upload
from uploadcore_memory import MEMORY_CAPABILITIES
from uploadcore_memory.database import _Files, _Uploads


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is locked, in order."""
    locked: list[str] = []
    get, save = _Files.get, _Uploads.save

    async def held(files: _Files, file_id: str, *, hold: bool = False) -> File | None:
        if hold:
            locked.append("file")
        return await get(files, file_id, hold=hold)

    async def saved(uploads: _Uploads, transition: Transition) -> Upload:
        locked.append("upload")
        return await save(uploads, transition)

    monkeypatch.setattr(_Files, "get", held)
    monkeypatch.setattr(_Uploads, "save", saved)
    return locked


async def test_of_a_file_that_is_deleted(rig: Rig, order: list[str]) -> None:
    done = await rig.completed()
    order.clear()

    await rig.core.files.delete(done.upload.file_id, owner=OWNER)

    assert order == ["file", "upload"]


async def test_of_an_upload_that_was_cleaned(rig: Rig, order: list[str]) -> None:
    upload = await rig.begin()
    order.clear()

    await rig.abort(upload.id)

    assert order == ["upload", "file", "upload"], (
        "the first, in a transaction of its own, says that it is to be aborted"
    )


async def test_of_a_file_that_is_damaged(order: list[str]) -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, late_parts_refused=False))
    await rig.completed()
    await rig.store.delete(rig.only().address)
    rig.clock.advance(rig.config.recheck_after)
    order.clear()

    assert (await rig.core.sweep()).damaged == 1

    assert order == ["file", "upload"]
