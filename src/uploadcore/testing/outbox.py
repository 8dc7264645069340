"""The contracts of `Transaction.outbox`, `.idempotency` and `.quotas`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest

from uploadcore.errors import QuotaExceededError
from uploadcore.events import Event, EventType
from uploadcore.ports import Database, IdempotencyRecord, PendingEvent
from uploadcore.states import UploadState
from uploadcore.testing.builders import make_event, make_upload
from uploadcore.testing.uploads import SENTINELS, added_upload, saved

__all__ = ["IdempotencyContract", "OutboxContract", "QuotaContract"]

HOUR = timedelta(hours=1)


async def written(database: Database, events: Iterable[Event]) -> None:
    """The events, each written in a transaction of its own."""
    for event in events:
        async with database.transaction() as tx:
            await tx.outbox.add(event)


async def claimed(database: Database, limit: int = 100, *, lease: timedelta = HOUR) -> list[PendingEvent]:
    """What a relay gets."""
    async with database.transaction() as tx:
        return await tx.outbox.claim(limit, lease=lease)


async def claimed_ids(database: Database, limit: int = 100, *, lease: timedelta = HOUR) -> list[str]:
    """The ids of what a relay gets."""
    return [pending.event.id for pending in await claimed(database, limit, lease=lease)]


async def delivered(database: Database, event_id: str) -> None:
    """Tell of a delivery."""
    async with database.transaction() as tx:
        await tx.outbox.delivered(event_id)


async def failed(database: Database, event_id: str, *, retry_after: timedelta) -> None:
    """Tell of a failed delivery."""
    async with database.transaction() as tx:
        await tx.outbox.failed(event_id, retry_after=retry_after)


class OutboxContract:
    """What every `Outbox` does. Part of `DatabaseContract`."""

    @pytest.mark.parametrize("text", SENTINELS)
    async def test_an_event_comes_out_as_it_went_in_with_its_time(self, database: Database, text: str) -> None:
        event = make_event("e", data={text: text, "size": "25"})
        await written(database, [event])
        [pending] = await claimed(database)
        assert pending.attempts == 0
        assert pending.event.occurred_at is not None
        assert pending.event.occurred_at.utcoffset() == timedelta(0)
        assert dict(pending.event.data) == {text: text, "size": "25"}
        found = pending.event
        assert (found.id, found.type, found.owner, found.upload_id, found.file_id) == (
            ("e", event.type, event.owner, event.upload_id, event.file_id)
        )

    async def test_saving_an_upload_writes_its_events(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.COMPLETING))
        await saved(database, upload.assembled())
        [pending] = await claimed(database)
        assert pending.event.type is EventType.UPLOAD_COMPLETED
        assert (pending.event.id, pending.event.upload_id, pending.event.file_id) == ("a-2", "a", upload.file_id)
        assert pending.event.data["state"] == "completed"

    async def test_only_the_oldest_undelivered_event_of_an_upload_is_claimed(self, database: Database) -> None:
        await written(database, (make_event(f"{upload}{n}", upload_id=upload) for n in (1, 2, 3) for upload in "ab"))
        assert await claimed_ids(database) == ["a1", "b1"]
        await delivered(database, "b1")
        assert await claimed_ids(database) == ["b2"]
        await delivered(database, "a1")
        assert await claimed_ids(database) == ["a2"]
        await delivered(database, "a2")
        await delivered(database, "b2")
        assert await claimed_ids(database) == ["a3", "b3"]

    async def test_events_of_a_save_and_of_add_keep_one_order_per_upload(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.COMPLETING))
        async with database.transaction() as tx:
            await tx.uploads.save(upload.assembled())
            await tx.outbox.add(make_event("file gone", upload_id="a", kind=EventType.FILE_DELETED))
        assert await claimed_ids(database) == ["a-2"]
        await delivered(database, "a-2")
        assert await claimed_ids(database) == ["file gone"]

    async def test_a_claimed_event_is_hidden_until_its_lease_has_passed(self, database: Database) -> None:
        await written(database, [make_event("a", upload_id="a"), make_event("b", upload_id="b")])
        assert await claimed_ids(database, 1, lease=-HOUR) == ["a"]
        assert await claimed_ids(database, 1, lease=HOUR) == ["a"]
        assert await claimed_ids(database, lease=HOUR) == ["b"]
        assert await claimed_ids(database) == []

    async def test_a_claim_that_was_rolled_back_hides_nothing(self, database: Database) -> None:
        await written(database, [make_event("a")])
        with pytest.raises(RuntimeError, match="boom"):
            async with database.transaction() as tx:
                await tx.outbox.claim(10, lease=HOUR)
                raise RuntimeError("boom")
        assert await claimed_ids(database) == ["a"]

    async def test_a_failed_event_holds_back_its_own_upload_only(self, database: Database) -> None:
        await written(database, (make_event(f"{upload}{n}", upload_id=upload) for n in (1, 2) for upload in "ab"))
        assert await claimed_ids(database) == ["a1", "b1"]
        await failed(database, "a1", retry_after=HOUR)
        await delivered(database, "b1")
        assert await claimed_ids(database) == ["b2"]

    async def test_failures_are_counted_and_the_event_comes_again(self, database: Database) -> None:
        await written(database, [make_event("a")])
        for attempts in range(4):
            [pending] = await claimed(database)
            assert (pending.event.id, pending.attempts) == ("a", attempts)
            await failed(database, "a", retry_after=-HOUR)
        await failed(database, "a", retry_after=HOUR)
        assert await claimed(database) == []

    async def test_an_event_delivered_twice_is_delivered(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await claimed(database)
        await delivered(database, "a")
        await delivered(database, "a")
        await failed(database, "a", retry_after=-HOUR)
        assert await claimed(database) == []

    async def test_telling_of_an_unknown_event_is_no_error(self, database: Database) -> None:
        await delivered(database, "nobody")
        await failed(database, "nobody", retry_after=HOUR)
        assert await claimed(database) == []

    async def test_claims_are_oldest_first_and_bounded(self, database: Database) -> None:
        await written(database, (make_event(f"e{n}", upload_id=f"u{n}") for n in (3, 1, 2, 5, 4)))
        assert await claimed_ids(database, 3) == ["e3", "e1", "e2"]
        assert await claimed_ids(database, 3) == ["e5", "e4"]

    async def test_concurrent_claims_share_no_event(self, database: Database) -> None:
        await written(database, (make_event(f"e{n:02}", upload_id=f"u{n}") for n in range(20)))
        claims = await asyncio.gather(*(claimed_ids(database, 5) for _ in range(6)))
        assert sorted(event_id for claim in claims for event_id in claim) == [f"e{n:02}" for n in range(20)]

    async def test_purge_drops_old_delivered_events_only(self, database: Database) -> None:
        await written(database, (make_event(name, upload_id=name) for name in ("a", "b", "c")))
        await delivered(database, "a")
        await delivered(database, "b")
        async with database.transaction() as tx:
            assert await tx.outbox.purge(older_than=HOUR) == 0
            assert await tx.outbox.purge(older_than=-HOUR) == 2
            assert await tx.outbox.purge(older_than=-HOUR) == 0
        assert await claimed_ids(database) == ["c"]


class IdempotencyContract:
    """What every `IdempotencyRecords` does. Part of `DatabaseContract`."""

    async def claim_key(
        self, database: Database, record: IdempotencyRecord, kept: timedelta = HOUR
    ) -> IdempotencyRecord:
        """Claim in a transaction of its own."""
        async with database.transaction() as tx:
            return await tx.idempotency.claim(record, kept=kept)

    async def test_the_first_claim_stands(self, database: Database) -> None:
        first = IdempotencyRecord("u_1", "key", "print 1", "a")
        assert await self.claim_key(database, first) == first
        assert await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 2", "b")) == first
        assert await self.claim_key(database, first) == first

    async def test_another_owners_or_another_key_is_another(self, database: Database) -> None:
        await self.claim_key(database, IdempotencyRecord("u_1", "key", "print", "a"))
        for owner, key in (("u_2", "key"), ("u_1", "Key"), ("u_1", "key "), ("u_1", "ke"), ("U_1", "key")):
            other = IdempotencyRecord(owner, key, "print", "b")
            assert await self.claim_key(database, other) == other

    @pytest.mark.parametrize("text", [*SENTINELS[1:-1], "x" * 255])
    async def test_any_text_is_a_key(self, database: Database, text: str) -> None:
        record = IdempotencyRecord(text, text, "print", "a")
        assert await self.claim_key(database, record) == record
        assert await self.claim_key(database, IdempotencyRecord(text, text, "print", "b")) == record

    async def test_a_record_that_was_kept_long_enough_gives_way(self, database: Database) -> None:
        await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 1", "a"))
        second = IdempotencyRecord("u_1", "key", "print 2", "b")
        assert await self.claim_key(database, second, kept=-HOUR) == second
        assert await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 3", "c")) == second

    async def test_of_many_concurrent_claims_exactly_one_stands(self, database: Database) -> None:
        records = [IdempotencyRecord("u_1", "key", "print", f"upload {number}") for number in range(12)]
        standing = await asyncio.gather(*(self.claim_key(database, record) for record in records))
        assert len(set(standing)) == 1
        assert standing[0] in records

    async def test_old_records_are_purged(self, database: Database) -> None:
        for key in ("a", "b"):
            await self.claim_key(database, IdempotencyRecord("u_1", key, "print", key))
        async with database.transaction() as tx:
            assert await tx.idempotency.purge(older_than=HOUR) == 0
            assert await tx.idempotency.purge(older_than=-HOUR) == 2
            assert await tx.idempotency.purge(older_than=-HOUR) == 0
        again = IdempotencyRecord("u_1", "a", "print", "new")
        assert await self.claim_key(database, again) == again


class QuotaContract:
    """What every `QuotaRecords` does. Part of `DatabaseContract`."""

    async def reserve(
        self,
        database: Database,
        size: int,
        *,
        owner: str = "u_1",
        uploads: int | None = None,
        size_limit: int | None = None,
    ) -> None:
        """Reserve in a transaction of its own."""
        async with database.transaction() as tx:
            await tx.quotas.reserve(owner, size=size, max_uploads=uploads, max_bytes=size_limit)

    async def release(self, database: Database, size: int) -> None:
        """Release in a transaction of its own."""
        async with database.transaction() as tx:
            await tx.quotas.release("u_1", size=size)

    async def test_uploads_are_counted_up_to_the_limit(self, database: Database) -> None:
        await self.reserve(database, 0, uploads=2)
        await self.reserve(database, 0, uploads=2)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=2)
        await self.release(database, 0)
        await self.reserve(database, 0, uploads=2)

    async def test_bytes_are_counted_up_to_the_limit(self, database: Database) -> None:
        await self.reserve(database, 60, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 41, size_limit=100)
        await self.reserve(database, 40, size_limit=100)
        await self.release(database, 60)
        await self.reserve(database, 60, size_limit=100)

    async def test_a_first_reservation_can_be_refused(self, database: Database) -> None:
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=0)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 11, size_limit=10)
        await self.reserve(database, 10, uploads=1, size_limit=10)

    async def test_a_refused_reservation_counts_nothing(self, database: Database) -> None:
        await self.reserve(database, 60, uploads=2, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 41, uploads=2, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, uploads=1, size_limit=100)
        await self.reserve(database, 40, uploads=2, size_limit=100)

    async def test_a_refused_reservation_leaves_its_transaction_usable(self, database: Database) -> None:
        async with database.transaction() as tx:
            with pytest.raises(QuotaExceededError):
                await tx.quotas.reserve("u_1", size=11, max_uploads=None, max_bytes=10)
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        async with database.reader() as tx:
            assert await tx.uploads.get("a") is not None

    async def test_without_limits_there_are_none(self, database: Database) -> None:
        for _ in range(3):
            await self.reserve(database, 53_687_091_200_000)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, size_limit=3 * 53_687_091_200_000)

    async def test_owners_do_not_share(self, database: Database) -> None:
        await self.reserve(database, 10, owner="u_1", uploads=1, size_limit=10)
        await self.reserve(database, 10, owner="u_2", uploads=1, size_limit=10)
        await self.reserve(database, 10, owner="U_1", uploads=1, size_limit=10)

    async def test_a_quota_never_falls_below_zero(self, database: Database) -> None:
        await self.release(database, 1_000)
        await self.reserve(database, 10)
        await self.release(database, 1_000)
        await self.release(database, 1_000)
        await self.reserve(database, 10, uploads=1, size_limit=10)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=1)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, size_limit=10)

    async def test_concurrent_reservations_never_pass_the_limit(self, database: Database) -> None:
        attempts = (self.reserve(database, 10, uploads=20, size_limit=30) for _ in range(12))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert outcomes.count(None) == 3
        assert sum(isinstance(outcome, QuotaExceededError) for outcome in outcomes) == 9
