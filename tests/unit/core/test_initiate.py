"""Initiate: what is decided and recorded before the first byte, and what a repeated call finds (rules 1, 2, 3, 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.unit.core.rig import BODY, OWNER, FaultyCache, Rig, gathered, until
from uploadcore import Admission, ChecksumAlgorithm, FileStatus, Strategy, UploadConfig, UploadState, UploadView
from uploadcore.errors import (
    ContentTypeNotAllowedError,
    DatabaseUnavailableError,
    FileNotReadyError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NoSuchFileError,
    QuotaExceededError,
    StorageFullError,
    StoreOverloadedError,
    StoreUnavailableError,
    TooLargeError,
    UploadBusyError,
    VersionConflictError,
)
from uploadcore_memory import MEMORY_CAPABILITIES, ManualClock, checksum_of

MIB = 1024 * 1024


# --- strategy and plan --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "part_size", "strategy", "part_count"),
    [
        (0, None, Strategy.SINGLE, 1),
        (1, None, Strategy.SINGLE, 1),
        (8 * MIB, None, Strategy.SINGLE, 1),
        (8 * MIB + 1, None, Strategy.MULTIPART, 2),
        (16 * MIB, 16 * MIB, Strategy.SINGLE, 1),
        (16 * MIB + 1, 32 * MIB, Strategy.MULTIPART, 1),
        (16 * MIB, 8 * MIB, Strategy.MULTIPART, 2),
        (None, None, Strategy.MULTIPART, None),
    ],
)
async def test_one_put_where_the_blob_fits_one_part_and_16_mib_else_multipart(
    rig: Rig, size: int | None, part_size: int | None, strategy: Strategy, part_count: int | None
) -> None:
    upload = await rig.begin(size, part_size)

    assert (upload.strategy, upload.part_count, upload.state) == (strategy, part_count, UploadState.UPLOADING)
    assert len(rig.store.multiparts) == (1 if strategy is Strategy.MULTIPART else 0)


async def test_multipart_always_where_the_store_can_not_refuse_to_overwrite() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, conditional_put=False))

    assert (await rig.begin(0)).strategy is Strategy.MULTIPART


async def test_rule_3_the_plan_is_frozen_and_part_one_of_an_open_plan_may_have_any_length(rig: Rig) -> None:
    upload = await rig.begin(None, None, sign=2)

    assert (upload.size, upload.part_size, upload.part_count) == (None, 16 * MIB, None)
    assert [(part.part_number, part.offset, part.length) for part in upload.parts] == [
        (1, 0, None),
        (2, 16 * MIB, None),
    ]


async def test_the_first_parts_are_signed_with_the_answer_no_more_than_there_are(rig: Rig) -> None:
    upload = await rig.begin(sign=1_000)

    assert [(part.part_number, part.offset, part.length) for part in upload.parts] == [
        (1, 0, 10),
        (2, 10, 10),
        (3, 20, 5),
    ]


@pytest.mark.parametrize("sign", [-1, 1_001])
async def test_more_than_a_thousand_parts_are_not_signed_at_once(rig: Rig, sign: int) -> None:
    with pytest.raises(InvalidRequestError, match="sign is 0 to 1000"):
        await rig.begin(sign=sign)


async def test_rule_1_the_key_is_prefix_installation_owner_hash_and_id_and_nothing_the_caller_said(rig: Rig) -> None:
    upload = await rig.core.uploads.initiate(owner="../../evil", filename="../../../etc/passwd", size=3)

    key = rig.upload(upload.id).address.key
    prefix, installation, owner_hash, name = key.split("/")
    assert (prefix, installation, name) == ("uploads", "here", upload.id)
    assert len(owner_hash) == 16
    assert owner_hash.isalnum()


# --- admission ----------------------------------------------------------------------------------------------------


async def test_a_size_above_the_limit_is_refused_and_nothing_recorded() -> None:
    rig = Rig(limits=Admission(max_size=24))

    with pytest.raises(TooLargeError):
        await rig.begin(25)
    assert rig.database.inner.uploads == {}
    assert (await rig.begin(24)).size == 24


async def test_a_size_the_store_can_not_hold_is_refused(rig: Rig) -> None:
    with pytest.raises(TooLargeError):
        await rig.begin(rig.store.limits.max_object_size + 1, None)


async def test_a_part_size_that_makes_more_parts_than_the_store_takes_is_refused_with_one_that_does(rig: Rig) -> None:
    with pytest.raises(InvalidRequestError, match="ask for 3 or more"):
        await rig.begin(20_001, 2)
    assert (await rig.begin(20_000, 2)).part_count == 10_000


async def test_a_content_type_that_is_not_accepted_is_refused() -> None:
    rig = Rig(limits=Admission(content_types=("video/*",)))

    with pytest.raises(ContentTypeNotAllowedError):
        await rig.begin(content_type="text/html")
    assert (await rig.begin(content_type="Video/MP4; codecs=avc1")).content_type == "Video/MP4; codecs=avc1"


async def test_the_quota_counts_open_uploads_and_is_given_back_when_they_end() -> None:
    rig = Rig(limits=Admission(max_open_uploads=1))
    first = await rig.sent()

    with pytest.raises(QuotaExceededError):
        await rig.begin()
    await rig.complete(first.id)
    second = await rig.begin()
    await rig.abort(second.id)

    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def test_the_quota_counts_bytes_in_flight_of_an_open_plan_as_many_as_it_may_grow_to() -> None:
    rig = Rig(limits=Admission(max_bytes_in_flight=100, max_unknown_size=80))
    await rig.begin(None)

    with pytest.raises(QuotaExceededError):
        await rig.begin(21)
    await rig.begin(20)
    assert rig.database.inner.open_quota(OWNER) == (2, 100)


async def test_a_refused_call_leaves_its_idempotency_key_free() -> None:
    rig = Rig(limits=Admission(max_open_uploads=1))
    first = await rig.begin()
    with pytest.raises(QuotaExceededError):
        await rig.begin(idempotency_key="k")

    await rig.abort(first.id)

    assert (await rig.begin(idempotency_key="k")).state is UploadState.UPLOADING


@pytest.mark.parametrize(
    "asked",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "k\x00"},
        {"fingerprint": ""},
        {"title": "a\x00b"},
        {"part_size": 0},
        {"size": -1},
    ],
)
async def test_a_value_that_can_not_be_used_is_refused(rig: Rig, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        await rig.begin(**asked)
    assert rig.database.inner.uploads == {}


async def test_a_checksum_the_store_can_not_verify_is_refused_at_initiate(rig: Rig) -> None:
    with pytest.raises(InvalidRequestError, match="can't verify a sha256"):
        await rig.begin(checksum=checksum_of(BODY, ChecksumAlgorithm.SHA256))


async def test_a_store_without_checksums_says_that_it_can_verify_none() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, object_checksums=frozenset()))

    with pytest.raises(InvalidRequestError, match="it can: none"):
        await rig.begin(checksum=checksum_of(BODY))


# --- the file -----------------------------------------------------------------------------------------------------


async def test_the_file_is_born_with_its_upload(rig: Rig) -> None:
    upload = await rig.begin(title="Trip", metadata={"camera": "x100"})

    file = await rig.core.files.get(upload.file_id, owner=OWNER)
    assert (file.status, file.name, file.title, file.metadata) == (
        FileStatus.UPLOADING,
        "a.txt",
        "Trip",
        {"camera": "x100"},
    )


async def test_an_existing_file_gets_a_new_version(rig: Rig) -> None:
    first = await rig.completed()

    second = await rig.completed(b"new content!", file_id=first.upload.file_id)

    assert second.file is not None
    assert first.file is not None
    assert (second.file.id, second.file.version, second.file.size) == (first.file.id, first.file.version + 1, 12)


async def test_another_owners_file_gets_no_version(rig: Rig) -> None:
    first = await rig.completed()

    with pytest.raises(NoSuchFileError):
        await rig.core.uploads.initiate(owner="u_2", filename="b", size=1, file_id=first.upload.file_id)
    with pytest.raises(NoSuchFileError):
        await rig.begin(file_id="no such file")


async def test_a_deleted_file_gets_no_version(rig: Rig) -> None:
    first = await rig.completed()
    await rig.core.files.delete(first.upload.file_id, owner=OWNER)

    with pytest.raises(FileNotReadyError):
        await rig.begin(file_id=first.upload.file_id)


# --- intent before effect -----------------------------------------------------------------------------------------


async def test_rule_2_the_intent_is_recorded_before_the_store_is_called(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")

    begun = asyncio.ensure_future(rig.begin())
    await held.reached.wait()

    assert rig.only().state is UploadState.PENDING
    assert rig.only().lease_until == rig.clock.now() + timedelta(seconds=30)
    held.let_go()
    assert (await begun).state is UploadState.UPLOADING


async def test_rule_2_an_opener_that_lost_its_lease_aborts_what_it_made_and_answers_what_the_other_made(
    rig: Rig,
) -> None:
    held = rig.store.faults.hold("create_multipart")
    begun = asyncio.ensure_future(rig.begin())
    await held.reached.wait()
    rig.clock._sleepers.clear()  # frozen: its renewals do not run

    rig.after(seconds=31)
    assert (await rig.core.sweep()).opened == 1
    held.let_go()
    upload = await begun

    assert upload.state is UploadState.UPLOADING
    assert list(rig.store.multiparts) == [rig.only().address.storage_upload_id]


async def test_an_opener_keeps_its_lease_while_the_store_takes_its_time(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    begun = asyncio.ensure_future(rig.begin())
    await held.reached.wait()

    for seconds in range(10, 61, 10):
        rig.after(seconds=10)
        before = seconds // 10
        await until(lambda before=before: rig.only().version > before)  # type: ignore[misc]
        assert (await rig.core.sweep()).opened == 0
    held.let_go()

    assert (await begun).state is UploadState.UPLOADING
    assert (rig.store.calls["create_multipart"], rig.only().lease_until) == (1, None)


async def test_an_opener_that_lost_its_lease_waits_for_the_other_to_open(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    begun = asyncio.ensure_future(rig.begin())
    await held.reached.wait()
    rig.clock._sleepers.clear()  # frozen: its renewals do not run
    rig.after(seconds=31)
    other = rig.store.faults.hold("create_multipart")
    sweep = asyncio.ensure_future(rig.core.sweep())
    await other.reached.wait()

    held.let_go()
    await until(lambda: rig.clock.sleepers > 2)  # the sweep, its renewals, and who waits
    other.let_go()
    await sweep
    rig.after(seconds=1)

    assert (await begun).state is UploadState.UPLOADING
    assert len(rig.store.multiparts) == 1


async def test_what_an_opener_could_not_abort_is_cleaned_up_as_an_orphan(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    begun = asyncio.ensure_future(rig.begin())
    await held.reached.wait()
    rig.clock._sleepers.clear()  # frozen: its renewals do not run
    rig.after(seconds=31)
    await rig.core.sweep()

    rig.store.faults.fail("abort_multipart", StoreUnavailableError("no answer"))
    held.let_go()
    upload = await begun
    await rig.send(upload.id)
    await rig.complete(upload.id)
    assert len(rig.store.multiparts) == 1
    rig.after(days=2)

    assert (await rig.core.sweep()).orphans == 1
    assert rig.store.multiparts == {}


async def test_rule_2_a_create_whose_answer_was_lost_is_aborted_when_nobody_can_come_back(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StoreUnavailableError("answer lost"), after_effect=True)

    with pytest.raises(StoreUnavailableError, match="answer lost"):
        await rig.begin()

    assert rig.only().state is UploadState.ABORTED
    assert rig.store.multiparts == {}
    assert rig.database.inner.files[rig.only().file_id].status is FileStatus.FAILED


async def test_a_store_that_is_away_throughout_leaves_a_row_to_clean_up(rig: Rig) -> None:
    for name in ("create_multipart", "list_multiparts", "head"):
        rig.store.faults.fail(name, StoreUnavailableError("away"), times=9)

    with pytest.raises(StoreUnavailableError):
        await rig.begin()
    assert rig.only().state is UploadState.ABORTING
    rig.store.faults.heal()
    await rig.core.sweep()

    assert rig.only().state is UploadState.ABORTED


async def test_a_definite_refusal_closes_the_upload_as_failed(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StorageFullError("no room"))

    with pytest.raises(StorageFullError):
        await rig.begin()

    assert (rig.only().state, rig.only().reason) == (UploadState.FAILED, "opening_refused")
    assert rig.events == ["upload.failed"]
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def test_a_refusal_that_can_not_be_recorded_is_left_to_the_sweeper(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StorageFullError("no room"))
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))

    with pytest.raises(StorageFullError):
        await rig.begin()

    assert rig.only().state is UploadState.PENDING


# --- idempotency --------------------------------------------------------------------------------------------------


async def test_rule_7_a_repeated_call_returns_the_same_upload_freshly_signed(rig: Rig) -> None:
    first = await rig.begin(sign=1, idempotency_key="k")
    rig.after(minutes=10)

    again = await rig.begin(sign=2, idempotency_key="k")

    assert again.id == first.id
    assert len(rig.database.inner.uploads) == len(rig.store.multiparts) == 1
    assert [part.part_number for part in again.parts] == [1, 2]
    assert again.parts[0].request.expires_at > first.parts[0].request.expires_at


async def test_a_replay_shows_the_upload_in_its_present_state_without_parts(rig: Rig) -> None:
    upload = await rig.sent(idempotency_key="k")
    await rig.complete(upload.id)

    again = await rig.begin(sign=3, idempotency_key="k")

    assert (again.id, again.state, again.parts) == (upload.id, UploadState.COMPLETED, ())


async def test_a_replay_past_the_deadline_shows_the_upload_and_signs_nothing() -> None:
    rig = Rig(config=UploadConfig(upload_lifetime=timedelta(hours=1)))
    async with rig.core:
        upload = await rig.begin(sign=1, idempotency_key="k")
        rig.after(hours=2)

        again = await rig.begin(sign=1, idempotency_key="k")

    assert (again.id, again.state, again.parts) == (upload.id, UploadState.UPLOADING, ())


@pytest.mark.parametrize("size", [5, 25])
async def test_rule_7_fifty_calls_with_one_key_make_one_upload(rig: Rig, size: int) -> None:
    async def fifty() -> list[UploadView]:
        return await asyncio.gather(*(rig.begin(size, idempotency_key="k") for _ in range(50)))

    views = await rig.within(fifty())

    assert len({view.id for view in views}) == 1
    assert len(rig.database.inner.uploads) == 1


async def test_a_key_used_with_another_request_is_a_mismatch(rig: Rig) -> None:
    first = await rig.begin(idempotency_key="k")

    with pytest.raises(IdempotencyMismatchError) as caught:
        await rig.begin(24, idempotency_key="k")
    assert caught.value.upload_id == first.id


@pytest.mark.parametrize(
    "difference",
    [
        {"content_type": "text/plain"},
        {"title": "t"},
        {"metadata": {"a": "b"}},
        {"fingerprint": "f"},
        {"part_size": 11},
        {"checksum": checksum_of(BODY)},
    ],
)
async def test_everything_asked_for_counts_as_the_request(rig: Rig, difference: dict[str, Any]) -> None:
    await rig.begin(idempotency_key="k")

    with pytest.raises(IdempotencyMismatchError):
        await rig.begin(idempotency_key="k", **difference)


async def test_keys_are_each_owners_own_and_forgotten_after_24_hours(rig: Rig) -> None:
    mine = await rig.begin(idempotency_key="k")
    theirs = await rig.core.uploads.initiate(owner="u_2", filename="a.txt", size=25, idempotency_key="k")
    rig.after(hours=24, seconds=1)
    later = await rig.begin(idempotency_key="k")

    assert len({mine.id, theirs.id, later.id}) == 3


async def test_while_the_first_is_at_it_a_retry_waits_five_seconds_then_is_told_busy(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    first = asyncio.ensure_future(rig.begin(idempotency_key="k"))
    await held.reached.wait()
    begun_at = rig.clock.monotonic()

    with pytest.raises(UploadBusyError):
        await rig.within(rig.begin(idempotency_key="k"), step=0.05)

    assert 5 <= rig.clock.monotonic() - begun_at < 6.5
    held.let_go()
    assert (await first).state is UploadState.UPLOADING


async def test_a_retry_that_waits_gets_the_upload_once_it_is_open(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    first = asyncio.ensure_future(rig.begin(idempotency_key="k"))
    await held.reached.wait()
    second = asyncio.ensure_future(rig.begin(idempotency_key="k"))
    await until(lambda: rig.clock.sleepers > 0)

    held.let_go()
    opened = await first
    rig.after(seconds=1)

    assert (await second).id == opened.id
    assert rig.store.calls["create_multipart"] == 1


async def test_a_retry_takes_over_once_the_lease_of_the_first_has_run_out(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    first = asyncio.ensure_future(rig.begin(idempotency_key="k"))
    await held.reached.wait()
    rig.clock._sleepers.clear()  # frozen: its renewals do not run
    rig.after(seconds=31)

    second = await rig.begin(idempotency_key="k")
    held.let_go()

    assert second.state is UploadState.UPLOADING
    assert (await first).id == second.id
    assert list(rig.store.multiparts) == [rig.only().address.storage_upload_id]


async def test_where_too_many_wait_for_the_store_that_is_what_is_said(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StoreOverloadedError("too many calls wait"))

    with pytest.raises(StoreOverloadedError, match="try again with the same idempotency key") as refused:
        await rig.begin(idempotency_key="k")

    assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1)


async def test_after_a_store_failure_a_retry_with_the_key_goes_on_at_once(rig: Rig) -> None:
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError, match="try again with the same idempotency key"):
        await rig.begin(idempotency_key="k")

    upload = await rig.begin(idempotency_key="k")

    assert upload.state is UploadState.UPLOADING
    assert len(rig.database.inner.uploads) == 1


async def gone_away(caller: asyncio.Future[UploadView]) -> None:
    """Whoever called is cancelled, and is told nothing."""
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def given_up(rig: Rig) -> None:
    """What nobody can come back to is closed, and in time removed from the store."""
    await until(lambda: rig.only().state is UploadState.ABORTING)
    rig.after(minutes=5)
    await rig.core.sweep()


async def in_scope(scope: anyio.CancelScope, call: Awaitable[UploadView]) -> UploadView | None:
    with scope:
        return await call
    return None


async def test_a_call_without_a_key_that_is_cancelled_is_given_up_and_frees_its_quota() -> None:
    rig = Rig(limits=Admission(max_open_uploads=1))
    held = rig.store.faults.hold("create_multipart")
    caller = asyncio.ensure_future(rig.begin())
    await held.reached.wait()

    await gone_away(caller)
    await given_up(rig)

    assert rig.only().state is UploadState.ABORTED
    await rig.begin()


async def test_a_call_without_a_key_that_is_cancelled_as_it_signs_is_given_up_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(rig.store, "presign_parts", hang)
    caller = asyncio.ensure_future(rig.begin(sign=2))
    await reached.wait()

    await gone_away(caller)
    await given_up(rig)

    assert rig.only().state is UploadState.ABORTED


@pytest.mark.parametrize("size", [5, 25])
@pytest.mark.parametrize("scoped", [False, True])
async def test_a_call_without_a_key_leaves_nothing_open_wherever_it_is_cancelled(size: int, scoped: bool) -> None:
    """Scoped: as in frameworks where every call awaited from then on is cancelled too."""
    rig = Rig(cache=FaultyCache(clock=ManualClock()))
    steps = 0
    while True:
        steps += 1
        scope = anyio.CancelScope()
        caller = asyncio.ensure_future(in_scope(scope, rig.begin(size, sign=1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        (scope.cancel if scoped else caller.cancel)()
        (answer,) = await gathered(caller)
        if isinstance(answer, UploadView):
            break
        await rig.core.uploads.close()
        rig.after(minutes=5)
        await rig.core.sweep()
        assert rig.database.inner.open_quota(OWNER) == (0, 0), f"cancelled at step {steps}"
    assert steps > 3


async def test_what_was_saved_as_its_caller_went_away_does_not_keep_it_from_being_given_up(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    caller = asyncio.ensure_future(rig.begin())
    await held.reached.wait()
    rig.database.faults.pass_by("transaction")  # which gives the lease up
    rig.database.faults.fail("transaction", VersionConflictError("overtaken"))

    await gone_away(caller)
    await given_up(rig)

    assert rig.only().state is UploadState.ABORTED


async def test_a_call_without_a_key_that_is_cancelled_as_it_waits_for_the_database_writes_nothing(rig: Rig) -> None:
    held = rig.database.faults.hold("transaction")
    caller = asyncio.ensure_future(rig.begin())
    await held.reached.wait()

    await gone_away(caller)
    held.let_go()
    await rig.core.uploads.close()

    assert rig.database.inner.uploads == {}


@pytest.mark.parametrize("size", [5, 25])
async def test_what_can_not_be_signed_is_given_up_where_nobody_can_come_back(
    rig: Rig, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_credentials(*_: object, **__: object) -> None:
        raise StoreUnavailableError("no credentials to sign with")

    for name in ("presign_put", "presign_parts"):
        monkeypatch.setattr(rig.store, name, no_credentials)

    with pytest.raises(StoreUnavailableError, match=r"^no credentials to sign with$"):
        await rig.begin(size, sign=1)

    assert rig.only().state is UploadState.ABORTED
    assert rig.database.inner.open_quota(OWNER) == (0, 0)


async def test_what_can_not_be_signed_is_there_for_a_retry_with_its_key(rig: Rig) -> None:
    rig.store.faults.fail("presign", StoreUnavailableError("no credentials to sign with"))
    with pytest.raises(StoreUnavailableError, match="try again with the same idempotency key"):
        await rig.begin(sign=1, idempotency_key="k")

    again = await rig.begin(sign=1, idempotency_key="k")

    assert (again.id, len(again.parts)) == (rig.only().id, 1)


async def test_a_call_with_a_key_that_is_cancelled_can_be_made_again(rig: Rig) -> None:
    held = rig.store.faults.hold("create_multipart")
    caller = asyncio.ensure_future(rig.begin(idempotency_key="k"))
    await held.reached.wait()

    await gone_away(caller)

    assert (await rig.begin(idempotency_key="k")).id == rig.only().id
    assert rig.only().state is UploadState.UPLOADING
