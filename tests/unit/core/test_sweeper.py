"""The sweeper: what is due is seen to, once, by whichever instance comes first; nothing else is touched (rules 2, 6, 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig, until
from uploadcore import SweepReport, UploadConfig, UploadState, orphans, sweeper
from uploadcore.errors import (
    DatabaseUnavailableError,
    StorageFullError,
    StoreOverloadedError,
    StoreUnavailableError,
    UploadClosedError,
)
from uploadcore.ports import ObjectHeaders, StoredObject
from uploadcore.upload import Address, Lease
from uploadcore_memory import MEMORY_CAPABILITIES, MemoryObjectStore
from uploadcore_memory.database import _Idempotency

HEADERS = ObjectHeaders("application/octet-stream")


async def test_nothing_due_is_nothing_done(rig: Rig) -> None:
    await rig.begin()
    await rig.completed()

    assert await rig.core.sweep() == SweepReport()


async def test_an_upload_whose_deadline_has_passed_expires(rig: Rig) -> None:
    await rig.sent()
    rig.after(days=1)

    report = await rig.core.sweep()

    assert report.expired == 1
    assert (rig.only().state, rig.store.multiparts, rig.events) == (UploadState.EXPIRED, {}, ["upload.expired"])
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def pending(rig: Rig) -> None:
    """An upload whose opener died."""
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        await rig.begin(idempotency_key="k")
    assert rig.only().state is UploadState.PENDING


async def test_a_pending_upload_whose_opener_stopped_is_opened(rig: Rig) -> None:
    await pending(rig)

    assert (await rig.core.sweep()).opened == 1

    assert rig.only().state is UploadState.UPLOADING
    assert list(rig.store.multiparts) == [rig.only().address.storage_upload_id]


async def test_a_pending_upload_whose_deadline_has_passed_expires(rig: Rig) -> None:
    await pending(rig)
    rig.after(days=1)

    await rig.core.sweep()

    assert rig.only().state is UploadState.EXPIRED


async def test_one_failure_is_counted_and_stops_no_other(rig: Rig) -> None:
    await pending(rig)
    other = await rig.begin()
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
    await rig.abort(other.id)
    rig.store.faults.fail("create_multipart", StorageFullError("no room"))

    report = await rig.core.sweep()

    assert (report.failed, report.cleaned) == (1, 1)
    assert sorted(rig.events) == ["upload.aborted", "upload.failed"]


async def test_two_instances_at_once_do_everything_once(rig: Rig) -> None:
    for _ in range(20):
        await rig.sent()
    rig.after(days=1)

    reports = await asyncio.gather(rig.core.sweep(), rig.another_core().sweep())

    assert sum(report.expired for report in reports) == 20
    assert sum(report.failed for report in reports) == 0
    assert rig.events == ["upload.expired"] * 20


async def test_one_that_hangs_holds_up_nobody(rig: Rig) -> None:
    for _ in range(40):
        await rig.begin()
    rig.after(days=1)
    held = rig.store.faults.hold("abort_multipart")
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await until(lambda: rig.events == ["upload.expired"] * 39)
    assert not sweeping.done(), "waited for, for as long as a lease"
    rig.clock.advance(rig.config.lease)

    first = await sweeping
    second = await rig.core.sweep()
    held.let_go()
    await until(lambda: len(rig.events) == 40)
    third = await rig.core.sweep()

    assert (first.expired, second.expired, third.expired) == (39, 0, 1)


async def test_a_bounded_number_is_seen_to_at_a_time(rig: Rig) -> None:
    for _ in range(40):
        await rig.begin()
    rig.after(days=1)
    held = [rig.store.faults.hold("abort_multipart") for _ in range(40)]

    sweeping = asyncio.ensure_future(rig.core.sweep())
    await until(lambda: sum(fault.reached.is_set() for fault in held) == 16)
    for _ in range(200):
        await asyncio.sleep(0)

    assert sum(fault.reached.is_set() for fault in held) == 16
    for fault in held:
        fault.let_go()
    assert (await sweeping).expired == 40


async def test_what_is_underway_when_a_core_is_closed_is_free_for_another_at_once(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.hold("abort_multipart")
    core = rig.another_core()
    async with core:
        sweeping = asyncio.ensure_future(core.sweep())
        await until(lambda: rig.store.calls["abort_multipart"] == 1)
        sweeping.cancel()

    assert rig.only().state is UploadState.ABORTING
    assert (await rig.core.sweep()).cleaned == 1


async def test_two_passes_of_one_core_at_once_do_not_meet(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    held = rig.store.faults.hold("abort_multipart")
    first = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()

    second = await rig.core.sweep()
    held.let_go()

    assert (await first).expired + second.expired == 1
    assert rig.store.calls["abort_multipart"] == 1


async def test_a_defect_met_with_one_upload_is_logged_and_stops_no_other(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.begin()
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.fail("abort_multipart", ZeroDivisionError("a defect"))

    report = await rig.core.sweep()

    assert (report.expired, report.failed) == (1, 1)
    assert "ZeroDivisionError" in caplog.text


async def test_a_pass_in_which_everything_fails_is_not_repeated_at_once() -> None:
    rig = Rig(config=UploadConfig(batch=2))
    for _ in range(4):
        await rig.begin()
    rig.after(days=1)
    rig.store.faults.pass_by("head", 2)  # the marker's
    rig.store.faults.fail("head", StoreUnavailableError("away"), times=100)

    report = await rig.core.sweep()

    assert (report.failed >= 2, report.more) == (True, False)


async def test_a_pass_is_bounded_and_says_that_there_is_more() -> None:
    rig = Rig(config=UploadConfig(batch=2))
    for _ in range(3):
        await rig.begin()
    rig.after(days=1)

    first, second = await rig.core.sweep(), await rig.core.sweep()

    assert (first.expired, first.more) == (2, True)
    assert (second.expired, second.more) == (1, False)


async def test_a_dry_run_counts_and_changes_nothing(rig: Rig) -> None:
    done = await rig.completed()
    rig.store.faults.fail("delete", StoreUnavailableError("away"))
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    await rig.begin()
    await stray(rig)
    rig.after(days=1, minutes=16)
    uploads, objects, multiparts = rig.database.inner.uploads, rig.store.objects, rig.store.multiparts

    report = await rig.core.sweep(dry_run=True)

    assert (report.expired, report.files_deleted, report.orphans) == (1, 1, 1)
    assert (uploads, objects, multiparts) == (
        rig.database.inner.uploads,
        rig.store.objects,
        rig.store.multiparts,
    )
    real = await rig.core.sweep()
    assert (real.expired, real.files_deleted, real.orphans) == (1, 1, 1)


async def test_a_store_that_keeps_showing_something_is_looked_at_again_next_time(rig: Rig) -> None:
    upload = await rig.begin(5, sign=1)
    await rig.abort(upload.id)
    await rig.redeem(upload.parts[0], b"hello")
    rig.after(hours=2)

    async def nothing(address: Address) -> None: ...

    rig.store.__dict__["delete"] = nothing
    await rig.core.sweep()
    assert rig.only().recheck_at == rig.clock.now() + rig.config.sweep_interval
    del rig.store.__dict__["delete"]
    rig.after(minutes=1)
    await rig.core.sweep()

    assert (rig.only().recheck_at, rig.bodies) == (None, [])


async def test_a_recheck_the_store_does_not_answer_does_not_stand_at_the_head_of_the_next_pass(rig: Rig) -> None:
    upload = await rig.begin()
    await rig.abort(upload.id)
    rig.after(hours=2)
    rig.store.faults.pass_by("head", 2)  # the marker's
    rig.store.faults.fail("head", StoreUnavailableError("away"))

    report = await rig.core.sweep()

    assert report.failed == 1
    assert rig.only().recheck_at == rig.clock.now() + rig.config.sweep_interval


AWAY = StoreUnavailableError("that bucket may not be read any more")


def keep_out_of_reach(rig: Rig, keys: Collection[str], error: StoreUnavailableError = AWAY) -> None:
    """The store does not say what stands under these keys."""

    async def head(address: Address) -> StoredObject | None:
        if address.key in keys:
            raise error
        return await MemoryObjectStore.head(rig.store, address)

    rig.store.__dict__["head"] = head


async def test_those_the_store_never_answers_for_keep_no_other_from_being_seen_to() -> None:
    rig = Rig(config=UploadConfig(batch=2))
    keep_out_of_reach(rig, {rig.upload((await rig.begin()).id).address.key for _ in range(2 * sweeper.CHOICE)})
    rig.after(days=1, hours=1)
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", StoreUnavailableError("away"))
    assert (await rig.complete(upload.id)).file is None

    for _ in range(200):
        rig.after(minutes=1)
        await rig.core.sweep()

    assert rig.upload(upload.id).state is UploadState.COMPLETED


async def sweep_in_vain(rig: Rig) -> None:
    keep_out_of_reach(rig, {rig.only().address.key})
    assert (await rig.core.sweep()).failed == 1
    del rig.store.__dict__["head"]


async def test_a_deadline_that_was_put_off_has_passed_still(rig: Rig) -> None:
    upload = await rig.sent()
    rig.after(days=1, minutes=5)
    await sweep_in_vain(rig)
    assert rig.only().expires_at == rig.clock.now()
    assert rig.only().state is UploadState.UPLOADING

    with pytest.raises(UploadClosedError):
        await rig.complete(upload.id)
    await rig.core.sweep()

    assert rig.only().state is UploadState.EXPIRED


async def test_a_pending_upload_is_put_off_by_its_lease_and_its_deadline_if_it_has_passed(rig: Rig) -> None:
    await pending(rig)
    deadline = rig.only().expires_at
    rig.after(hours=1)
    await sweep_in_vain(rig)
    assert (rig.only().lease_until, rig.only().expires_at) == (rig.clock.now(), deadline)

    rig.after(days=1)
    await sweep_in_vain(rig)

    assert (rig.only().lease_until, rig.only().expires_at) == (rig.clock.now(), rig.clock.now())


async def test_a_pending_upload_whose_opener_is_at_work_is_not_put_off(rig: Rig) -> None:
    await pending(rig)
    rig.after(days=1)
    async with rig.database.inner.transaction() as tx:
        await tx.uploads.save(rig.only().lease_taken_over(Lease("its opener", timedelta(seconds=30))))
    held = rig.only()

    await sweep_in_vain(rig)

    assert rig.only() == held


@pytest.mark.parametrize("state", [UploadState.PENDING, UploadState.UPLOADING, UploadState.EXPIRED])
async def test_where_the_store_was_not_asked_for_want_of_room_nothing_is_written(rig: Rig, state: UploadState) -> None:
    if state is UploadState.PENDING:
        await pending(rig)
    else:
        await rig.begin()
    rig.after(days=1, minutes=5)
    if state is UploadState.EXPIRED:
        await rig.core.sweep()
        rig.after(days=1)
    due = rig.only()
    assert due.state is state
    keep_out_of_reach(rig, {due.address.key}, StoreOverloadedError("too many calls wait"))

    assert (await rig.core.sweep()).failed == 1

    assert rig.only() == due


async def test_the_content_of_a_file_that_stands_survives_a_recheck(rig: Rig) -> None:
    """Superseded by a version that was itself superseded by this one's late completion: current after all."""
    first = await rig.sent(b"old content")
    second = await rig.completed(b"new content", file_id=first.file_id)
    await rig.complete(first.id)
    async with rig.database.inner.transaction() as tx:
        await tx.uploads.save(rig.upload(first.id).recheck(rig.config.recheck_after))
    rig.after(hours=2)

    report = await rig.core.sweep()

    assert report.rechecked == 2
    assert rig.bodies == [b"old content"]
    assert rig.upload(second.upload.id).recheck_at is rig.upload(first.id).recheck_at is None


async def test_old_idempotency_keys_and_delivered_events_are_purged(rig: Rig) -> None:
    upload = await rig.sent(idempotency_key="k")
    await rig.complete(upload.id)
    await rig.core.relay()
    rig.after(hours=24)
    assert (await rig.core.sweep()).records_purged == 0
    rig.after(seconds=1)

    assert (await rig.core.sweep()).records_purged == 2
    assert rig.events == []


async def test_old_records_are_dropped_until_none_is_left_or_enough_is_done(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "PURGES", 3)
    left = 5

    async def purge(records: object, **asked: object) -> int:
        nonlocal left
        left = max(0, left - 1)
        return 1 if left else 0

    monkeypatch.setattr(_Idempotency, "purge", purge)

    first, second = await rig.core.sweep(), await rig.core.sweep()

    assert (first.records_purged, first.more) == (3, True)
    assert (second.records_purged, second.more) == (1, False)


async def test_old_records_that_can_not_be_dropped_are_a_failure_of_that_alone(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.database.faults.pass_by("transaction", 2)
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))

    report = await rig.core.sweep()

    assert (report.expired, report.failed) == (1, 1)


async def test_what_the_store_could_not_be_cleaned_of_is_not_counted_as_expired(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))

    first, second = await rig.core.sweep(), await rig.core.sweep()

    assert (first.expired, first.unsettled, first.more) == (0, 1, False)
    assert second.cleaned == 1


async def test_what_can_not_be_counted_is_removed_all_the_same(rig: Rig) -> None:
    await rig.sent()
    rig.after(days=1)
    rig.store.faults.fail("list_parts", StoreUnavailableError("away"))

    report = await rig.core.sweep()

    assert (report.expired, report.multiparts, rig.store.multiparts) == (1, 0, {})


@pytest.mark.parametrize("call", ["store.list_multiparts", "database.transaction"])
async def test_a_defect_met_with_orphans_or_old_records_is_logged_and_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def defect(*_: object, **asked: object) -> None:
        raise ZeroDivisionError("a defect")

    port, _, name = call.partition(".")
    monkeypatch.setattr(getattr(rig, port), name, defect)

    assert (await rig.core.sweep()).failed == 1
    assert "ZeroDivisionError" in caplog.text


async def test_a_database_that_can_not_be_asked_is_said_so(rig: Rig) -> None:
    rig.database.faults.fail("reader", DatabaseUnavailableError("away"))

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.sweep()


# --- orphans ------------------------------------------------------------------------------------------------------


async def stray(rig: Rig, key: str = "uploads/here/nobody/x") -> str:
    """A multipart upload the store has, without a row."""
    return await MemoryObjectStore.create_multipart(rig.store, Address(rig.store.bucket, key), HEADERS)


async def test_a_multipart_upload_no_row_knows_is_aborted_once_older_than_any_of_ours_can_be(rig: Rig) -> None:
    await stray(rig)
    rig.after(days=1, minutes=15)
    assert (await rig.core.sweep()).orphans == 0
    rig.after(seconds=1)

    assert (await rig.another_core().sweep()).orphans == 1
    assert rig.store.multiparts == {}


async def test_what_lies_elsewhere_is_nobodys_business_here(rig: Rig) -> None:
    theirs = {
        await stray(rig, key) for key in ("other/here/x", "uploads/another-installation/x", "uploads/hereafter/x")
    }
    rig.after(days=30)

    assert (await rig.core.sweep()).orphans == 0
    assert set(rig.store.multiparts) == theirs


async def test_a_row_with_another_multipart_upload_leaves_this_one_an_orphan(rig: Rig) -> None:
    await rig.begin()
    await stray(rig, rig.only().address.key)
    rig.after(hours=23)
    await rig.send(rig.only().id)
    await rig.complete(rig.only().id)
    rig.clock.advance(rig.config.orphan_age)

    assert (await rig.core.sweep()).orphans == 1


async def test_a_multipart_upload_of_an_open_upload_is_no_orphan_however_old(rig: Rig) -> None:
    held = rig.store.faults.hold("abort_multipart")
    await rig.begin()
    rig.after(days=2)
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()

    report = await rig.another_core().sweep()
    held.let_go()
    await sweeping

    assert report.orphans == 0


async def test_what_a_pending_upload_may_have_made_is_no_orphan() -> None:
    rig = Rig(config=UploadConfig(batch=1))
    for key in ("a", "b"):
        rig.store.faults.fail("create_multipart", StoreUnavailableError("answer lost"), after_effect=True)
        with pytest.raises(StoreUnavailableError):
            await rig.begin(idempotency_key=key)
    rig.after(days=2)

    report = await rig.core.sweep()  # sees to the first; the other is still pending

    assert (report.orphans, len(rig.store.multiparts)) == (0, 1)
    await rig.core.sweep()
    assert rig.store.multiparts == {}


async def test_more_orphans_than_one_lookup_takes_are_all_aborted(rig: Rig) -> None:
    for number in range(2_001):
        await stray(rig, f"uploads/here/nobody/{number}")
    rig.after(days=2)

    assert (await rig.core.sweep()).orphans == 2_001
    assert rig.store.multiparts == {}


async def test_a_bucket_is_listed_once_an_hour_or_so(rig: Rig) -> None:
    """Listing one is expensive, and orphans are a day old anyway. Instances that were started together do not do it together."""
    listings = 0
    for _ in range(24 * 60):
        before = rig.store.calls["list_multiparts"]
        await rig.core.sweep()
        listings += rig.store.calls["list_multiparts"] - before
        rig.after(minutes=1)

    assert 18 <= listings <= 33


async def test_a_long_listing_goes_on_in_the_next_pass(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "LISTED_AT_ONCE", 10)
    for number in range(25):
        await stray(rig, f"uploads/here/nobody/{number}")
    rig.after(days=2)

    reports = [await rig.core.sweep() for _ in range(4)]

    assert [report.orphans for report in reports] == [10, 10, 5, 0]
    assert [report.more for report in reports] == [True, True, False, False]
    assert rig.store.calls["list_multiparts"] == 1


async def test_what_others_have_in_the_bucket_counts_where_the_store_lists_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orphans, "LISTED_AT_ONCE", 10)
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, list_by_prefix=False))
    for number in range(15):
        await stray(rig, f"another's/{number}")
    await stray(rig, "uploads/here/nobody")
    rig.after(days=2)

    reports = [await rig.core.sweep() for _ in range(2)]

    assert [(report.orphans, report.more) for report in reports] == [(0, True), (1, False)]


async def test_an_orphan_is_as_old_as_the_store_says(rig: Rig) -> None:
    await stray(rig, "uploads/here/nobody")
    rig.after(days=2)

    assert (await rig.core.sweep(dry_run=True)).oldest_age == timedelta(days=2).total_seconds()
    assert (await rig.core.sweep()).oldest_age == timedelta(days=2).total_seconds()


async def test_a_listing_that_was_to_go_on_ends_with_its_core(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "LISTED_AT_ONCE", 1)
    for number in range(3):
        await stray(rig, f"uploads/here/nobody/{number}")
    rig.after(days=2)

    async with rig.another_core() as core:
        assert (await core.sweep()).more


async def test_an_orphan_whose_abort_hangs_holds_up_no_pass(rig: Rig) -> None:
    await stray(rig)
    rig.after(days=2)
    held = rig.store.faults.hold("abort_multipart")
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()
    rig.clock.advance(rig.config.lease)

    first, second = await sweeping, await rig.core.sweep()
    held.let_go()
    await until(lambda: not rig.store.multiparts)

    assert (first.orphans, second.orphans, (await rig.core.sweep()).orphans) == (0, 0, 1)


async def test_an_orphan_that_can_not_be_aborted_stops_no_other(rig: Rig) -> None:
    await stray(rig, "uploads/here/nobody/1")
    await stray(rig, "uploads/here/nobody/2")
    rig.after(days=2)
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))

    report = await rig.core.sweep()

    assert (report.orphans, report.failed, len(rig.store.multiparts)) == (1, 1, 1)


async def test_where_the_store_can_not_list_by_prefix_all_are_listed_and_filtered() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, list_by_prefix=False))
    theirs = await stray(rig, "other/x")
    await stray(rig)
    rig.after(days=2)

    assert (await rig.core.sweep()).orphans == 1
    assert list(rig.store.multiparts) == [theirs]


async def test_the_first_sweep_marks_the_prefix_as_this_installations(rig: Rig) -> None:
    await rig.core.sweep(dry_run=True)
    assert rig.store.objects == {}

    await rig.core.sweep()
    await rig.core.sweep()

    assert list(rig.store.objects) == ["uploads/here/.installation"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_where_the_marker_is_anothers_nothing_is_touched_and_that_is_said(rig: Rig, dry_run: bool) -> None:
    marker = Address(rig.store.bucket, "uploads/here/.installation")
    await rig.store.put_marker(marker, ObjectHeaders("x/y", {"uploadcore-installation": "elsewhere"}))
    await stray(rig)
    await rig.begin()
    rig.after(days=2)
    before = (dict(rig.store.objects), dict(rig.store.multiparts), rig.only())

    for _ in range(2):
        with pytest.raises(
            StoreUnavailableError, match="'elsewhere', and this database is of 'here': nothing is swept"
        ):
            await rig.core.sweep(dry_run=dry_run)

    assert (rig.store.objects, rig.store.multiparts, rig.only()) == before


async def test_the_marker_is_looked_at_as_often_as_orphans_are_looked_for(rig: Rig) -> None:
    await rig.core.sweep()
    looks = rig.store.calls["head"]
    rig.after(minutes=59)
    await rig.core.sweep()
    assert rig.store.calls["head"] == looks

    rig.after(minutes=1)
    marker = Address(rig.store.bucket, "uploads/here/.installation")
    await rig.store.put_marker(marker, ObjectHeaders("x/y", {"uploadcore-installation": "elsewhere"}))

    with pytest.raises(StoreUnavailableError, match="elsewhere"):
        await rig.core.sweep()


async def test_where_there_is_no_room_for_the_marker_a_sweep_makes_some(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.fail("put_marker", StorageFullError("no room"))

    assert (await rig.core.sweep()).expired == 1

    await rig.core.sweep()
    assert list(rig.store.objects) == ["uploads/here/.installation"]


async def test_without_a_look_at_the_marker_nothing_is_swept(rig: Rig) -> None:
    upload = await rig.begin()
    rig.after(days=1)
    rig.store.faults.fail("head", StoreUnavailableError("away"))

    with pytest.raises(StoreUnavailableError, match="away"):
        await rig.core.sweep()

    assert rig.only().state is UploadState.UPLOADING
    assert (await rig.core.sweep()).expired == 1
    assert rig.upload(upload.id).state is UploadState.EXPIRED


async def test_a_store_that_does_not_answer_fails_the_search_for_orphans_alone(rig: Rig) -> None:
    await rig.begin()
    rig.after(days=1)
    rig.store.faults.pass_by("list_multiparts", 2)  # what the expired one had
    rig.store.faults.fail("list_multiparts", StoreUnavailableError("away"))

    report = await rig.core.sweep()

    assert (report.expired, report.orphans, report.failed) == (1, 0, 1)


async def test_a_body_is_never_an_orphan(rig: Rig) -> None:
    await rig.completed()
    rig.after(days=30)

    await rig.core.sweep()

    assert rig.bodies == [BODY]
