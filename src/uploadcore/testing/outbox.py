"""The contract of `Transaction.outbox`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from uploadcore.events import Event, EventType
from uploadcore.ports import Database, DeadLetter, Delivery, FailedDelivery
from uploadcore.states import UploadState
from uploadcore.testing.builders import make_event, make_upload
from uploadcore.testing.uploads import SENTINELS, added_upload, saved
from uploadcore.upload import Transition

__all__ = ["OutboxContract"]

HOUR = timedelta(hours=1)
HERE = "here"
"""Name of a destination."""


async def written(database: Database, events: Iterable[Event]) -> None:
    """The events, each written in a transaction of its own."""
    for event in events:
        async with database.transaction() as tx:
            await tx.outbox.add(event)


async def numbered(database: Database, *destinations: str, limit: int = 1_000) -> int:
    """How many events were given a position, and deliveries to `HERE` (or these)."""
    async with database.transaction() as tx:
        return await tx.outbox.number(destinations or (HERE,), limit)


async def claimed(
    database: Database, limit: int = 100, *, destination: str = HERE, lease: timedelta = HOUR
) -> list[Delivery]:
    """What a relay gets."""
    async with database.transaction(single=True) as tx:
        return await tx.outbox.claim(destination, limit, lease=lease)


async def claimed_ids(
    database: Database, limit: int = 100, *, destination: str = HERE, lease: timedelta = HOUR
) -> list[str]:
    """The ids of what a relay gets."""
    return [delivery.event.id for delivery in await claimed(database, limit, destination=destination, lease=lease)]


async def delivered(database: Database, *deliveries: Delivery) -> None:
    """Tell of deliveries."""
    async with database.transaction() as tx:
        await tx.outbox.delivered(deliveries)


async def failed(database: Database, *deliveries: Delivery, retry_after: timedelta | None, error: str = "no") -> None:
    """Tell of failed deliveries."""
    async with database.transaction() as tx:
        await tx.outbox.failed([FailedDelivery(delivery, retry_after, error) for delivery in deliveries])


async def relayed(database: Database, *, destination: str = HERE) -> list[str]:
    """Number and deliver until nothing is due; what arrived, in order."""
    await numbered(database, destination)
    arrived: list[str] = []
    while deliveries := await claimed(database, destination=destination):
        await delivered(database, *deliveries)
        arrived += [delivery.event.id for delivery in deliveries]
    return arrived


async def dead_letters(database: Database, destination: str | None = None, limit: int = 100) -> list[DeadLetter]:
    """What is dead."""
    async with database.reader(single=True) as tx:
        return await tx.outbox.dead_letters(destination=destination, after=None, limit=limit)


async def purged(database: Database, *, older_than: timedelta = -HOUR, dead_older_than: timedelta = HOUR) -> int:
    """How many were."""
    async with database.transaction() as tx:
        return await tx.outbox.purge(older_than=older_than, dead_older_than=dead_older_than)


async def backlog(database: Database, *destinations: str) -> dict[str, tuple[int, int, bool]]:
    """Pending, dead, and whether there is an oldest, by destination."""
    async with database.reader() as tx:
        found = await tx.outbox.backlog(destinations)
    assert all(there.oldest is None or timedelta(0) <= there.oldest < HOUR for there in found)
    return {there.destination: (there.pending, there.dead, there.oldest is not None) for there in found}


class OutboxContract:
    """What every `Outbox` does. Part of `DatabaseContract`."""

    @pytest.mark.parametrize("text", SENTINELS)
    async def test_an_event_comes_out_as_it_went_in_with_its_time_and_position(
        self, database: Database, text: str
    ) -> None:
        event = make_event("e", data={text: text, "size": "25"})
        await written(database, [event])
        assert await numbered(database) == 1
        [delivery] = await claimed(database)
        assert (delivery.destination, delivery.attempt) == (HERE, 1)
        found = delivery.event
        assert found.occurred_at is not None
        assert found.occurred_at.utcoffset() == timedelta(0)
        assert found.position is not None
        assert found.position >= 1
        assert dict(found.data) == {text: text, "size": "25"}
        assert (found.id, found.type, found.owner, found.upload_id, found.file_id) == (
            ("e", event.type, event.owner, event.upload_id, event.file_id)
        )
        assert isinstance(found.type, EventType)

    async def test_an_event_of_a_type_that_only_a_later_version_knows_is_carried_through(
        self, database: Database
    ) -> None:
        await written(database, [replace(make_event("e"), type="upload.transmogrified")])
        await numbered(database)
        [delivery] = await claimed(database)
        assert delivery.event.type == "upload.transmogrified"

    async def test_saving_an_upload_writes_its_events(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.COMPLETING))
        await saved(database, upload.assembled())
        assert await numbered(database) == 1
        [delivery] = await claimed(database)
        assert delivery.event.type is EventType.UPLOAD_COMPLETED
        told = delivery.event
        assert (told.id, told.upload_id, told.file_id) == ("a-2-completed", "a", upload.file_id)
        assert delivery.event.data["state"] == "completed"

    # --- positions ------------------------------------------------------------------------------------------------

    async def test_positions_have_no_gaps_and_never_go_back(self, database: Database) -> None:
        positions = []
        for batch in range(3):
            await written(database, (make_event(f"{batch}-{n}", upload_id=f"{batch}-{n}") for n in range(4)))
            assert await numbered(database, limit=3) == 3
            assert await numbered(database, limit=3) == 1
            assert await numbered(database, limit=3) == 0
            positions += [delivery.event.position or 0 for delivery in await claimed(database)]
        assert positions == list(range(positions[0], positions[0] + 12))

    async def test_a_numbering_that_was_rolled_back_leaves_no_gap(self, database: Database) -> None:
        await written(database, [make_event("a", upload_id="a")])
        await numbered(database)
        [before] = await claimed(database)
        await written(database, [make_event("b", upload_id="b")])
        with pytest.raises(RuntimeError, match="boom"):
            async with database.transaction() as tx:
                assert await tx.outbox.number([HERE], 10) == 1
                raise RuntimeError("boom")
        await written(database, [make_event("c", upload_id="c")])
        assert await numbered(database) == 2
        after = [delivery.event.position or 0 for delivery in await claimed(database)]
        assert before.event.position is not None
        assert after == [before.event.position + 1, before.event.position + 2]

    async def test_what_is_purged_takes_its_position_with_it(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        [first] = await claimed(database)
        await delivered(database, first)
        assert await purged(database) == 1
        await written(database, [make_event("b")])
        await numbered(database)
        [second] = await claimed(database)
        assert second.event.position == (first.event.position or 0) + 1

    async def test_of_many_who_number_at_once_each_event_gets_one_position(self, database: Database) -> None:
        await written(database, (make_event(f"e{n}", upload_id=f"u{n}") for n in range(12)))
        counts = await asyncio.gather(*(numbered(database, limit=5) for _ in range(6)))
        while await numbered(database):
            pass
        assert sum(counts) <= 12
        positions = [delivery.event.position or 0 for delivery in await claimed(database)]
        assert positions == list(range(positions[0], positions[0] + 12))

    async def test_events_of_a_save_and_of_add_keep_one_order_per_upload(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.COMPLETING))
        async with database.transaction() as tx:
            await tx.uploads.save(upload.assembled())
            await tx.outbox.add(make_event("file gone", upload_id="a", kind=EventType.FILE_DELETED))
        assert await relayed(database) == ["a-2-completed", "file gone"]

    # --- claims ---------------------------------------------------------------------------------------------------

    async def test_only_the_oldest_undelivered_event_of_an_upload_is_claimed(self, database: Database) -> None:
        await written(database, (make_event(f"{upload}{n}", upload_id=upload) for n in (1, 2, 3) for upload in "ab"))
        await numbered(database)
        a1, b1 = await claimed(database)
        assert (a1.event.id, b1.event.id) == ("a1", "b1")
        await delivered(database, b1)
        assert await claimed_ids(database) == ["b2"]
        await delivered(database, a1)
        assert await claimed_ids(database) == ["a2"]

    async def test_a_claimed_event_is_hidden_until_its_lease_has_passed(self, database: Database) -> None:
        await written(database, [make_event("a", upload_id="a"), make_event("b", upload_id="b")])
        await numbered(database)
        assert await claimed_ids(database, 1, lease=-HOUR) == ["a"]
        assert await claimed_ids(database, 1, lease=HOUR) == ["a"]
        assert await claimed_ids(database, lease=HOUR) == ["b"]
        assert await claimed_ids(database) == []

    async def test_a_claim_that_was_rolled_back_hides_nothing(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        with pytest.raises(RuntimeError, match="boom"):
            async with database.transaction() as tx:
                await tx.outbox.claim(HERE, 10, lease=HOUR)
                raise RuntimeError("boom")
        # Nobody waits for a rollback: a server may hold its locks for a moment more, and who claims skips what is locked.
        while not (found := await claimed_ids(database)):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0)
        assert found == ["a"]

    async def test_claims_are_in_order_and_bounded(self, database: Database) -> None:
        await written(database, (make_event(f"e{n}", upload_id=f"u{n}") for n in (3, 1, 2, 5, 4)))
        await numbered(database)
        assert await claimed_ids(database, 3) == ["e3", "e1", "e2"]
        assert await claimed_ids(database, 3) == ["e5", "e4"]

    async def test_concurrent_claims_share_no_event(self, database: Database) -> None:
        await written(database, (make_event(f"e{n:02}", upload_id=f"u{n}") for n in range(20)))
        await numbered(database)
        claims = await asyncio.gather(*(claimed_ids(database, 5) for _ in range(6)))
        assert sorted(event_id for claim in claims for event_id in claim) == [f"e{n:02}" for n in range(20)]

    async def test_destinations_have_nothing_to_do_with_one_another(self, database: Database) -> None:
        await written(database, (make_event(f"a{n}", upload_id="a") for n in (1, 2)))
        await numbered(database, "one", "two")
        [at_one] = await claimed(database, destination="one")
        await failed(database, at_one, retry_after=HOUR)
        assert await claimed_ids(database, destination="one") == []
        assert await relayed(database, destination="two") == ["a1", "a2"]
        assert await claimed_ids(database, destination="three") == []

    # --- failures -------------------------------------------------------------------------------------------------

    async def test_a_failed_event_holds_back_its_own_upload_only(self, database: Database) -> None:
        await written(database, (make_event(f"{upload}{n}", upload_id=upload) for n in (1, 2) for upload in "ab"))
        await numbered(database)
        a1, b1 = await claimed(database)
        await failed(database, a1, retry_after=HOUR)
        await delivered(database, b1)
        assert await claimed_ids(database) == ["b2"]

    async def test_attempts_are_counted_and_the_event_comes_again(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        for attempt in range(1, 5):
            [delivery] = await claimed(database)
            assert (delivery.event.id, delivery.attempt) == ("a", attempt)
            await failed(database, delivery, retry_after=-HOUR)
        [delivery] = await claimed(database, lease=-HOUR)
        assert delivery.attempt == 5
        [delivery] = await claimed(database)
        assert delivery.attempt == 6, "a claim nobody has told the end of counts too"
        await failed(database, delivery, retry_after=HOUR)
        assert await claimed(database) == []

    async def test_an_event_delivered_twice_is_delivered(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        [first] = await claimed(database, lease=-HOUR)
        [second] = await claimed(database)
        await delivered(database, first)
        await delivered(database, first, second)
        await failed(database, second, retry_after=-HOUR)
        assert await claimed(database) == []
        assert await backlog(database) == {}

    async def test_a_failure_that_comes_after_another_claim_changes_nothing(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        [first] = await claimed(database, lease=-HOUR)
        [second] = await claimed(database)
        await failed(database, first, retry_after=-HOUR)
        await failed(database, first, retry_after=None)
        assert await claimed(database) == []
        assert await dead_letters(database) == []
        await failed(database, second, retry_after=-HOUR)
        assert await claimed_ids(database) == ["a"]

    async def test_many_are_told_of_at_once(self, database: Database) -> None:
        await written(database, (make_event(name, upload_id=name) for name in "abcde"))
        await numbered(database, "one", "two")
        one, two = await claimed(database, destination="one"), await claimed(database, destination="two")
        await delivered(database, *one[:4], *two[:2])
        await failed(database, *two[2:4], retry_after=-HOUR)
        await failed(database, one[4], two[4], retry_after=None)
        assert await backlog(database) == {"one": (0, 1, False), "two": (2, 1, True)}
        assert await claimed_ids(database, destination="two") == ["c", "d"]

    # --- dead letters ---------------------------------------------------------------------------------------------

    async def test_a_dead_letter_is_kept_and_holds_back_nobody(self, database: Database) -> None:
        await written(database, (make_event(f"a{n}", upload_id="a") for n in (1, 2)))
        await numbered(database)
        [delivery] = await claimed(database)
        await failed(database, delivery, retry_after=None, error="410 gone, 日本語")
        [letter] = await dead_letters(database)
        assert (letter.event, letter.destination, letter.attempts) == (delivery.event, HERE, 1)
        assert letter.error == "410 gone, 日本語"
        assert letter.dead_at.utcoffset() == timedelta(0)
        assert await claimed_ids(database) == ["a2"]

    async def test_a_dead_letter_that_is_replayed_is_claimed_again_from_the_first_attempt(
        self, database: Database
    ) -> None:
        await written(database, (make_event(name, upload_id=name) for name in "abc"))
        await numbered(database)
        await failed(database, *await claimed(database), retry_after=None)
        async with database.transaction() as tx:
            assert await tx.outbox.replay("elsewhere", event_id=None, limit=10) == 0
            assert await tx.outbox.replay(HERE, event_id="nobody", limit=10) == 0
            assert await tx.outbox.replay(HERE, event_id="b", limit=10) == 1
            assert await tx.outbox.replay(HERE, event_id="b", limit=10) == 0
        [delivery] = await claimed(database)
        assert (delivery.event.id, delivery.attempt) == ("b", 1)
        assert [letter.event.id for letter in await dead_letters(database)] == ["a", "c"]
        async with database.transaction() as tx:
            assert await tx.outbox.replay(HERE, event_id=None, limit=1) == 1
            assert await tx.outbox.replay(HERE, event_id=None, limit=10) == 1
        assert await claimed_ids(database) == ["a", "c"]

    async def test_what_is_discarded_is_gone_at_that_destination(self, database: Database) -> None:
        await written(database, (make_event(name, upload_id=name) for name in "abc"))
        await numbered(database, "one", "two")
        a, *_ = await claimed(database, destination="one")
        await failed(database, a, retry_after=None)
        async with database.transaction() as tx:
            assert await tx.outbox.discard("one", event_id="b", limit=10) == 1
        assert await backlog(database) == {"one": (1, 1, True), "two": (3, 0, True)}
        async with database.transaction() as tx:
            assert await tx.outbox.discard("one", event_id=None, limit=10) == 2
            assert await tx.outbox.discard("one", event_id=None, limit=10) == 0
        assert await backlog(database) == {"two": (3, 0, True)}
        assert await relayed(database, destination="two") == ["a", "b", "c"]

    async def test_dead_letters_come_in_pages(self, database: Database) -> None:
        await written(database, (make_event(name, upload_id=name) for name in "abc"))
        await numbered(database, "one", "two")
        for destination in ("one", "two"):
            await failed(database, *await claimed(database, destination=destination), retry_after=None)
        after, seen = None, []
        for _ in range(4):
            async with database.reader() as tx:
                page = await tx.outbox.dead_letters(destination=None, after=after, limit=2)
            seen += [(letter.event.id, letter.destination) for letter in page]
            after = (page[-1].event.position or 0, page[-1].destination) if page else after
        assert seen == [(name, destination) for name in "abc" for destination in ("one", "two")]
        assert [letter.event.id for letter in await dead_letters(database, "two", limit=2)] == ["a", "b"]

    # --- how much there is, and for how long ----------------------------------------------------------------------

    async def test_the_backlog_says_what_each_destination_still_has_to_get(self, database: Database) -> None:
        assert await backlog(database, "one", "two") == {"one": (0, 0, False), "two": (0, 0, False)}
        await written(database, (make_event(name, upload_id=name) for name in "ab"))
        assert await backlog(database, "one", "two") == {"one": (2, 0, True), "two": (2, 0, True)}
        await numbered(database, "one", "two", "gone")
        await written(database, [make_event("c", upload_id="c")])
        await delivered(database, *await claimed(database, destination="two"))
        assert await backlog(database, "one", "two") == {
            "one": (3, 0, True),
            "two": (1, 0, True),
            "gone": (2, 0, True),
        }

    async def test_purge_drops_old_events_that_have_arrived_everywhere(self, database: Database) -> None:
        await written(database, (make_event(name, upload_id=name) for name in ("a", "b", "c")))
        await numbered(database, "one", "two")
        await delivered(database, *await claimed(database, 2, destination="one"))
        assert await purged(database) == 0
        a, b, _ = await claimed(database, destination="two")
        await delivered(database, a)
        assert await purged(database, older_than=HOUR) == 0
        assert await purged(database) == 1
        await delivered(database, b)
        assert await purged(database) == 1
        assert await purged(database) == 0
        await written(database, [make_event("a", upload_id="a")])

    async def test_an_event_that_goes_nowhere_is_purged_once_it_is_old(self, database: Database) -> None:
        await written(database, [make_event("a")])
        assert await purged(database) == 0
        async with database.transaction() as tx:
            assert await tx.outbox.number((), 10) == 1
            assert await tx.outbox.number((), 10) == 0
        assert await purged(database, older_than=HOUR) == 0
        assert await purged(database) == 1

    async def test_dead_letters_are_kept_for_longer(self, database: Database) -> None:
        await written(database, [make_event("a")])
        await numbered(database)
        await failed(database, *await claimed(database), retry_after=None)
        assert await purged(database) == 0
        assert len(await dead_letters(database)) == 1
        assert await purged(database, older_than=HOUR, dead_older_than=-HOUR) == 1
        assert await dead_letters(database) == []
        assert await purged(database) == 1, "and then its event, as any other"

    # --- being woken ----------------------------------------------------------------------------------------------

    async def test_a_commit_wakes_who_waits_for_events(self, database: Database) -> None:
        upload = await added_upload(database, make_upload("a", state=UploadState.COMPLETING))
        await database.events_written(timedelta(0))
        for write in (database.transaction, partial(database.transaction, single=True)):
            waiting = asyncio.create_task(database.events_written(HOUR))
            await asyncio.sleep(0)
            async with write() as tx:
                upload = await tx.uploads.save(Transition(upload).announcing(EventType.UPLOAD_REOPENED))
            await waiting
        async with database.transaction() as tx:
            await tx.outbox.add(make_event("e"))
        await database.events_written(HOUR)
