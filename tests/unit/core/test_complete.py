"""Complete: only a whole blob, once, with one answer for everybody (rules 5, 6, 7, 8, 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig, gathered, until
from uploadcore import Admission, ChecksumAlgorithm, Completion, FileStatus, UploadState, VerifiedBy
from uploadcore.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    PartsMissingError,
    PartsRejectedError,
    StoreUnavailableError,
    TooLargeError,
    UploadBusyError,
    UploadClosedError,
)
from uploadcore_memory import MEMORY_CAPABILITIES, checksum_of

T = TypeVar("T")


@pytest.mark.parametrize("body", [b"", b"hello", BODY, BODY[:20]])
async def test_the_file_has_exactly_the_bytes_that_were_sent(rig: Rig, body: bytes) -> None:
    done = await rig.completed(body)

    assert done.upload.state is UploadState.COMPLETED
    assert done.file is not None
    assert (done.file.status, done.file.size, done.file.version) == (FileStatus.AVAILABLE, len(body), 1)
    content = await rig.core.files.content(done.file.id, owner=OWNER)
    assert await rig.store.fetch(content) == body


async def test_rule_8_the_event_is_written_once_with_the_change(rig: Rig) -> None:
    done = await rig.completed()

    (event,) = rig.database.inner.events
    assert (event.type, event.upload_id, event.file_id) == ("upload.completed", done.upload.id, done.upload.file_id)
    assert event.data["size"] == "25"


async def test_rule_9_files_available_are_objects_under_our_prefix_and_completed_events(rig: Rig) -> None:
    for number in range(3):
        await rig.completed(f"content {number}".encode())
    await rig.abort((await rig.sent()).id)

    files = [file for file in rig.database.inner.files.values() if file.status is FileStatus.AVAILABLE]
    assert len(files) == len(rig.bodies) == rig.events.count("upload.completed") == 3
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


# --- only a whole blob --------------------------------------------------------------------------------------------


async def test_rule_5_missing_and_mismatched_parts_are_named_and_nothing_changes(rig: Rig) -> None:
    upload = await rig.begin(45)
    await rig.send(upload.id, 1, 3, body=BODY + BODY)
    before = rig.only()

    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload.id)

    assert (caught.value.missing, caught.value.mismatched) == (((2, 2), (4, 5)), ())
    assert rig.only() == before
    assert rig.store.calls["complete_multipart"] == 0


async def test_rule_5_a_part_of_the_wrong_size_or_beyond_the_plan_is_named() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, conditional_put=False))
    upload = await rig.begin(25)
    other = await rig.begin(None)
    await rig.send(upload.id, 1, 2, 3)
    # A client with URLs of its own making could send what the plan does not have; here, URLs of an open plan do.
    address = rig.upload(upload.id).address
    for number, body in ((2, b"short"), (5, b"stray")):
        part = rig.upload(other.id).plan.part(number)
        (url,) = await rig.store.presign_parts(address, [part], checksums={}, expires_in=rig.config.url_lifetime)
        await rig.store.put(url, body)

    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload.id)

    assert (caught.value.missing, caught.value.mismatched) == ((), (2, 5))


async def test_a_single_put_that_did_not_arrive_is_missing_part_one(rig: Rig) -> None:
    upload = await rig.begin(5)

    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload.id)
    assert caught.value.missing == ((1, 1),)


async def test_a_size_that_is_not_the_declared_one_is_refused(rig: Rig) -> None:
    upload = await rig.sent()

    with pytest.raises(InvalidRequestError, match="declared as 25 bytes, not 24"):
        await rig.complete(upload.id, size=24)
    assert (await rig.complete(upload.id, size=25)).file is not None


# --- open plans ---------------------------------------------------------------------------------------------------


async def test_an_open_plan_learns_its_part_size_from_part_one_and_its_size_from_the_last(rig: Rig) -> None:
    upload = await rig.begin(None, None)
    signed = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1, 2, 3])
    for part, body in zip(signed, (BODY[:10], BODY[10:20], BODY[20:]), strict=True):
        await rig.redeem(part, body)

    done = await rig.complete(upload.id)

    assert (done.upload.size, done.upload.part_count) == (25, 3)
    assert rig.bodies == [BODY]


async def test_an_open_plan_is_held_to_the_size_said_at_completion(rig: Rig) -> None:
    upload = await rig.begin(None)
    await rig.send(upload.id)

    with pytest.raises(PartsMissingError):
        await rig.complete(upload.id, size=31)
    with pytest.raises(InvalidRequestError, match="of unknown size, not -1"):
        await rig.complete(upload.id, size=-1)
    assert (await rig.complete(upload.id, size=25)).upload.size == 25


@pytest.mark.parametrize("limits", [Admission(max_unknown_size=24), Admission(max_size=24)])
async def test_an_open_plan_that_outgrew_what_was_admitted_is_too_large_and_stays_uploading(limits: Admission) -> None:
    rig = Rig(limits=limits)
    upload = await rig.begin(None)
    await rig.send(upload.id)

    with pytest.raises(TooLargeError):
        await rig.complete(upload.id)
    assert rig.only().state is UploadState.UPLOADING


async def test_an_open_plan_without_any_part_is_not_whole(rig: Rig) -> None:
    upload = await rig.begin(None)

    with pytest.raises(PartsMissingError):
        await rig.complete(upload.id)


# --- checksums ----------------------------------------------------------------------------------------------------


async def test_the_store_vouches_for_a_checksum_it_computed(rig: Rig) -> None:
    done = await rig.completed(checksum=checksum_of(BODY))

    assert done.file is not None
    assert (done.file.checksum, done.file.verified_by) == (checksum_of(BODY), VerifiedBy.STORE)


async def test_a_checksum_the_store_does_not_compute_is_recorded_as_the_clients_word(rig: Rig) -> None:
    upload = await rig.sent()
    said = checksum_of(BODY, ChecksumAlgorithm.SHA256)

    done = await rig.complete(upload.id, checksum=said)

    assert done.file is not None
    assert (done.file.checksum, done.file.verified_by) == (said, VerifiedBy.CLIENT)


async def test_a_store_without_checksums_leaves_the_file_without_one() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, object_checksums=frozenset()))

    done = await rig.completed()

    assert done.file is not None
    assert (done.file.checksum, done.file.verified_by) == (None, None)


@pytest.mark.parametrize("body", [b"hello", BODY])
async def test_a_wrong_checksum_found_before_assembly_leaves_the_upload_as_it_is(rig: Rig, body: bytes) -> None:
    upload = await rig.sent(body)

    with pytest.raises(ChecksumMismatchError):
        await rig.complete(upload.id, checksum=checksum_of(b"something else"))

    assert rig.only().state is UploadState.UPLOADING
    assert (await rig.complete(upload.id, checksum=checksum_of(body))).file is not None


async def test_a_completed_upload_confirms_no_other_checksum(rig: Rig) -> None:
    upload = await rig.sent()
    right, wrong = (checksum_of(body, ChecksumAlgorithm.CRC64NVME) for body in (BODY, b"other"))
    done = await rig.complete(upload.id)

    with pytest.raises(ChecksumMismatchError):
        await rig.complete(upload.id, checksum=wrong)

    assert await rig.complete(upload.id, checksum=right) == done


async def test_a_completed_upload_confirms_no_other_checksum_than_its_client_said(rig: Rig) -> None:
    upload = await rig.sent()
    right, wrong = (checksum_of(body, ChecksumAlgorithm.SHA256) for body in (BODY, b"other"))
    done = await rig.complete(upload.id, checksum=right)

    with pytest.raises(ChecksumMismatchError):
        await rig.complete(upload.id, checksum=wrong)

    assert await rig.complete(upload.id, checksum=right) == done


async def test_a_checksum_other_than_the_declared_one_is_a_mismatch(rig: Rig) -> None:
    upload = await rig.sent(checksum=checksum_of(BODY))

    with pytest.raises(ChecksumMismatchError, match="declared when initiating"):
        await rig.complete(upload.id, checksum=checksum_of(b"x"))


# --- a definite rejection -----------------------------------------------------------------------------------------


async def test_parts_the_store_rejects_put_the_upload_back_to_uploading(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", PartsRejectedError("part 2 is not as named"))

    with pytest.raises(PartsMissingError, match="part 2 is not as named"):
        await rig.complete(upload.id)

    assert (rig.only().state, rig.only().expected, rig.only().lease_until) == (UploadState.UPLOADING, None, None)
    assert (await rig.complete(upload.id)).file is not None


async def test_a_new_completion_may_begin_before_the_rejected_one_has_quite_ended() -> None:
    rig = Rig(cache=(cache := SlowCache()))
    upload = await rig.sent()
    rig.store.faults.fail("complete_multipart", PartsRejectedError("no"))
    cache.passing = 1  # the fence's own write passes, the rejection's hangs
    first = asyncio.ensure_future(rig.complete(upload.id))
    await until(lambda: cache.waiting == 1)
    held = rig.store.faults.hold("complete_multipart")

    second = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()
    cache.let_go.set()
    assert isinstance((await gathered(first))[0], PartsMissingError)
    third = asyncio.ensure_future(rig.complete(upload.id))
    held.let_go()

    assert (await second).file == (await third).file
    assert rig.clock.sleepers == 0


class SlowCache:
    """A cache of which one write hangs."""

    def __init__(self) -> None:
        self.passing = -1
        self.waiting = 0
        self.let_go = asyncio.Event()

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def get(self, key: str) -> bytes | None:
        return None

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool:
        self.passing -= 1
        if self.passing == -1:
            self.waiting += 1
            await self.let_go.wait()
        return False

    async def delete(self, key: str, version: int) -> bool:
        return False


# --- one effect, one answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"hello", BODY])
async def test_rule_7_fifty_concurrent_completes_assemble_once_and_answer_alike(rig: Rig, body: bytes) -> None:
    upload = await rig.sent(body)

    answers = await rig.within(_all(rig.complete(upload.id) for _ in range(50)))

    assert len({answer.file.id for answer in answers if answer.file}) == 1
    assert all(answer == answers[0] for answer in answers)
    assert rig.store.calls["complete_multipart"] == (1 if body == BODY else 0)
    assert rig.events == ["upload.completed"]


async def test_rule_7_fifty_completes_over_two_instances_assemble_once_and_answer_alike(rig: Rig) -> None:
    upload = await rig.sent()
    cores = [rig.core, rig.another_core()]

    answers = await rig.within(_all(cores[n % 2].uploads.complete(upload.id, owner=OWNER) for n in range(50)))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0].file is not None
    assert rig.store.calls["complete_multipart"] == 1


async def test_fifty_completes_of_a_wrong_checksum_are_all_told_so(rig: Rig) -> None:
    upload = await rig.sent()
    wrong = checksum_of(b"something else")

    answers = await rig.within(gathered(*(rig.complete(upload.id, checksum=wrong) for _ in range(50))))

    assert all(isinstance(answer, ChecksumMismatchError | UploadBusyError) for answer in answers)
    assert rig.only().state is UploadState.UPLOADING


async def late(work: Awaitable[object], turns: int) -> object:
    for _ in range(turns):
        await asyncio.sleep(0)
    return await work


async def test_rule_6_of_200_complete_versus_abort_races_exactly_one_wins_and_both_see_its_result() -> None:
    won = set()
    for round_ in range(200):
        rig = Rig()
        upload = await rig.sent()

        completed, aborted = await rig.within(
            gathered(late(rig.complete(upload.id), round_ % 7), late(rig.abort(upload.id), round_ // 7 % 29))
        )

        state = rig.only().state
        won.add(state)
        if state is UploadState.COMPLETED:
            assert isinstance(completed, Completion)
            assert isinstance(aborted, UploadBusyError | UploadClosedError)
            assert rig.bodies == [BODY]
        else:
            assert state is UploadState.ABORTED
            assert isinstance(completed, UploadClosedError | PartsMissingError)
            assert rig.bodies == []
        assert rig.store.multiparts == {}
        assert len(rig.events) == 1
    assert won == {UploadState.COMPLETED, UploadState.ABORTED}


@pytest.mark.parametrize("body", [b"hello", BODY])
async def test_rule_6_a_completer_that_looks_while_an_abort_empties_the_store_is_told_of_the_abort(
    rig: Rig, body: bytes
) -> None:
    upload = await rig.sent(body)
    looking = rig.store.faults.hold("list_parts" if body == BODY else "head")
    completing = asyncio.ensure_future(rig.complete(upload.id))
    await looking.reached.wait()

    await rig.abort(upload.id)
    looking.let_go()

    with pytest.raises(UploadClosedError) as caught:
        await completing
    assert (caught.value.state, caught.value.reason) == (UploadState.ABORTED, "aborted")
    assert rig.store.multiparts == {}


async def test_rule_6_a_completion_fenced_in_time_counts_however_late_it_ends(rig: Rig) -> None:
    upload = await rig.sent()
    rig.after(hours=23, minutes=59, seconds=59)
    held = rig.store.faults.hold("complete_multipart")
    completing = asyncio.ensure_future(rig.complete(upload.id))
    await held.reached.wait()

    rig.after(seconds=5)
    await rig.core.sweep()
    held.let_go()

    assert (await completing).upload.state is UploadState.COMPLETED


async def test_rule_6_a_completion_after_the_deadline_expires_the_upload(rig: Rig) -> None:
    upload = await rig.sent()
    rig.after(days=1)

    with pytest.raises(UploadClosedError) as caught:
        await rig.complete(upload.id)

    assert (caught.value.state, caught.value.reason) == (UploadState.EXPIRED, "expired")
    assert (rig.store.multiparts, rig.events) == ({}, ["upload.expired"])


async def test_an_upload_that_keeps_changing_is_busy_after_five_attempts(rig: Rig) -> None:
    upload = await rig.sent()

    async def meddle() -> None:
        """Somebody else's effect: each listing sees the upload reopened behind its back."""
        for _ in range(5):
            held = rig.store.faults.hold("list_parts")
            await held.reached.wait()
            async with rig.database.inner.transaction() as tx:
                await tx.uploads.save(rig.only().recheck(None))
            held.let_go()

    meddling = asyncio.ensure_future(meddle())
    await asyncio.sleep(0)
    with pytest.raises(UploadBusyError, match="keeps changing"):
        await rig.complete(upload.id)
    await meddling


# --- a file that is there already, or gone ------------------------------------------------------------------------


async def test_a_new_version_supersedes_the_old_whose_content_goes_when_no_url_can_read_it_any_more(rig: Rig) -> None:
    first = await rig.completed(b"old content")
    content = await rig.core.files.content(first.upload.file_id, owner=OWNER)

    second = await rig.completed(b"new content", file_id=first.upload.file_id)
    assert await rig.store.fetch(content) == b"old content"
    rig.after(hours=2)
    report = await rig.core.sweep()

    assert report.rechecked == 1
    assert rig.bodies == [b"new content"]
    assert rig.upload(first.upload.id).state is UploadState.COMPLETED
    assert second.file is not None
    assert second.file.version == 2


async def test_a_new_version_may_complete_before_the_first(rig: Rig) -> None:
    first = await rig.sent(b"old content")
    await rig.completed(b"new content", file_id=first.file_id)

    done = await rig.complete(first.id)
    rig.after(hours=2)
    await rig.core.sweep()

    assert done.file is not None
    assert (done.file.size, done.file.version) == (11, 2)
    assert rig.bodies == [b"old content"]


async def test_a_new_version_that_is_aborted_leaves_the_file_as_it_is(rig: Rig) -> None:
    first = await rig.completed(b"old content")
    second = await rig.sent(b"new content", file_id=first.upload.file_id)

    await rig.abort(second.id)

    assert await rig.core.files.get(second.file_id, owner=OWNER) == first.file


async def test_a_file_deleted_during_completion_gets_no_content(rig: Rig) -> None:
    first = await rig.completed(b"old content")
    second = await rig.sent(file_id=first.upload.file_id)
    held = rig.store.faults.hold("complete_multipart")
    completing = asyncio.ensure_future(rig.complete(second.id))
    await held.reached.wait()

    await rig.core.files.delete(second.file_id, owner=OWNER)
    held.let_go()

    with pytest.raises(UploadClosedError) as caught:
        await completing
    assert (caught.value.state, caught.value.reason) == (UploadState.FAILED, "file_deleted")
    assert rig.bodies == []
    assert (await rig.core.files.get(second.file_id, owner=OWNER)).status is FileStatus.DELETED


async def test_a_store_that_can_not_list_changes_nothing(rig: Rig) -> None:
    upload = await rig.sent()
    before = rig.only()
    rig.store.faults.fail("list_parts", StoreUnavailableError("away"))

    with pytest.raises(StoreUnavailableError):
        await rig.complete(upload.id)
    assert rig.only() == before


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    return await asyncio.gather(*calls)
