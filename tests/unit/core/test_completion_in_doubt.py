"""Complete when the store's answer says nothing, comes late, or never: a look at the object decides, and the lease says who looks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig, until
from uploadcore import Completion, FileStatus, UploadState
from uploadcore.errors import (
    ChecksumMismatchError,
    DatabaseUnavailableError,
    InvalidRequestError,
    NoSuchMultipartError,
    PartsMissingError,
    PartsRejectedError,
    StorageFullError,
    StoreOverloadedError,
    StoreUnavailableError,
    UploadClosedError,
)
from uploadcore.plan import Part
from uploadcore.ports import ObjectHeaders
from uploadcore.upload import Address, Lease
from uploadcore_memory import MEMORY_CAPABILITIES, ManualClock, MemoryObjectStore, checksum_of

AWAY = StoreUnavailableError("no answer")


async def in_doubt(rig: Rig, body: bytes = BODY) -> str:
    """An upload whose completion failed without effect, which nobody knows."""
    upload = await rig.sent(body)
    rig.store.faults.fail("complete_multipart", AWAY)
    answer = await rig.complete(upload.id)
    assert (answer.upload.state, answer.file) == (UploadState.COMPLETING, None)
    return upload.id


async def assemble_late(rig: Rig) -> None:
    """The effect of a call given up as lost lands now."""
    address = rig.only().address
    parts = await MemoryObjectStore.list_parts(rig.store, address)
    await MemoryObjectStore.complete_multipart(
        rig.store, address, parts, size=sum(part.size for part in parts), checksum=None
    )


async def replace_object(rig: Rig, address: Address, body: bytes, marker: str) -> None:
    """Somebody writes under the key."""
    await MemoryObjectStore.delete(rig.store, address)
    headers = ObjectHeaders("text/plain", {"uploadcore-upload": marker})
    url = await rig.store.presign_put(
        address, Part(1, 0, len(body)), headers, checksum=None, expires_in=timedelta(minutes=1)
    )
    assert (await rig.store.put(url, body)).status == 200


# --- a lost answer ------------------------------------------------------------------------------------------------


async def test_rule_7_an_effect_whose_answer_was_lost_is_found_by_looking(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", AWAY, after_effect=True)

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert rig.store.calls["complete_multipart"] == 1


async def test_a_call_without_effect_leaves_it_completing_and_the_sweeper_goes_on_at_once(rig: Rig) -> None:
    upload_id = await in_doubt(rig)

    report = await rig.core.sweep()
    done = await rig.complete(upload_id)

    assert report.settled == 1
    assert done.file is not None
    assert rig.events == ["upload.completed"]


async def test_an_effect_that_lands_late_is_found_without_a_second_call(rig: Rig) -> None:
    upload_id = await in_doubt(rig)
    await assemble_late(rig)

    await rig.core.sweep()

    assert (await rig.complete(upload_id)).file is not None
    assert rig.store.calls["complete_multipart"] == 1


async def test_a_look_that_fails_too_leaves_it_completing(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", AWAY, after_effect=True)
    rig.store.faults.fail("head", AWAY)

    answer = await rig.complete(upload.id)
    await rig.core.sweep()

    assert answer.file is None
    assert (await rig.complete(upload.id)).file is not None


async def test_a_second_completion_that_finds_no_such_upload_looks_and_finds_the_object() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, repeatable_complete=False))
    upload_id = await in_doubt(rig)
    held = rig.store.faults.hold("complete_multipart")
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()

    await assemble_late(rig)
    held.let_go()

    assert (await sweeping).settled == 1
    assert (await rig.complete(upload_id)).file is not None


async def test_parts_that_are_gone_when_looked_at_again_put_the_upload_back_to_uploading(rig: Rig) -> None:
    upload_id = await in_doubt(rig)
    rig.store._multiparts[rig.only().address.storage_upload_id or ""].parts.pop(2)

    report = await rig.core.sweep()

    assert (report.settled, report.failed) == (1, 0)
    assert rig.only().state is UploadState.UPLOADING
    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload_id)
    assert caught.value.missing == ((2, 2),)


async def test_a_wrong_checksum_found_after_a_take_over_puts_it_back_to_uploading_and_is_no_failed_sweep(
    rig: Rig,
) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", AWAY)
    await rig.complete(upload.id, checksum=checksum_of(b"x"))

    report = await rig.core.sweep()

    assert (report.settled, report.failed) == (1, 0)
    assert rig.only().state is UploadState.UPLOADING
    with pytest.raises(ChecksumMismatchError):
        await rig.complete(upload.id, checksum=checksum_of(b"x"))


async def test_a_store_without_concurrent_complete_gets_no_second_call_until_ten_minutes_after_the_first() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, concurrent_complete=False))
    upload_id = await in_doubt(rig)
    for _ in range(9):
        rig.after(minutes=1)
        await rig.core.sweep()
    assert rig.store.calls["complete_multipart"] == 1

    rig.after(minutes=1)
    await rig.core.sweep()

    assert rig.store.calls["complete_multipart"] == 2
    assert (await rig.complete(upload_id)).file is not None


# --- a slow store -------------------------------------------------------------------------------------------------


async def test_a_store_that_takes_longer_than_twenty_seconds_is_a_202_and_later_a_200(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")

    first = await rig.within(rig.complete(upload.id))
    held.let_go()
    second = await rig.complete(upload.id)

    assert (first.upload.state, first.file) == (UploadState.COMPLETING, None)
    assert second.file is not None
    assert rig.store.calls["complete_multipart"] == 1


async def test_work_goes_on_when_the_caller_goes_away(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()

    caller.cancel()
    held.let_go()
    await until(lambda: rig.only().state is UploadState.COMPLETED)

    assert (await rig.complete(upload.id)).file is not None


async def test_the_lease_is_renewed_every_ten_seconds_while_the_store_works(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()

    for minute in range(5 * 6):
        before = rig.only().version
        rig.after(seconds=10)
        await until(lambda before=before: rig.only().version > before)  # type: ignore[misc]
        assert rig.only().lease_until == rig.clock.now() + timedelta(seconds=30), minute
        assert (await rig.another_core().sweep()).settled == 0
    held.let_go()

    assert (await caller).upload.state is UploadState.COMPLETING  # its 20 seconds are over
    await until(lambda: rig.only().state is UploadState.COMPLETED)


async def test_a_renewal_the_database_does_not_take_is_tried_again(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    until_then = rig.only().lease_until

    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))
    calls = rig.database.calls["transaction"]
    rig.after(seconds=10)
    await until(lambda: rig.database.calls["transaction"] > calls and rig.clock.sleepers == 2)
    assert rig.only().lease_until == until_then
    rig.after(seconds=9.9)
    rig.after(seconds=0.1)
    await until(lambda: rig.only().lease_until != until_then)
    held.let_go()

    await caller
    await until(lambda: rig.only().state is UploadState.COMPLETED)


# --- a lease that changes hands -----------------------------------------------------------------------------------


async def test_a_completer_that_froze_is_taken_over_and_what_it_still_does_is_not_saved(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    rig.clock._sleepers.clear()  # frozen: its renewals do not run

    rig.after(seconds=31)
    assert (await rig.another_core().sweep()).settled == 1
    assert rig.only().state is UploadState.COMPLETED
    before = rig.only()
    held.let_go()

    assert (await caller).file is not None
    assert rig.only() == before
    assert rig.events == ["upload.completed"]


async def test_a_renewal_that_finds_the_lease_taken_over_ends(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    async with rig.database.inner.transaction() as tx:  # as a take-over does
        await tx.uploads.save(rig.only().lease_renewed(Lease("other", timedelta(seconds=30))))
    taken = rig.only()

    rig.after(seconds=10)
    await until(lambda: rig.clock.sleepers == 1)
    assert rig.only() == taken
    held.let_go()

    answer = await caller
    assert (answer.upload.state, answer.file) == (UploadState.COMPLETING, None)


async def test_an_instance_that_died_is_taken_over_once_its_lease_has_run_out(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    rig.database.faults.fail("transaction", DatabaseUnavailableError("died"))
    await rig.core.uploads.close()
    assert (await caller).file is None

    assert (await rig.another_core().sweep()).settled == 0
    rig.after(seconds=31)
    assert (await rig.another_core().sweep()).settled == 1

    assert (await rig.complete(upload.id)).file is not None


async def test_closing_gives_the_lease_up_so_that_another_goes_on_at_once(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()

    await rig.core.uploads.close()
    answer = await caller
    assert (await rig.another_core().sweep()).settled == 1

    assert (answer.upload.state, answer.file) == (UploadState.COMPLETING, None)
    assert (await rig.another_core().uploads.complete(upload.id, owner=OWNER)).file is not None


async def test_a_caller_elsewhere_sees_the_result_as_soon_as_the_database_has_it(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    here = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    there = asyncio.ensure_future(rig.within(rig.another_core().uploads.complete(upload.id, owner=OWNER), step=0.5))
    await until(lambda: rig.clock.monotonic() > 3)

    held.let_go()

    assert (await there) == (await here)


# --- lost by the store --------------------------------------------------------------------------------------------


async def test_an_uploading_upload_the_store_lost_is_reopened_with_all_parts_missing(rig: Rig) -> None:
    upload = await rig.sent()
    old = rig.only().address
    rig.store.lose(old)

    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload.id)

    assert caught.value.missing == ((1, 3),)
    assert rig.only().address.storage_upload_id not in {None, old.storage_upload_id}
    await rig.send(upload.id)
    assert (await rig.complete(upload.id)).file is not None
    assert rig.events == ["upload.reopened", "upload.completed"]


async def test_of_two_that_reopen_one_wins_and_the_other_aborts_what_it_made(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.lose(rig.only().address)

    answers = await asyncio.gather(rig.complete(upload.id), rig.complete(upload.id), return_exceptions=True)

    assert all(isinstance(answer, PartsMissingError) for answer in answers)
    assert list(rig.store.multiparts) == [rig.only().address.storage_upload_id]


async def test_an_abort_that_wins_against_a_reopening_is_what_its_completer_is_told(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.lose(rig.only().address)
    held = rig.store.faults.hold("create_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()

    await rig.abort(upload.id)
    held.let_go()

    with pytest.raises(UploadClosedError) as caught:
        await caller
    assert caught.value.reason == "aborted"
    assert rig.store.multiparts == {}


async def test_while_completing_it_counts_as_lost_when_seen_twice_ten_seconds_apart(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    rig.store.lose(rig.only().address)
    held.let_go()
    assert (await caller).file is None
    assert rig.only().lost_at == rig.clock.now()

    rig.after(seconds=9)
    await rig.core.sweep()
    assert rig.only().state is UploadState.COMPLETING
    rig.after(seconds=1)
    await rig.core.sweep()

    assert (rig.only().state, rig.only().expected, rig.only().fenced_at) == (UploadState.UPLOADING, None, None)
    assert rig.events == ["upload.reopened"]
    await rig.send(upload.id)
    assert (await rig.complete(upload.id)).file is not None


async def test_a_caller_who_waits_while_it_is_reopened_is_told_what_is_missing(rig: Rig) -> None:
    upload_id = await in_doubt(rig)
    rig.store.lose(rig.only().address)
    await rig.core.sweep()
    rig.after(seconds=10)
    caller = asyncio.ensure_future(rig.complete(upload_id))
    await until(lambda: rig.clock.sleepers == 1)

    await rig.core.sweep()
    rig.after(seconds=1)

    with pytest.raises(PartsMissingError):
        await caller


async def test_a_single_put_whose_object_vanished_is_lost_too(rig: Rig) -> None:
    upload = await rig.sent(b"hello")
    held = rig.store.faults.hold("head")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    second = rig.store.faults.hold("head")
    held.let_go()
    await second.reached.wait()
    await MemoryObjectStore.delete(rig.store, rig.only().address)
    second.let_go()
    assert (await caller).file is None
    rig.after(seconds=10)

    await rig.core.sweep()

    assert rig.only().state is UploadState.UPLOADING
    await rig.send(upload.id, body=b"hello")
    assert (await rig.complete(upload.id)).file is not None


async def test_of_two_that_reopen_a_single_put_one_wins(rig: Rig) -> None:
    upload = await rig.sent(b"hello")
    rig.store.faults.pass_by("head")
    rig.store.faults.fail("head", AWAY)
    assert (await rig.complete(upload.id)).file is None
    await MemoryObjectStore.delete(rig.store, rig.only().address)
    await rig.core.sweep()
    rig.after(seconds=10)
    rig.database.faults.pass_by("transaction")  # the take-over
    held = rig.database.faults.hold("transaction")
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()
    async with rig.database.inner.transaction() as tx:
        won = await tx.uploads.save(rig.only().reopened(None, confirmed_after=timedelta(seconds=10)))
    held.let_go()

    assert (await sweeping).failed == 0
    assert rig.only() == won


# --- an object nobody expected ------------------------------------------------------------------------------------


async def test_an_object_found_while_uploading_is_completed_if_it_is_the_whole(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", PartsRejectedError("a part is not as named"))
    with pytest.raises(PartsMissingError):
        await rig.complete(upload.id)
    await assemble_late(rig)

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert rig.store.calls["complete_multipart"] == 1


async def test_an_object_found_while_uploading_settles_the_size_of_an_open_plan(rig: Rig) -> None:
    upload = await rig.begin(None)
    await rig.send(upload.id)
    await assemble_late(rig)

    done = await rig.complete(upload.id)

    assert (done.upload.size, done.upload.part_count) == (25, 3)


@pytest.mark.parametrize(
    ("body", "marker"), [(BODY[:24], None), (BODY, "another"), (BODY[::-1], None)], ids=["size", "marker", "checksum"]
)
async def test_an_object_that_is_not_what_was_assembled_fails_the_upload_and_is_deleted(
    rig: Rig, body: bytes, marker: str | None
) -> None:
    upload = await rig.sent(checksum=checksum_of(BODY))
    held = rig.store.faults.hold("head")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    await replace_object(rig, rig.only().address, body, marker or upload.id)
    held.let_go()

    with pytest.raises(UploadClosedError) as caught:
        await caller

    assert (caught.value.state, caught.value.reason) == (UploadState.FAILED, "integrity_failed")
    assert (rig.bodies, rig.events) == ([], ["upload.failed"])
    assert rig.database.inner.files[upload.file_id].status is FileStatus.FAILED
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def fails_slowly(rig: Rig) -> asyncio.Future[Completion]:
    """An upload whose wrong object is being deleted."""
    upload = await rig.sent()
    looking, deleting = rig.store.faults.hold("head"), rig.store.faults.hold("delete")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await looking.reached.wait()
    await replace_object(rig, rig.only().address, b"wrong", upload.id)
    looking.let_go()
    await deleting.reached.wait()
    assert rig.only().state is UploadState.ABORTING
    return caller


async def test_the_lease_of_a_completion_that_failed_is_renewed_while_it_is_cleaned_up_after(rig: Rig) -> None:
    caller = await fails_slowly(rig)
    before = rig.only()

    rig.after(seconds=10)
    await until(lambda: rig.only().version == before.version + 1)
    rig.after(seconds=21)
    assert (await rig.another_core().sweep()).cleaned == 0

    await rig.core.uploads.close()
    caller.cancel()
    assert (await rig.another_core().sweep()).cleaned == 1
    assert rig.only().state is UploadState.FAILED


async def test_closing_while_cleaning_leaves_the_rest_to_the_sweeper(rig: Rig) -> None:
    caller = await fails_slowly(rig)

    await rig.core.uploads.close()
    assert (await caller).file is None
    rig.after(seconds=31)
    await rig.core.sweep()

    assert rig.only().state is UploadState.FAILED


# --- giving up ----------------------------------------------------------------------------------------------------


async def never_settled(rig: Rig) -> str:
    """An upload that could not be settled in 24 hours, nor by a call after them."""
    upload_id = await in_doubt(rig)
    rig.store.faults.fail("complete_multipart", AWAY, times=1_000)
    for _ in range(24):
        rig.after(hours=1)
        assert (await rig.core.sweep()).unsettled == 1
        assert rig.only().state is UploadState.COMPLETING
    rig.after(hours=1)
    return upload_id


async def test_after_24_hours_and_two_more_calls_the_store_is_made_to_abort_and_the_upload_fails(rig: Rig) -> None:
    upload_id = await never_settled(rig)

    await rig.core.sweep()

    with pytest.raises(UploadClosedError) as caught:
        await rig.complete(upload_id)
    assert (caught.value.state, caught.value.reason) == (UploadState.FAILED, "gave_up")
    assert (rig.store.multiparts, rig.events) == ({}, ["upload.failed"])


async def test_an_effect_that_lands_just_before_giving_up_counts(rig: Rig) -> None:
    upload_id = await never_settled(rig)
    held = rig.store.faults.hold("abort_multipart")
    sweeping = asyncio.ensure_future(rig.core.sweep())
    await held.reached.wait()

    await assemble_late(rig)
    held.let_go()
    await sweeping

    assert (await rig.complete(upload_id)).file is not None


@pytest.mark.parametrize("sweeps", [True, False], ids=["swept meanwhile", "nobody there"])
async def test_a_store_that_was_away_for_days_is_asked_to_complete_before_anything_is_given_up(
    rig: Rig, sweeps: bool
) -> None:
    await rig.core.sweep()
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", AWAY)
    rig.store.faults.fail("head", AWAY, times=1_000)
    assert (await rig.complete(upload.id)).file is None
    for _ in range(72):
        rig.after(hours=1)
        if sweeps:
            with suppress(StoreUnavailableError):
                await rig.core.sweep()
    rig.store.faults.heal()

    await rig.core.sweep()

    assert (rig.only().state, rig.bodies, rig.events) == (UploadState.COMPLETED, [BODY], ["upload.completed"])


async def test_a_clock_that_is_ahead_by_days_gives_nothing_up(rig: Rig) -> None:
    await in_doubt(rig)
    ahead = rig.another_core(clock=ManualClock(rig.clock.now() + timedelta(days=3)))
    rig.store.faults.fail("complete_multipart", AWAY, times=3)
    for _ in range(3):
        rig.after(seconds=31)
        assert (await ahead.sweep()).unsettled == 1

    assert rig.only().state is UploadState.COMPLETING
    assert len(rig.store.multiparts) == 1


async def test_a_store_that_may_still_be_assembling_is_called_every_ten_minutes_at_most() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, concurrent_complete=False))
    await in_doubt(rig)
    rig.store.faults.fail("complete_multipart", AWAY, times=1_000)
    called: list[int] = []
    for minute in range(1, 40):
        rig.after(minutes=1)
        before = rig.store.calls["complete_multipart"]
        await rig.core.sweep()
        if rig.store.calls["complete_multipart"] > before:
            called.append(minute)

    assert called == [10, 20, 30]


async def test_nor_by_one_whose_clock_is_ahead() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, concurrent_complete=False))
    await in_doubt(rig)
    ahead = rig.another_core(clock=ManualClock(rig.clock.now() + timedelta(hours=3)))

    await ahead.sweep()

    assert rig.store.calls["complete_multipart"] == 1
    assert rig.only().state is UploadState.COMPLETING


async def test_a_single_put_whose_object_is_gone_is_opened_again(rig: Rig) -> None:
    upload = await rig.sent(b"hello")
    rig.store.faults.pass_by("head")
    rig.store.faults.fail("head", AWAY)
    assert (await rig.complete(upload.id)).file is None
    await MemoryObjectStore.delete(rig.store, rig.only().address)
    rig.after(hours=1)

    for _ in range(2):
        rig.after(minutes=1)
        await rig.core.sweep()

    assert (rig.only().state, rig.events) == (UploadState.UPLOADING, ["upload.reopened"])


async def test_a_sighting_counts_no_more_once_the_upload_was_seen_again(rig: Rig) -> None:
    await in_doubt(rig)
    rig.store.faults.fail("list_parts", NoSuchMultipartError("unknown"))
    await rig.core.sweep()
    assert rig.only().lost_at is not None
    rig.store.faults.fail("complete_multipart", AWAY)
    rig.after(hours=1)
    await rig.core.sweep()
    assert rig.only().lost_at is None

    rig.store.faults.fail("list_parts", NoSuchMultipartError("unknown"))
    rig.after(hours=1)
    await rig.core.sweep()

    assert rig.only().state is UploadState.COMPLETING
    await rig.core.sweep()
    assert rig.bodies == [BODY]


async def test_one_that_is_listed_and_yet_unknown_is_opened_again(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", NoSuchMultipartError("unknown"), times=3)
    await rig.complete(upload.id)
    for _ in range(2):
        rig.after(minutes=1)
        await rig.core.sweep()

    assert (rig.only().state, rig.events) == (UploadState.UPLOADING, ["upload.reopened"])


# --- parts that were sent after the fence -------------------------------------------------------------------------


async def test_a_part_that_was_sent_after_the_fence_is_left_out(rig: Rig) -> None:
    """To go back to uploading for it would let what the call before may still bring about pass for the whole."""
    upload = await rig.begin(None)
    urls = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1, 2, 3])
    for url, part in zip(urls[:2], (BODY[:10], BODY[10:20]), strict=True):
        await rig.redeem(url, part)
    rig.store.faults.fail("complete_multipart", AWAY)
    await rig.complete(upload.id)
    await rig.redeem(urls[2], BODY[20:])

    await rig.core.sweep()

    assert (rig.only().state, rig.only().size, rig.bodies) == (UploadState.COMPLETED, 20, [BODY[:20]])
    with pytest.raises(InvalidRequestError, match="was completed with 20 bytes, not 25"):  # who believes that it is in
        await rig.core.uploads.complete(upload.id, owner=OWNER, size=25)
    assert (await rig.core.uploads.complete(upload.id, owner=OWNER, size=20)).file is not None


async def test_of_what_was_assembled_before_another_size_is_refused(rig: Rig) -> None:
    upload = await rig.begin(None)
    await rig.send(upload.id)
    await assemble_late(rig)

    with pytest.raises(InvalidRequestError, match=f"of {len(BODY)} bytes, not 20"):
        await rig.core.uploads.complete(upload.id, owner=OWNER, size=20)

    assert rig.only().state is UploadState.UPLOADING
    assert (await rig.core.uploads.complete(upload.id, owner=OWNER, size=len(BODY))).file is not None


# --- no room ------------------------------------------------------------------------------------------------------


async def test_where_there_is_no_room_to_assemble_it_the_upload_stays_and_goes_on_once_there_is(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", StorageFullError("no room"))

    with pytest.raises(StorageFullError):
        await rig.complete(upload.id)

    assert (rig.only().state, rig.only().lease_until) == (UploadState.UPLOADING, None)
    assert (await rig.complete(upload.id)).file is not None


async def test_where_there_is_no_room_it_can_be_aborted_to_make_some(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", StorageFullError("no room"))
    with pytest.raises(StorageFullError):
        await rig.complete(upload.id)

    await rig.abort(upload.id)

    assert rig.store.multiparts == {}


async def test_what_was_fenced_in_time_waits_for_room_however_long(rig: Rig) -> None:
    """The call before may have had room: it does not go back, and is not given up."""
    upload = await rig.sent()
    rig.after(hours=23)
    rig.store.faults.fail("complete_multipart", AWAY)
    await rig.complete(upload.id)
    rig.store.faults.fail("complete_multipart", StorageFullError("no room"), times=72)
    for _ in range(72):
        rig.after(hours=1)
        assert (await rig.core.sweep()).unsettled == 1
        assert rig.only().state is UploadState.COMPLETING

    await rig.core.sweep()

    assert (rig.only().state, rig.bodies) == (UploadState.COMPLETED, [BODY])


# --- too many that wait for the store ------------------------------------------------------------------------------


async def test_a_call_that_was_not_made_for_want_of_room_is_told_and_can_be_made_again_at_once() -> None:
    """Where a call in doubt would wait for ten minutes, this one is none."""
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, concurrent_complete=False))
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", StoreOverloadedError("too many calls wait"))

    with pytest.raises(StoreOverloadedError):
        await rig.complete(upload.id)

    assert (rig.only().state, rig.only().lease_until) == (UploadState.UPLOADING, None)
    assert (await rig.complete(upload.id)).file is not None


async def test_for_want_of_room_nothing_is_given_up_that_was_called_before(rig: Rig) -> None:
    await in_doubt(rig)
    rig.after(hours=25)
    rig.store.faults.fail("complete_multipart", AWAY)
    await rig.core.sweep()
    rig.store.faults.fail("complete_multipart", StoreOverloadedError("too many calls wait"), times=3)
    for _ in range(3):
        rig.after(hours=1)
        assert (await rig.core.sweep()).unsettled == 1
    assert rig.only().state is UploadState.COMPLETING

    await rig.core.sweep()

    assert (rig.only().state, rig.bodies) == (UploadState.COMPLETED, [BODY])


# --- a caller that goes away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_once_it_is_fenced_somebody_is_at_work_whenever_its_caller_goes_away(rig: Rig, after: int) -> None:
    upload = await rig.sent()
    fence = rig.database.faults.hold("transaction")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await fence.reached.wait()
    fence.let_go()
    for _ in range(after):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    await until(lambda: rig.only().state is UploadState.COMPLETED)


async def test_closing_waits_for_a_fence_and_gives_its_lease_up(rig: Rig) -> None:
    upload = await rig.sent()
    fence, call = rig.database.faults.hold("transaction"), rig.store.faults.hold("complete_multipart")
    caller = asyncio.ensure_future(rig.complete(upload.id))
    await fence.reached.wait()
    closing = asyncio.ensure_future(rig.core.uploads.close())
    await asyncio.sleep(0)
    fence.let_go()
    await closing
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    call.let_go()

    assert rig.only().state is UploadState.COMPLETING
    assert (await rig.another_core().sweep()).settled == 1


async def test_no_such_upload_and_no_object_after_a_take_over_is_a_first_sighting(rig: Rig) -> None:
    await in_doubt(rig)
    rig.store.faults.fail("list_parts", NoSuchMultipartError("unknown"))

    await rig.core.sweep()

    assert rig.only().state is UploadState.COMPLETING
    assert rig.only().lost_at == rig.clock.now()


# --- a caller's word against what stands already ------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [True, False])
async def test_what_stands_already_is_not_removed_for_a_wrong_checksum(forgets: bool) -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, forgets_completed=forgets))
    upload = await rig.sent()
    await assemble_late(rig)

    with pytest.raises(ChecksumMismatchError):
        await rig.complete(upload.id, checksum=checksum_of(b"other"))

    assert (rig.only().state, rig.bodies) == (UploadState.UPLOADING, [BODY])
    assert (await rig.complete(upload.id, checksum=checksum_of(BODY))).file is not None


# --- lost, and not to be opened again -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageFullError("full"), InvalidRequestError("not that name")])
async def test_what_is_lost_and_can_not_be_opened_again_is_its_owners_to_abort(rig: Rig, error: Exception) -> None:
    upload_id = await in_doubt(rig)
    rig.store.lose(rig.only().address)
    rig.store.faults.fail("create_multipart", error, times=2)

    for _ in range(2):
        rig.after(minutes=11)
        await rig.core.sweep()

    assert (rig.only().state, rig.only().expected) == (UploadState.UPLOADING, None)
    with pytest.raises(type(error)):
        await rig.complete(upload_id)
    await rig.abort(upload_id)
    assert rig.only().state is UploadState.ABORTED


async def test_what_is_lost_is_opened_again_at_the_next_call_once_there_is_room(rig: Rig) -> None:
    upload_id = await in_doubt(rig)
    rig.store.lose(rig.only().address)
    rig.store.faults.fail("create_multipart", StorageFullError("full"))
    for _ in range(2):
        rig.after(minutes=11)
        await rig.core.sweep()

    with pytest.raises(PartsMissingError):
        await rig.complete(upload_id)
    await rig.send(upload_id)

    assert (await rig.complete(upload_id)).file is not None
    assert rig.bodies == [BODY]
