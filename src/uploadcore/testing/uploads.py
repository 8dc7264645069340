"""The contract of `Transaction.uploads`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from uploadcore.errors import VersionConflictError
from uploadcore.events import EventType
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import PartPlan
from uploadcore.ports import Database
from uploadcore.states import TERMINAL_STATES, UploadState
from uploadcore.testing.builders import make_upload
from uploadcore.upload import Address, Condition, Expected, Lease, Reason, Strategy, Timer, Transition, Upload

__all__ = ["UploadRecordsContract", "added_upload", "saved"]

HOUR = timedelta(hours=1)
LEASE = Lease("the holder", HOUR)
SENTINELS = (
    "",
    " ",
    "a'b\"c;--",
    "100 % _x_",
    "日本語 🎬.mp4",
    "e\u0301 is not \u00e9",
    "\u202eright to left",
    "a\nb\tc\\d",
    "x" * 1024,
)
"""Texts a caller may send: they come back as they are."""


async def added_upload(
    database: Database, upload: Upload | None = None, *, lifetime: timedelta = HOUR, lease: timedelta | None = None
) -> Upload:
    """The upload, inserted in a transaction of its own."""
    async with database.transaction() as tx:
        return await tx.uploads.add(upload or make_upload(), lifetime=lifetime, lease=lease)


async def saved(database: Database, transition: Transition) -> Upload:
    """The transition, carried out in a transaction of its own."""
    async with database.transaction() as tx:
        return await tx.uploads.save(transition)


async def stored(database: Database, upload_id: str) -> Upload | None:
    """The upload as a reader sees it."""
    async with database.reader() as tx:
        return await tx.uploads.get(upload_id)


async def due(database: Database, limit: int = 100) -> list[str]:
    """The ids of the uploads somebody should see to."""
    async with database.reader() as tx:
        return [upload.id for upload in await tx.uploads.due(limit)]


class UploadRecordsContract:
    """What every `UploadRecords` does. Part of `DatabaseContract`."""

    # --- add and get ----------------------------------------------------------------------------------------------

    async def test_add_sets_version_and_times(self, database: Database) -> None:
        added = await added_upload(database, make_upload("a"), lifetime=HOUR, lease=timedelta(seconds=30))
        assert added.version == 1
        assert added.created_at is not None
        assert added.created_at.utcoffset() == timedelta(0)
        assert added.expires_at == added.created_at + HOUR
        assert added.lease_until == added.created_at + timedelta(seconds=30)
        assert (added.fenced_at, added.called_at, added.lost_at, added.recheck_at) == (None,) * 4
        assert replace(added, version=0, created_at=None, expires_at=None, lease_until=None) == make_upload("a")

    async def test_add_without_a_lease_sets_none(self, database: Database) -> None:
        assert (await added_upload(database, lease=None)).lease_until is None

    async def test_get_returns_what_add_returned(self, database: Database) -> None:
        added = await added_upload(database)
        assert await stored(database, added.id) == added

    async def test_get_does_not_know_an_id_never_added(self, database: Database) -> None:
        await added_upload(database, make_upload("a"))
        for unknown in ("b", "A", "a ", "", "a%"):
            assert await stored(database, unknown) is None

    @pytest.mark.parametrize("text", SENTINELS)
    async def test_text_comes_back_as_it_was(self, database: Database, text: str) -> None:
        upload = make_upload(
            "a", owner=text, filename=text, content_type=text, metadata={text: text, "b": "c"}, fingerprint=text
        )
        added = await added_upload(database, upload)
        found = await stored(database, "a")
        assert found == added
        assert found is not None
        assert (found.owner, found.filename, found.content_type, found.fingerprint) == (text, text, text, text)
        assert dict(found.metadata) == {text: text, "b": "c"}

    async def test_every_field_comes_back_as_it_was(self, database: Database) -> None:
        largest = 53_687_091_200_000
        checksum = Checksum(ChecksumAlgorithm.SHA256, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
        upload = make_upload(
            "a",
            plan=PartPlan(part_size=5 * 1024**3, size=largest, max_parts=10_000),
            address=Address("a bucket", "a/key with ünïcode", "a storage upload id"),
            strategy=Strategy.SINGLE,
            checksum=checksum,
            expected=Expected(part_count=10_000, size=largest, checksum=checksum, parts_digest="0" * 64),
            reason=Reason.GAVE_UP,
            reserved_bytes=largest,
            state=UploadState.ABORTING,
            fingerprint="f",
            metadata={"camera": "x100"},
        )
        added = await added_upload(database, upload)
        assert replace(added, version=0, created_at=None, expires_at=None) == upload
        assert await stored(database, "a") == added

    async def test_an_open_plan_comes_back_open(self, database: Database) -> None:
        added = await added_upload(database, make_upload("a", size=None))
        assert added.plan.size is None
        assert await stored(database, "a") == added

    async def test_metadata_can_not_be_changed_behind_the_database(self, database: Database) -> None:
        given: dict[str, str] = {"a": "b"}
        await added_upload(database, make_upload("a", metadata=dict(given)))
        first = await stored(database, "a")
        assert first is not None
        assert isinstance(first.metadata, Mapping)
        assert dict(first.metadata) == given

    # --- save -----------------------------------------------------------------------------------------------------

    async def test_save_stores_the_next_upload_under_the_next_version(self, database: Database) -> None:
        added = await added_upload(database, lease=HOUR)
        opened = await saved(database, added.opened("storage-1"))
        assert opened.state is UploadState.UPLOADING
        assert opened.address.storage_upload_id == "storage-1"
        assert opened.version == 2
        assert opened.created_at == added.created_at
        assert await stored(database, added.id) == opened

    async def test_save_stores_every_field_a_transition_changes(self, database: Database) -> None:
        upload = await added_upload(database)
        expected = Expected(3, 25, Checksum(ChecksumAlgorithm.CRC32C, "4waSgw=="), parts_digest="0" * 64)
        changed = replace(
            upload,
            state=UploadState.ABORTING,
            expected=expected,
            reason=Reason.INTEGRITY_FAILED,
            address=replace(upload.address, storage_upload_id="s2"),
        )
        after = await saved(database, Transition(changed))
        assert after == replace(changed, version=2)
        assert await stored(database, upload.id) == after
        cleared = await saved(database, Transition(replace(after, expected=None, reason=None)))
        assert cleared == replace(after, expected=None, reason=None, version=3)
        assert await stored(database, upload.id) == cleared

    async def test_save_sets_timers_from_one_now_clears_those_named_and_keeps_the_rest(
        self, database: Database
    ) -> None:
        upload = await added_upload(database, lifetime=HOUR, lease=HOUR)
        upload = await saved(database, Transition(upload).setting(Timer.LOST, timedelta(0)))
        transition = (
            Transition(upload)
            .setting(Timer.FENCED, timedelta(0))
            .setting(Timer.RECHECK, 2 * HOUR)
            .setting(Timer.DEADLINE, -HOUR)
            .clearing(Timer.LEASE)
        )
        after = await saved(database, transition)
        assert after.fenced_at is not None
        assert after.recheck_at == after.fenced_at + 2 * HOUR
        assert after.expires_at == after.fenced_at - HOUR
        assert after.lease_until is None
        assert after.lost_at == upload.lost_at
        assert upload.created_at is not None
        assert after.fenced_at >= upload.created_at
        assert await stored(database, upload.id) == after

    async def test_save_refuses_a_version_that_no_longer_stands(self, database: Database) -> None:
        added = await added_upload(database, lease=HOUR)
        opened = await saved(database, added.opened("storage-1"))
        with pytest.raises(VersionConflictError):
            await saved(database, added.abort_requested(LEASE).announcing(EventType.UPLOAD_ABORTED))
        assert await stored(database, added.id) == opened
        async with database.transaction() as tx:
            assert await tx.outbox.number(["anywhere"], 10) == 0

    async def test_save_refuses_an_upload_that_was_never_added(self, database: Database) -> None:
        with pytest.raises(VersionConflictError):
            await saved(database, Transition(make_upload("a")))
        assert await stored(database, "a") is None

    async def test_a_refused_save_leaves_its_transaction_usable(self, database: Database) -> None:
        added = await added_upload(database, make_upload("a"))
        async with database.transaction() as tx:
            with pytest.raises(VersionConflictError):
                await tx.uploads.save(Transition(replace(added, version=9)))
            await tx.uploads.save(Transition(added))
        found = await stored(database, "a")
        assert found is not None
        assert found.version == 2

    async def test_of_many_concurrent_saves_of_one_version_exactly_one_wins(self, database: Database) -> None:
        added = await added_upload(database)

        async def attempt(number: int) -> Upload:
            async with database.transaction() as tx:
                await tx.uploads.get(added.id)
                await asyncio.sleep(0)  # the others get their chance to come in between
                return await tx.uploads.save(Transition(added).setting(Timer.RECHECK, timedelta(hours=number)))

        outcomes = await asyncio.gather(*(attempt(number) for number in range(12)), return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, Upload)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, VersionConflictError)]
        assert (len(won), len(lost)) == (1, 11)
        assert await stored(database, added.id) == won[0]

    async def test_of_concurrent_saves_only_the_winners_event_is_written(self, database: Database) -> None:
        upload = await added_upload(database)
        upload = await saved(database, upload.opened("s"))

        async def attempt() -> Upload:
            return await saved(database, upload.abort_requested(LEASE).announcing(EventType.UPLOAD_ABORTED))

        await asyncio.gather(*(attempt() for _ in range(8)), return_exceptions=True)
        async with database.transaction() as tx:
            assert await tx.outbox.number(["anywhere"], 10) == 1

    # --- leases ---------------------------------------------------------------------------------------------------

    async def test_a_lease_has_an_owner_from_the_save_that_sets_it_to_the_one_that_clears_it(
        self, database: Database
    ) -> None:
        upload = await added_upload(database, make_upload("a", lease_owner="one"), lease=-HOUR)
        assert upload.lease_owner == "one"
        kept = await saved(database, Transition(upload).setting(Timer.RECHECK, HOUR))
        assert kept.lease_owner == "one"
        taken = await saved(database, kept.lease_taken_over(Lease("two", HOUR)))
        assert taken.lease_owner == "two"
        assert await stored(database, "a") == taken
        opened = await saved(database, taken.opened("storage"))
        assert (opened.lease_owner, opened.lease_until) == (None, None)
        assert await stored(database, "a") == opened

    async def test_given_up_a_lease_is_nobodys_and_over(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", lease_owner="one"), lease=HOUR)
        given_up = await saved(database, upload.lease_given_up())
        assert given_up.lease_owner is None
        assert (await saved(database, given_up.lease_taken_over(LEASE))).lease_owner == LEASE.owner

    async def test_save_refuses_who_no_longer_holds_the_lease_though_the_version_be_the_same(
        self, database: Database
    ) -> None:
        """As in a database restored from an older copy, which has come as far since under another holder."""
        upload = await added_upload(database, make_upload("a", lease_owner="one"), lease=HOUR)
        for owner in ("two", "One", "one ", None):
            with pytest.raises(VersionConflictError):
                await saved(database, replace(upload, lease_owner=owner).lease_renewed(LEASE))
        assert await stored(database, "a") == upload
        given_up = await saved(database, upload.lease_given_up())
        with pytest.raises(VersionConflictError):
            await saved(database, replace(given_up, lease_owner="one").lease_renewed(LEASE))

    # --- conditions -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("timer", list(Timer))
    @pytest.mark.parametrize("passed", [True, False])
    @pytest.mark.parametrize("after", [-HOUR, HOUR], ids=["in the past", "in the future"])
    async def test_a_condition_compares_a_timer_with_now(
        self, database: Database, timer: Timer, passed: bool, after: timedelta
    ) -> None:
        upload = await added_upload(database)
        upload = await saved(database, Transition(upload).setting(timer, after))
        await self._assert_condition(database, upload, Condition(timer, passed), holds=passed is (after < timedelta(0)))

    @pytest.mark.parametrize("passed", [True, False])
    @pytest.mark.parametrize("after", [-HOUR, HOUR], ids=["in the past", "in the future"])
    async def test_a_margin_moves_the_timer(self, database: Database, passed: bool, after: timedelta) -> None:
        upload = await added_upload(database)
        upload = await saved(database, Transition(upload).setting(Timer.LOST, after))
        beyond = Condition(Timer.LOST, passed, margin=-2 * after)
        await self._assert_condition(database, upload, beyond, holds=passed is (after > timedelta(0)))

    @pytest.mark.parametrize("timer", [Timer.LEASE, Timer.FENCED, Timer.CALLED, Timer.LOST, Timer.RECHECK])
    @pytest.mark.parametrize("passed", [True, False])
    async def test_a_timer_that_is_not_set_satisfies_no_condition(
        self, database: Database, timer: Timer, passed: bool
    ) -> None:
        upload = await added_upload(database, lease=None)
        await self._assert_condition(database, upload, Condition(timer, passed), holds=False)

    async def test_a_condition_on_a_timer_the_same_save_sets_looks_at_the_stored_one(self, database: Database) -> None:
        upload = await added_upload(database, lease=-HOUR)
        renewed = await saved(database, upload.lease_taken_over(LEASE))
        with pytest.raises(VersionConflictError):
            await saved(database, renewed.lease_taken_over(LEASE))
        assert await stored(database, upload.id) == renewed

    async def test_every_condition_must_hold(self, database: Database) -> None:
        upload = await added_upload(database, lifetime=HOUR, lease=-HOUR)
        holds, fails = Condition(Timer.LEASE, passed=True), Condition(Timer.DEADLINE, passed=True)
        for conditions in ((holds, fails), (fails, holds)):
            with pytest.raises(VersionConflictError):
                await saved(database, Transition(upload, conditions=conditions))
        assert await stored(database, upload.id) == upload

    async def _assert_condition(self, database: Database, upload: Upload, condition: Condition, *, holds: bool) -> None:
        transition = Transition(upload).announcing(EventType.UPLOAD_ABORTED).only_if(condition)
        if holds:
            assert (await saved(database, transition)).version == upload.version + 1
        else:
            with pytest.raises(VersionConflictError):
                await saved(database, transition)
            assert await stored(database, upload.id) == upload
        async with database.transaction() as tx:
            assert await tx.outbox.number(["anywhere"], 10) == int(holds)

    # --- find -----------------------------------------------------------------------------------------------------

    async def test_find_shows_an_owners_uploads_only(self, database: Database) -> None:
        for owner in ("u_1", "u_2", "U_1", "u_", "u_1 "):
            await added_upload(database, make_upload(f"of {owner}", owner=owner))
        async with database.reader() as tx:
            found = await tx.uploads.find(owner="u_1", state=None, fingerprint=None, before=None, limit=10)
        assert [upload.id for upload in found] == ["of u_1"]

    async def test_find_filters_by_state_and_fingerprint(self, database: Database) -> None:
        uploading = UploadState.UPLOADING
        await added_upload(database, make_upload("a", state=uploading, fingerprint="f"))
        await added_upload(database, make_upload("b", state=uploading, fingerprint="g"))
        await added_upload(database, make_upload("c", state=uploading))
        await added_upload(database, make_upload("d", fingerprint="f"))
        async with database.reader() as tx:

            async def ids(state: UploadState | None, fingerprint: str | None) -> set[str]:
                found = await tx.uploads.find(owner="u_1", state=state, fingerprint=fingerprint, before=None, limit=9)
                return {upload.id for upload in found}

            assert await ids(None, None) == {"a", "b", "c", "d"}
            assert await ids(uploading, None) == {"a", "b", "c"}
            assert await ids(None, "f") == {"a", "d"}
            assert await ids(uploading, "f") == {"a"}
            assert await ids(UploadState.FAILED, None) == set()

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    async def test_paging_shows_each_upload_once_newest_first_equal_times_included(
        self, database: Database, limit: int
    ) -> None:
        # One transaction: many databases give all of these one and the same time.
        async with database.transaction() as tx:
            for letter in "dbfaecg":
                await tx.uploads.add(make_upload(letter), lifetime=HOUR, lease=None)
        seen: list[tuple[datetime, str]] = []
        before: tuple[datetime, str] | None = None
        while True:
            async with database.reader() as tx:
                page = await tx.uploads.find(owner="u_1", state=None, fingerprint=None, before=before, limit=limit)
            assert len(page) <= limit
            if not page:
                break
            for upload in page:
                assert upload.created_at is not None
                seen.append((upload.created_at, upload.id))
            before = seen[-1]
        assert seen == sorted(seen, reverse=True)
        assert {upload_id for _, upload_id in seen} == set("abcdefg")

    async def test_a_cursor_need_not_be_an_upload(self, database: Database) -> None:
        added = await added_upload(database, make_upload("m"))
        assert added.created_at is not None
        at = added.created_at
        async with database.reader() as tx:

            async def ids(before: tuple[datetime, str]) -> list[str]:
                found = await tx.uploads.find(owner="u_1", state=None, fingerprint=None, before=before, limit=9)
                return [upload.id for upload in found]

            assert await ids((at, "z")) == ["m"]
            assert await ids((at, "m")) == []
            assert await ids((at, "a")) == []
            assert await ids((at + timedelta(microseconds=1), "a")) == ["m"]
            assert await ids((at - timedelta(microseconds=1), "z")) == []
            assert await ids((datetime(1970, 1, 1, tzinfo=UTC), "z")) == []

    # --- due ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("state", list(UploadState))
    @pytest.mark.parametrize("timer", list(Timer))
    async def test_an_upload_is_due_when_a_timer_of_its_state_has_passed(
        self, database: Database, state: UploadState, timer: Timer
    ) -> None:
        watched = {
            UploadState.PENDING: {Timer.LEASE, Timer.DEADLINE},
            UploadState.UPLOADING: {Timer.DEADLINE},
            UploadState.COMPLETING: {Timer.LEASE},
            UploadState.ABORTING: {Timer.LEASE},
        } | {terminal: {Timer.RECHECK} for terminal in TERMINAL_STATES}
        upload = await added_upload(database, make_upload("a", state=state), lifetime=HOUR, lease=HOUR)
        waiting = Transition(upload)
        for other in Timer:
            waiting = waiting.setting(other, HOUR)
        upload = await saved(database, waiting)
        assert await due(database) == []
        await saved(database, Transition(upload).setting(timer, -HOUR))
        assert await due(database) == (["a"] if timer in watched[state] else [])

    async def test_an_upload_without_the_timer_of_its_state_is_not_due(self, database: Database) -> None:
        for state in (UploadState.COMPLETING, UploadState.ABORTING, UploadState.ABORTED):
            await added_upload(database, make_upload(state=state), lifetime=-HOUR, lease=None)
        assert await due(database) == []

    async def test_due_is_oldest_timer_first_and_bounded(self, database: Database) -> None:
        await added_upload(database, make_upload("deadline 3 h ago", state=UploadState.UPLOADING), lifetime=-3 * HOUR)
        await added_upload(database, make_upload("lease 2 h ago", state=UploadState.ABORTING), lease=-2 * HOUR)
        recheck = await added_upload(database, make_upload("recheck 4 h ago", state=UploadState.ABORTED))
        await saved(database, recheck.recheck(-4 * HOUR))
        await added_upload(
            database, make_upload("lease 5 h ago", state=UploadState.PENDING), lifetime=-HOUR, lease=-5 * HOUR
        )
        await added_upload(database, make_upload("not yet", state=UploadState.UPLOADING))
        expected = ["lease 5 h ago", "recheck 4 h ago", "deadline 3 h ago", "lease 2 h ago"]
        assert await due(database) == expected
        assert await due(database, 2) == expected[:2]

    async def test_an_upload_due_by_two_timers_is_listed_once(self, database: Database) -> None:
        await added_upload(database, make_upload("a"), lifetime=-HOUR, lease=-HOUR)
        assert await due(database) == ["a"]

    async def test_what_was_put_off_is_due_after_all_else_and_its_deadline_has_passed_still(
        self, database: Database
    ) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.UPLOADING), lifetime=-2 * HOUR)
        await added_upload(database, make_upload("b", state=UploadState.UPLOADING), lifetime=-HOUR)
        assert await due(database) == ["a", "b"]
        upload = await saved(database, upload.put_off())
        assert await due(database) == ["b", "a"]
        assert (await saved(database, upload.deadline_passed(LEASE))).reason is Reason.EXPIRED

    async def test_what_is_not_due_can_not_be_put_off(self, database: Database) -> None:
        upload = await added_upload(database, make_upload(state=UploadState.UPLOADING), lifetime=HOUR)
        with pytest.raises(VersionConflictError):
            await saved(database, upload.put_off())
        assert await stored(database, upload.id) == upload

    # --- by_keys --------------------------------------------------------------------------------------------------

    async def test_by_keys_finds_whole_keys_only(self, database: Database) -> None:
        one = await added_upload(database, make_upload(address=Address("bucket", "up/1")))
        await added_upload(database, make_upload(address=Address("bucket", "up/10")))
        async with database.reader() as tx:
            assert await tx.uploads.by_keys(["up/1", "up/", "up/2", "UP/10", "up/%"]) == {"up/1": one}
            assert await tx.uploads.by_keys([]) == {}

    async def test_by_keys_takes_a_thousand(self, database: Database) -> None:
        async with database.transaction() as tx:
            for number in range(0, 1_000, 100):
                upload = make_upload(f"u{number}", address=Address("bucket", f"up/{number}"))
                await tx.uploads.add(upload, lifetime=HOUR, lease=None)
        async with database.reader() as tx:
            found = await tx.uploads.by_keys([f"up/{number}" for number in range(1_000)])
        assert {key: upload.id for key, upload in found.items()} == {f"up/{n}": f"u{n}" for n in range(0, 1_000, 100)}

    async def test_times_never_go_back_between_saves(self, database: Database) -> None:
        upload = await added_upload(database)
        times = []
        for _ in range(5):
            upload = await saved(database, Transition(upload).setting(Timer.FENCED, timedelta(0)))
            assert upload.fenced_at is not None
            times.append(upload.fenced_at)
        assert all(earlier <= later for earlier, later in pairwise(times))
