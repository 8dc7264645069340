"""A database restored from an older copy, and a second installation on one bucket: nothing is touched that can't be known to be garbage.

What is restored is the rows; the store has gone on meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig
from uploadcore import FileStatus, UploadConfig, UploadCore, UploadState
from uploadcore.errors import StoreUnavailableError, UploadClosedError
from uploadcore_memory import MemoryDatabase


def backup(rig: Rig) -> Callable[[], None]:
    """A copy of the database as it is now; called, it takes the place of what is there then."""
    tables = rig.database.inner._tables.copy()

    def restore() -> None:
        rig.database.inner._tables = copy.copy(tables)
        rig.core = rig.another_core()  # whose processes were ended for it

    return restore


async def test_an_object_no_row_knows_is_left_however_old(rig: Rig) -> None:
    restore = backup(rig)
    await rig.completed()
    restore()

    for _ in range(4):
        rig.after(days=1)
        await rig.core.sweep()

    assert rig.bodies == [BODY]


async def test_a_multipart_upload_no_row_knows_is_aborted_once_it_is_old_and_not_before(rig: Rig) -> None:
    restore = backup(rig)
    await rig.sent()
    restore()
    rig.after(days=1)
    await rig.core.sweep()
    assert len(rig.store.multiparts) == 1

    rig.after(hours=2)
    assert (await rig.core.sweep()).orphans == 1

    assert rig.store.multiparts == {}


async def test_one_that_was_completed_since_is_completed_again_when_its_owner_asks(rig: Rig) -> None:
    upload = await rig.sent()
    restore = backup(rig)
    await rig.complete(upload.id)
    restore()

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert (done.file.status, rig.events, rig.bodies) == (FileStatus.AVAILABLE, ["upload.completed"], [BODY])


async def test_what_happens_again_has_the_id_that_was_told_before_and_what_happens_instead_another(rig: Rig) -> None:
    """Whoever drops an id that came before misses nothing."""
    upload = await rig.sent()
    restore = backup(rig)
    await rig.complete(upload.id)
    [told] = rig.database.inner.events

    restore()
    await rig.complete(upload.id)
    [again] = rig.database.inner.events
    restore()
    await rig.abort(upload.id)
    [instead] = rig.database.inner.events

    assert (again.type, again.id) == (told.type, told.id)
    assert instead.type == "upload.aborted"
    assert instead.id != told.id


@pytest.mark.parametrize("size", [len(BODY), None], ids=["declared", "open"])
async def test_one_that_was_completed_since_is_not_expired_but_completed_by_the_sweeper(
    rig: Rig, size: int | None
) -> None:
    upload = await rig.begin(size)
    await rig.send(upload.id)
    restore = backup(rig)
    await rig.complete(upload.id)
    restore()
    rig.after(days=1)

    assert (await rig.core.sweep(dry_run=True)).settled == 1
    assert (await rig.core.sweep()).settled == 1

    assert rig.bodies == [BODY]
    assert rig.only().state is UploadState.COMPLETED
    assert rig.file(upload.file_id).status is FileStatus.AVAILABLE
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def test_nor_by_its_owner_who_comes_after_the_deadline(rig: Rig) -> None:
    upload = await rig.sent()
    restore = backup(rig)
    await rig.complete(upload.id)
    restore()
    rig.after(days=1)

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert rig.bodies == [BODY]


async def opened_and_completed_since_the_backup(rig: Rig) -> None:
    """What is restored knows the upload as pending."""
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await rig.begin(idempotency_key="k")
    upload_id = rig.only().id
    restore = backup(rig)
    await rig.begin(idempotency_key="k")
    await rig.send(upload_id)
    await rig.complete(upload_id)
    restore()


async def test_one_that_was_opened_and_completed_since_is_completed(rig: Rig) -> None:
    await opened_and_completed_since_the_backup(rig)
    rig.after(days=1)

    assert (await rig.core.sweep()).settled == 1

    assert (rig.only().state, rig.bodies) == (UploadState.COMPLETED, [BODY])


async def test_one_that_was_opened_and_completed_since_is_left_as_it_is_before_its_deadline(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await opened_and_completed_since_the_backup(rig)

    assert (await rig.core.sweep()).opened == 1

    assert (rig.only().state, rig.bodies) == (UploadState.UPLOADING, [BODY])
    assert rig.only().address.storage_upload_id in rig.store.multiparts
    assert "its object stands" not in caplog.text


async def test_what_stands_and_is_not_the_whole_goes_with_its_upload(rig: Rig) -> None:
    """Not of the declared size: nobody was told of it by us."""
    upload = await rig.sent()
    restore = backup(rig)
    await rig.complete(upload.id)
    restore()
    key = rig.only().address.key
    rig.store._objects[key] = replace(rig.store._objects[key], body=b"something else")
    rig.after(days=1)

    assert (await rig.core.sweep()).expired == 1

    assert (rig.only().state, rig.bodies) == (UploadState.EXPIRED, [])


async def test_one_that_was_closed_since_is_closed_again_and_announced_with_the_same_id(rig: Rig) -> None:
    upload = await rig.sent()
    restore = backup(rig)
    await rig.abort(upload.id)
    (before,) = rig.database.inner.events
    restore()

    await rig.abort(upload.id)

    (after,) = rig.database.inner.events
    assert (after.id, after.type) == (before.id, before.type)
    with pytest.raises(UploadClosedError):
        await rig.complete(upload.id)


async def test_one_restored_as_aborting_is_cleaned(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
    await rig.abort(upload.id)
    restore = backup(rig)
    await rig.core.sweep()
    restore()

    assert (await rig.core.sweep()).cleaned == 1

    assert (rig.only().state, rig.store.multiparts) == (UploadState.ABORTED, {})


async def test_a_second_installation_on_the_same_bucket_touches_nothing_of_the_first(rig: Rig) -> None:
    await rig.completed()
    sent = await rig.sent()
    before = dict(rig.store.objects), dict(rig.store.multiparts)
    config = UploadConfig(upload_lifetime=rig.config.upload_lifetime / 1_000)  # to whom all of the other's is old
    rig.after(days=30)
    async with UploadCore(
        store=rig.store,
        database=MemoryDatabase(clock=rig.clock, installation_id="there"),
        config=config,
        clock=rig.clock,
    ) as other:
        for _ in range(5):
            await other.sweep()
            rig.after(hours=2)

    objects = {key: body for key, body in rig.store.objects.items() if not key.endswith(".installation")}
    assert (objects, rig.store.multiparts) == before
    assert rig.upload(sent.id).state is UploadState.UPLOADING


@pytest.mark.parametrize("first", [0, 1], ids=["the older first", "the later first"])
async def test_of_two_versions_completed_since_the_later_is_the_content_whichever_is_found_first(
    rig: Rig, first: int
) -> None:
    older = await rig.sent(b"older content")
    rig.after(minutes=1)
    later = await rig.sent(b"later content", file_id=older.file_id)
    restore = backup(rig)
    await rig.complete(older.id)
    await rig.complete(later.id)
    restore()
    rig.after(days=1)

    for upload in (older, later)[:: -1 if first else 1]:
        await rig.core.uploads.complete(upload.id, owner=OWNER)
    for _ in range(3):
        rig.after(days=1)
        await rig.core.sweep()

    assert rig.file(older.file_id).upload_id == later.id
    assert rig.bodies == [b"later content"]
    assert rig.database.inner.open_quota(OWNER) == (0, 0)
    assert rig.events == ["upload.completed"] * 2
