"""Files are changed by several at once, on databases where a transaction does not wait for the one before it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from uploadcore import FileStatus, FileView, UploadCore, UploadView
from uploadcore.errors import VersionConflictError
from uploadcore_memory import MemoryCache, MemoryObjectStore
from uploadcore_sql import SqlDatabase

OWNER = "u_1"
VALUES: dict[str, Any] = {
    "name": "sea.mp4",
    "title": "The sea",
    "description": "Waves",
    "labels": ("sea", "2026"),
    "metadata": {"camera": "x100"},
}


@pytest.fixture(params=["database", "emptied"], ids=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> SqlDatabase:
    return cast("SqlDatabase", request.getfixturevalue(request.param))


async def sent(core: UploadCore, store: MemoryObjectStore) -> UploadView:
    upload = await core.uploads.initiate(owner=OWNER, filename="a", size=5, sign=1)
    assert (await store.put(upload.parts[0].request, b"hello")).status == 200
    return upload


async def test_changes_of_different_values_made_at_once_are_all_made(either: SqlDatabase) -> None:
    store = MemoryObjectStore()
    core = UploadCore(store=store, database=either, cache=MemoryCache())
    upload = await sent(core, store)

    await asyncio.gather(
        *(core.files.update(upload.file_id, owner=OWNER, **{name: value}) for name, value in VALUES.items())
    )

    file = await core.files.get(upload.file_id, owner=OWNER)
    assert {name: getattr(file, name) for name in VALUES} == VALUES
    assert file.version == len(VALUES)
    assert (await core.files.find(owner=OWNER, label="sea")).files == (file,)


async def test_of_changes_under_one_version_made_at_once_one_is_made(either: SqlDatabase) -> None:
    store = MemoryObjectStore()
    core = UploadCore(store=store, database=either)
    upload = await sent(core, store)

    answers = await asyncio.gather(
        *(core.files.update(upload.file_id, owner=OWNER, if_version=0, labels=[f"l{n}"]) for n in range(6)),
        return_exceptions=True,
    )

    (made,) = (answer for answer in answers if isinstance(answer, FileView))
    assert sum(isinstance(answer, VersionConflictError) for answer in answers) == 5
    for number in range(6):
        found = (await core.files.find(owner=OWNER, label=f"l{number}")).files
        assert found == ((made,) if made.labels == (f"l{number}",) else ())


async def test_a_file_that_is_changed_while_its_upload_completes_has_both(either: SqlDatabase) -> None:
    store = MemoryObjectStore()
    core = UploadCore(store=store, database=either, cache=MemoryCache())
    for _ in range(5):
        upload = await sent(core, store)

        completing = asyncio.create_task(core.uploads.complete(upload.id, owner=OWNER))
        await asyncio.gather(
            *(core.files.update(upload.file_id, owner=OWNER, **{name: value}) for name, value in VALUES.items()),
        )

        assert (await completing).file is not None, "settled at once"
        file = await core.files.get(upload.file_id, owner=OWNER)
        assert {name: getattr(file, name) for name in VALUES} == VALUES
        assert (file.status, file.version) == (FileStatus.AVAILABLE, len(VALUES) + 1)


async def test_a_file_that_is_changed_while_it_is_deleted_is_deleted(either: SqlDatabase) -> None:
    store = MemoryObjectStore()
    core = UploadCore(store=store, database=either, cache=MemoryCache())
    for _ in range(5):
        upload = await sent(core, store)
        await core.uploads.complete(upload.id, owner=OWNER)

        await asyncio.gather(
            core.files.delete(upload.file_id, owner=OWNER),
            *(core.files.update(upload.file_id, owner=OWNER, **{name: value}) for name, value in VALUES.items()),
            return_exceptions=True,
        )

        assert (await core.files.get(upload.file_id, owner=OWNER)).status is FileStatus.DELETED
        assert store.objects == {}
