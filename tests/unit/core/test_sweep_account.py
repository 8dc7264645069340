"""The account of a sweep: what was freed, as the store listed it; and a dry run, which looks and changes nothing at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig
from tests.unit.core.test_sweeper import HEADERS, stray
from uploadcore import SweepReport
from uploadcore.errors import StoreUnavailableError
from uploadcore_memory import MEMORY_CAPABILITIES, MemoryObjectStore


async def littered(rig: Rig) -> None:
    """One of each kind of thing that is due, and things that are not."""
    await rig.sent()  # expires: three parts, 25 bytes
    await rig.begin(5)  # expires: nothing was sent
    deleted = await rig.completed()
    rig.store.faults.fail("delete", StoreUnavailableError("away"))
    await rig.core.files.delete(deleted.upload.file_id, owner=OWNER)  # an object of 25 bytes
    late = await rig.begin(5, sign=1)
    await rig.abort(late.id)
    await rig.redeem(late.parts[0], b"hello")  # an object of five bytes
    half_aborted = await rig.begin()
    await rig.send(half_aborted.id, 1)  # one part, ten bytes
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
    await rig.abort(half_aborted.id)
    opening = "opener died"
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await rig.begin(idempotency_key=opening)
    await stray(rig)
    await rig.completed()


def everything(rig: Rig) -> list[object]:
    """All that is kept, here and at the store."""
    database = rig.database.inner
    store = [dict(rig.store.objects), dict(rig.store.multiparts)]
    return [dict(database.uploads), dict(database.files), list(database.events), database.open_quota(OWNER), *store]


async def test_what_was_freed_is_what_the_store_listed(rig: Rig) -> None:
    await littered(rig)
    rig.after(days=1, minutes=16)

    report = await rig.core.sweep()

    assert report == SweepReport(
        expired=3,
        cleaned=1,
        rechecked=1,
        files_deleted=1,
        orphans=1,
        multiparts=3,
        parts=4,
        objects=2,
        bytes=25 + 25 + 5 + 10,
        oldest_age=(24 * 60 + 16) * 60,
        records_purged=report.records_purged,
    )


async def test_a_dry_run_says_what_a_sweep_then_does_and_changes_nothing(rig: Rig) -> None:
    await littered(rig)
    rig.after(days=1, minutes=16)
    before = everything(rig)

    dry = await rig.core.sweep(dry_run=True)

    assert everything(rig) == before
    assert not any(rig.store.calls[name] for name in ("put_marker",))
    done = await rig.core.sweep()
    assert dry == replace(done, records_purged=0)


async def test_before_its_deadline_what_is_pending_would_be_opened(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await rig.begin(idempotency_key="k")

    assert (await rig.core.sweep(dry_run=True)).opened == 1


async def test_what_is_being_completed_would_be_settled(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", StoreUnavailableError("away"))
    rig.store.faults.fail("head", StoreUnavailableError("away"))
    await rig.within(rig.complete(upload.id))

    assert (await rig.core.sweep(dry_run=True)).settled == 1


async def test_an_upload_that_the_store_does_not_answer_for_is_counted_as_failed(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.pass_by("head", 2)  # the marker's
    rig.store.faults.fail("head", StoreUnavailableError("away"))

    report = await rig.core.sweep(dry_run=True)

    assert (report.expired, report.failed) == (0, 1)


async def test_a_search_for_orphans_the_store_does_not_answer_is_counted_as_failed(rig: Rig) -> None:
    await rig.core.sweep()
    rig.after(minutes=1)
    rig.store.faults.fail("list_multiparts", StoreUnavailableError("away"))

    assert await rig.core.sweep(dry_run=True) == SweepReport(failed=1)


async def test_parts_a_store_goes_on_listing_after_completion_are_not_counted_twice() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, forgets_completed=False))
    done = await rig.completed()
    rig.store.faults.fail("delete", StoreUnavailableError("away"))
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    rig.after(minutes=1)

    dry, report = await rig.core.sweep(dry_run=True), await rig.core.sweep()

    assert (report.multiparts, report.parts, report.objects, report.bytes) == (0, 0, 1, len(BODY))
    assert dry == report


async def test_multipart_uploads_a_late_opener_made_under_the_same_key_are_counted_too(rig: Rig) -> None:
    await rig.begin()
    await MemoryObjectStore.create_multipart(rig.store, rig.only().address, HEADERS)
    rig.after(days=1)

    dry, report = await rig.core.sweep(dry_run=True), await rig.core.sweep()

    assert dry.multiparts == report.multiparts == 2
