"""Abort: recorded first, verified at the store, and verified again when the last URL has run out (rules 2, 6, 10)."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial

import anyio
import pytest

from tests.unit.core.rig import BODY, OWNER, PART, Fault, Rig, until
from uploadcore import FileStatus, SweepReport, UploadState
from uploadcore.errors import StoreUnavailableError, UploadBusyError
from uploadcore.ports import ObjectHeaders
from uploadcore.upload import Address
from uploadcore_memory import MemoryObjectStore


@pytest.mark.parametrize("body", [b"hello", BODY])
async def test_rule_10_an_abort_leaves_nothing_at_the_store_and_says_so_once(rig: Rig, body: bytes) -> None:
    upload = await rig.sent(body)

    view = await rig.abort(upload.id)

    assert view.state is UploadState.ABORTED
    assert (rig.store.multiparts, rig.store.objects, rig.events) == ({}, {}, ["upload.aborted"])
    assert rig.database.inner.files[upload.file_id].status is FileStatus.FAILED
    assert rig.database.inner.open_quota(OWNER) == (0, 0)
    assert rig.only().recheck_at == rig.clock.now() + timedelta(minutes=30, hours=1)


async def test_rule_2_the_abort_is_recorded_before_the_store_is_called(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.store.faults.hold("abort_multipart")

    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await held.reached.wait()

    assert rig.only().state is UploadState.ABORTING
    held.let_go()
    assert (await aborting).state is UploadState.ABORTED


async def test_what_the_store_does_not_clean_now_the_sweeper_cleans_later(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))

    view = await rig.abort(upload.id)
    assert (view.state, view.reason) == (UploadState.ABORTING, "aborted")
    report = await rig.core.sweep()

    assert report.cleaned == 1
    assert (rig.only().state, rig.store.multiparts) == (UploadState.ABORTED, {})


async def test_rule_10_a_part_that_survives_the_first_abort_is_aborted_again(rig: Rig) -> None:
    upload = await rig.sent()
    headers = ObjectHeaders("text/plain")
    held = rig.store.faults.hold("delete")
    await MemoryObjectStore.put_marker(rig.store, rig.only().address, headers)
    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await held.reached.wait()

    await MemoryObjectStore.create_multipart(rig.store, rig.only().address, headers)  # a late opener's
    held.let_go()

    assert (await aborting).state is UploadState.ABORTED
    assert (rig.store.multiparts, rig.store.objects) == ({}, {})


async def test_rule_10_a_store_that_still_shows_something_after_three_rounds_is_left_to_the_sweeper(rig: Rig) -> None:
    upload = await rig.sent(b"hello")
    deleted = []

    async def without_effect(address: Address) -> None:
        deleted.append(address)

    rig.store.__dict__["delete"] = without_effect
    assert (await rig.abort(upload.id)).state is UploadState.ABORTING
    assert len(deleted) == 3
    del rig.store.__dict__["delete"]
    await rig.core.sweep()

    assert (rig.only().state, rig.bodies) == (UploadState.ABORTED, [])


async def test_rule_10_what_lands_after_the_abort_is_removed_when_the_last_url_has_run_out(rig: Rig) -> None:
    upload = await rig.begin(5, sign=1)
    await rig.abort(upload.id)
    rig.after(minutes=14)
    await rig.redeem(upload.parts[0], b"hello")
    assert rig.bodies == [b"hello"]

    assert (await rig.core.sweep()).rechecked == 0
    rig.after(minutes=76)
    report = await rig.core.sweep()

    assert (report.rechecked, rig.bodies) == (1, [])
    assert (rig.only().state, rig.only().recheck_at) == (UploadState.ABORTED, None)
    rig.after(hours=9)
    assert (await rig.core.sweep()).rechecked == 0


async def test_a_url_issued_before_the_abort_is_dead_with_its_multipart_upload(rig: Rig) -> None:
    upload = await rig.begin(sign=1)

    await rig.abort(upload.id)

    assert (await rig.store.put(upload.parts[0].request, BODY[:PART])).status == 404


async def test_an_abort_taken_over_by_the_sweeper_answers_what_it_did(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.store.faults.hold("abort_multipart")
    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await held.reached.wait()
    frozen = rig.database.faults.hold("transaction")  # its process stands still, and renews nothing
    rig.after(seconds=31)
    await frozen.reached.wait()

    assert (await rig.another_core().sweep()).cleaned == 1
    held.let_go()
    frozen.let_go()

    assert (await aborting).state is UploadState.ABORTED
    assert rig.events == ["upload.aborted"]


async def test_an_abort_at_a_slow_store_keeps_its_lease(rig: Rig) -> None:
    def has_another_lease(before: datetime | None) -> bool:
        return rig.only().lease_until != before

    upload = await rig.begin()
    held = rig.store.faults.hold("abort_multipart")
    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await held.reached.wait()
    for _ in range(6):
        lease_until = rig.only().lease_until
        await until(lambda: rig.clock.sleepers > 0)
        rig.after(seconds=10)
        await until(partial(has_another_lease, lease_until))
        assert await rig.another_core().sweep() == SweepReport()
    held.let_go()

    assert (await aborting).state is UploadState.ABORTED


async def amid_a_renewal(rig: Rig) -> Fault:
    """An abort hangs at the store, and the renewal of its lease in the database: this lets the renewal go."""
    renewing = rig.database.faults.hold("transaction")
    rig.after(seconds=10)
    await renewing.reached.wait()
    return renewing


async def assert_another_may_take_over(rig: Rig) -> None:
    rig.after(seconds=10)
    await asyncio.sleep(0)
    assert rig.clock.sleepers == 0  # nothing renews
    rig.after(seconds=20)
    assert (await rig.another_core().sweep()).cleaned == 1
    assert rig.only().state is UploadState.ABORTED
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_abort_cancelled_amid_a_renewal_however_often_renews_no_more(rig: Rig, times: int) -> None:
    upload = await rig.begin()
    held = rig.store.faults.hold("abort_multipart")
    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await held.reached.wait()
    renewing = await amid_a_renewal(rig)

    for _ in range(times):
        aborting.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    renewing.let_go()

    with pytest.raises(asyncio.CancelledError):
        await aborting
    await assert_another_may_take_over(rig)


async def test_an_abort_in_a_cancelled_scope_renews_no_more(rig: Rig) -> None:
    """As in the frameworks that are made of such scopes: every call awaited from then on is cancelled, and cleaning up is no exception."""
    upload = await rig.begin()
    held = rig.store.faults.hold("abort_multipart")
    scope = anyio.CancelScope()

    async def abort() -> None:
        with scope:
            await rig.abort(upload.id)

    aborting = asyncio.ensure_future(abort())
    await held.reached.wait()
    renewing = await amid_a_renewal(rig)

    scope.cancel()
    await aborting
    renewing.let_go()

    await assert_another_may_take_over(rig)


async def test_a_lease_given_up_while_a_renewal_waits_is_not_renewed(rig: Rig) -> None:
    upload = await rig.begin()
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
    rig.database.faults.pass_by("transaction")
    giving_up = rig.database.faults.hold("transaction")
    aborting = asyncio.ensure_future(rig.abort(upload.id))
    await giving_up.reached.wait()
    rig.after(seconds=10)
    await until(lambda: rig.clock.sleepers == 0)
    giving_up.let_go()

    assert (await aborting).state is UploadState.ABORTING

    assert rig.only().lease_owner is None
    assert (await rig.another_core().sweep()).cleaned == 1


async def test_rule_6_of_an_abort_and_an_expiry_the_first_reason_stands(rig: Rig) -> None:
    upload = await rig.begin()
    rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
    await rig.abort(upload.id)
    rig.after(days=2)

    await rig.core.sweep()

    assert (rig.only().state, rig.events) == (UploadState.ABORTED, ["upload.aborted"])


async def test_fifty_concurrent_aborts_have_one_effect_and_one_event(rig: Rig) -> None:
    upload = await rig.sent()

    views = await asyncio.gather(*(rig.abort(upload.id) for _ in range(50)))

    assert {view.reason for view in views} == {"aborted"}
    assert (rig.only().state, rig.events) == (UploadState.ABORTED, ["upload.aborted"])


async def test_an_upload_that_keeps_changing_is_busy_after_five_attempts(rig: Rig) -> None:
    upload = await rig.begin()

    async def meddle() -> None:
        for _ in range(5):
            held = rig.database.faults.hold("transaction")
            await held.reached.wait()
            async with rig.database.inner.transaction() as tx:
                await tx.uploads.save(rig.only().recheck(None))
            held.let_go()

    meddling = asyncio.ensure_future(meddle())
    await asyncio.sleep(0)
    with pytest.raises(UploadBusyError, match="keeps changing"):
        await rig.abort(upload.id)
    await meddling
    assert rig.only().state is UploadState.UPLOADING
