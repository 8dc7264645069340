"""The relay: every event arrives, at least once, in order per upload, never before it is true (rule 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.rig import OWNER, Rig, until
from uploadcore import Event, UploadConfig, UploadCore
from uploadcore.errors import DatabaseUnavailableError, DeliveryError, InvalidRequestError, UndeliverableError
from uploadcore.relay import AT_ONCE, BUSY_PAUSE, LONGEST_RETRY, RelayReport, retry_after
from uploadcore_memory import ManualClock, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore


@pytest.fixture
def publisher() -> MemoryEventPublisher:
    return MemoryEventPublisher()


@pytest.fixture
async def rig(publisher: MemoryEventPublisher) -> AsyncIterator[Rig]:
    made = Rig(publisher=publisher)
    async with made.core:
        yield made


def types(publisher: MemoryEventPublisher) -> list[str]:
    return [str(event.type) for event in publisher.events]


async def delivered(rig: Rig) -> int:
    """One pass; how many arrived."""
    return (await rig.core.relay()).delivered


def failed(rig: Rig) -> int:
    """Deliveries so far that did not arrive, and are tried again."""
    return sum(count for (*_, outcome), count in rig.core.tally.deliveries.items() if outcome == "failed")


async def dead(rig: Rig) -> list[tuple[str, str]]:
    """Where dead letters are, and why."""
    return [(letter.destination, letter.error) for letter in await rig.core.events.dead_letters()]


class Calling(MemoryEventPublisher):
    """Does something before each delivery."""

    def __init__(self, before: Callable[[Event], object]) -> None:
        super().__init__()
        self._before = before

    async def publish(self, event: Event) -> None:
        result = self._before(event)
        if asyncio.isfuture(result) or asyncio.iscoroutine(result):
            await result
        await super().publish(event)


class Holding(MemoryEventPublisher):
    """Holds deliveries of some uploads, or all, until it is let go."""

    def __init__(self, *upload_ids: str) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.upload_ids = upload_ids
        self.begun = 0

    async def publish(self, event: Event) -> None:
        self.begun += 1
        if not self.upload_ids or event.upload_id in self.upload_ids:
            await self.gate.wait()
        await super().publish(event)


# --- one destination ----------------------------------------------------------------------------------------------


async def test_rule_8_an_event_arrives_once_it_is_true(rig: Rig, publisher: MemoryEventPublisher) -> None:
    upload = await rig.sent()
    assert await delivered(rig) == 0

    await rig.complete(upload.id)

    assert await delivered(rig) == 1
    assert await delivered(rig) == 0
    assert types(publisher) == ["upload.completed"]
    assert publisher.events[0].occurred_at is not None
    assert publisher.events[0].position == 1


async def test_rule_8_events_of_one_upload_arrive_in_order(rig: Rig, publisher: MemoryEventPublisher) -> None:
    done = await rig.completed()
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)

    assert await delivered(rig) == 2

    assert types(publisher) == ["upload.completed", "file.deleted"]


async def test_rule_8_an_event_waits_for_the_one_before_it_to_arrive() -> None:
    holding = Holding()
    rig = Rig(publisher=holding)
    done = await rig.completed()
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    relaying = [asyncio.ensure_future(core.relay()) for core in (rig.core, rig.another_core())]
    await until(lambda: holding.begun == 1 and relaying[1].done())

    holding.gate.set()
    await asyncio.gather(*relaying)

    assert types(holding) == ["upload.completed", "file.deleted"]


async def test_rule_8_a_failing_event_holds_back_its_own_upload_only(rig: Rig, publisher: MemoryEventPublisher) -> None:
    first = await rig.completed()
    await rig.core.files.delete(first.upload.file_id, owner=OWNER)
    await rig.completed()
    publisher.failures.append(OSError("refused"))

    report = await rig.core.relay()
    assert (report.numbered, report.delivered, report.failed, report.dead, report.more) == (3, 1, 1, 0, False)
    rig.after(seconds=1)
    assert await delivered(rig) == 2

    assert types(publisher) == ["upload.completed", "upload.completed", "file.deleted"]


async def test_a_failed_delivery_is_tried_again_with_the_same_id(rig: Rig, publisher: MemoryEventPublisher) -> None:
    await rig.completed()
    (written,) = rig.database.inner.events
    publisher.failures += [RuntimeError("no"), RuntimeError("no")]

    for _ in range(3):
        await rig.core.relay()
        rig.after(seconds=2)

    assert [event.id for event in publisher.events] == [written.id]


async def test_rule_8_a_delivery_that_was_not_recorded_comes_again_with_the_same_id(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    """As when the process is killed between the delivery and its record."""
    await rig.completed()
    rig.database.faults.pass_by("transaction", 2)
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"), times=2)

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.relay()
    assert await delivered(rig) == 0  # still claimed
    rig.after(seconds=30)
    assert await delivered(rig) == 1

    assert len(publisher.events) == 2
    assert publisher.events[0] == publisher.events[1]


async def test_a_delivery_whose_record_fails_once_is_recorded_at_the_second_attempt(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    await rig.completed()
    rig.database.faults.pass_by("transaction", 2)
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.relay()
    rig.after(seconds=30)

    assert await delivered(rig) == 0
    assert len(publisher.events) == 1


async def test_a_delivery_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uploadcore.relay.DELIVERY_TIMEOUT", 0.001)
    hanging = Holding()
    rig = Rig(publisher=hanging)
    await rig.completed()

    assert (await rig.core.relay()).failed == 1
    rig.after(seconds=1)
    hanging.gate.set()
    assert await delivered(rig) == 1


async def test_a_delivery_that_hangs_keeps_no_other_waiting() -> None:
    holding = Holding()
    rig = Rig(publisher=holding)
    held, *others = [await rig.completed() for _ in range(40)]
    holding.upload_ids = (held.upload.id,)

    relaying = asyncio.ensure_future(rig.core.relay())
    await until(lambda: len(holding.events) == len(others))
    while (await rig.core.events.backlog())[0].pending != 1:  # noqa: ASYNC110 - a database tells nobody
        await asyncio.sleep(0)

    holding.gate.set()
    assert (await relaying).delivered == 40


async def test_a_relay_that_is_cancelled_lets_go_of_its_events_at_once() -> None:
    holding = Holding()
    rig = Rig(publisher=holding)
    await rig.completed()
    relaying = asyncio.ensure_future(rig.core.relay())
    await until(lambda: holding.begun == 1)

    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying
    holding.gate.set()

    assert await delivered(rig) == 1


async def test_a_relay_that_is_cancelled_records_what_has_ended() -> None:
    """Both deliveries are under way when it is cancelled; then one has arrived and one has failed, and the relay did not hear of it."""
    relaying: asyncio.Future[RelayReport]
    begun: list[Event] = []

    async def meet(event: Event) -> None:
        begun.append(event)
        await gate.wait()
        relaying.cancel()
        if event is begun[1]:
            raise UndeliverableError("410")

    gate, publisher = asyncio.Event(), Calling(meet)
    rig = Rig(publisher=publisher)
    for _ in range(2):
        await rig.completed()
    relaying = asyncio.ensure_future(rig.core.relay())
    await until(lambda: len(begun) == 2)

    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await relaying

    assert await dead(rig) == [("here", "410")]
    rig.after(hours=1)
    assert await delivered(rig) == 0
    assert len(publisher.events) == 1


async def test_two_relays_at_once_deliver_each_event_once_and_in_order(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    for _ in range(20):
        done = await rig.completed()
        await rig.core.files.delete(done.upload.file_id, owner=OWNER)

    reports = await asyncio.gather(rig.core.relay(), rig.another_core().relay())

    assert sum(report.delivered for report in reports) == len(publisher.events) == 40
    assert len({event.id for event in publisher.events}) == 40
    order: dict[str, list[int]] = {}
    for event in publisher.events:
        order.setdefault(event.upload_id, []).append(event.position or 0)
    assert all(positions == sorted(positions) for positions in order.values())


async def test_a_pass_is_bounded() -> None:
    rig = Rig(publisher=MemoryEventPublisher(), config=UploadConfig(batch=2))
    for _ in range(3):
        await rig.completed()

    reports = [await rig.core.relay() for _ in range(3)]

    assert [(report.delivered, report.more) for report in reports] == [(2, True), (1, False), (0, False)]


async def test_a_pass_is_bounded_in_time() -> None:
    clock = ManualClock()
    rig = Rig(publisher=Calling(lambda _: clock.advance(11)), clock=clock)
    for _ in range(40):
        await rig.completed()

    report = await rig.core.relay()

    assert (report.delivered, report.more) == (32, True)


async def test_without_a_publisher_every_event_has_arrived_everywhere_it_should() -> None:
    rig = Rig()
    await rig.completed()

    assert [(await rig.core.relay()).numbered for _ in range(2)] == [1, 0]
    rig.after(days=1, seconds=1)
    assert (await rig.core.sweep()).records_purged == 1


async def test_events_are_numbered_in_one_order_without_gaps(rig: Rig, publisher: MemoryEventPublisher) -> None:
    for _ in range(3):
        await rig.completed()
        await rig.core.relay()

    assert [event.position for event in publisher.events] == [1, 2, 3]


# --- several destinations -----------------------------------------------------------------------------------------


async def test_every_destination_gets_every_event() -> None:
    one, two = MemoryEventPublisher(), MemoryEventPublisher()
    rig = Rig(publishers={"one": one, "two": two})
    await rig.completed()

    report = await rig.core.relay()

    assert one.events == two.events
    assert {name: there.delivered for name, there in report.destinations.items()} == {"one": 1, "two": 1}


async def test_a_destination_that_hangs_holds_up_no_other() -> None:
    hanging, well = Holding(), MemoryEventPublisher()
    rig = Rig(publishers={"hanging": hanging, "well": well})
    background = asyncio.create_task(rig.core.run_background())
    for number in range(1, 4):
        done = await rig.completed()
        await until(lambda: rig.clock.sleepers >= 1)
        rig.after(seconds=1)
        await until(lambda count=number: len(well.events) == count)  # type: ignore[misc]
    assert hanging.begun >= 1
    assert hanging.events == []

    hanging.gate.set()
    await until(lambda: len(hanging.events) == 3)
    await stopped(background)
    assert done.file is not None


async def test_one_destination_s_trouble_with_the_database_is_told_after_the_others_are_done() -> None:
    one, two = MemoryEventPublisher(), MemoryEventPublisher()
    rig = Rig(publishers={"one": one, "two": two})
    await rig.completed()
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.relay()

    assert (one.events, len(two.events)) == ([], 1)


@pytest.mark.parametrize("name", ["", "CRM", "a_b", "-a", "a" * 64, "a b", "é"])
def test_a_destination_s_name_is_lower_case_letters_digits_and_hyphens(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="a destination's name is"):
        UploadCore(store=MemoryObjectStore(), database=MemoryDatabase(), publishers={name: MemoryEventPublisher()})


async def test_publishers_are_opened_last_and_closed_first() -> None:
    notes: list[str] = []

    class Noting(MemoryEventPublisher):
        async def open(self) -> None:
            notes.append("publisher opened")

        async def close(self) -> None:
            notes.append("publisher closed")

    class Database(MemoryDatabase):
        async def open(self) -> None:
            notes.append("database opened")

        async def close(self) -> None:
            notes.append("database closed")

    async with UploadCore(store=MemoryObjectStore(), database=Database(), publishers={"a": Noting()}):
        pass

    assert notes == ["database opened", "publisher opened", "publisher closed", "database closed"]


# --- poison and dead letters --------------------------------------------------------------------------------------


async def test_an_event_that_nothing_can_deliver_is_a_dead_letter_at_once(
    rig: Rig, publisher: MemoryEventPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    done = await rig.completed()
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    publisher.failures.append(UndeliverableError("410 Gone"))

    report = await rig.core.relay()

    assert (report.delivered, report.failed, report.dead) == (1, 0, 1)
    assert types(publisher) == ["file.deleted"]
    assert await dead(rig) == [("here", "410 Gone")]
    assert "a dead letter at here after 1 attempts: 410 Gone" in caplog.text


async def test_a_poison_event_becomes_a_dead_letter_and_blocks_nobody_else() -> None:
    def poison(event: Event) -> None:
        if event.upload_id == poisonous.upload.id and event.type == "upload.completed":
            raise ValueError("a secret of the tests, perhaps")

    publisher = Calling(poison)
    rig = Rig(publisher=publisher, config=UploadConfig(delivery_attempts=3))
    poisonous = await rig.completed()
    await rig.core.files.delete(poisonous.upload.file_id, owner=OWNER)

    for number in range(3):
        await rig.completed()
        report = await rig.core.relay()
        assert report.failed + report.dead == 1
        assert len(publisher.events) == number + 1 + report.dead
        rig.after(hours=1)

    assert report.dead == 1
    assert types(publisher)[-1] == "file.deleted" or "file.deleted" in types(publisher)
    assert await dead(rig) == [("here", "ValueError")], "of an error that is not ours, only the class"


@pytest.mark.parametrize("runs_in_the_background", [False, True])
async def test_a_publisher_whose_own_work_is_cancelled_has_failed_and_ends_nothing_else(
    *, runs_in_the_background: bool
) -> None:
    async def cancelled(event: Event) -> None:
        if event.upload_id == poisonous.upload.id:
            raise asyncio.CancelledError

    publisher = Calling(cancelled)
    rig = Rig(publisher=publisher, config=UploadConfig(delivery_attempts=1))
    poisonous = await rig.completed()
    if runs_in_the_background:
        background = asyncio.create_task(rig.core.run_background())
        await until(lambda: rig.clock.sleepers >= 3)
    else:
        assert (await rig.core.relay()).dead == 1

    other = await rig.completed()
    if runs_in_the_background:
        await until(lambda: len(publisher.events) == 1)
        await stopped(background)
    else:
        await rig.core.relay()

    assert [event.upload_id for event in publisher.events] == [other.upload.id]
    assert await dead(rig) == [("here", "the publisher's own work was cancelled")]


async def test_an_event_whose_every_attempt_ended_its_process_is_not_begun_again() -> None:
    publisher = MemoryEventPublisher()
    rig = Rig(publisher=publisher, config=UploadConfig(delivery_attempts=2))
    await rig.completed()
    await rig.core.relay()
    poisonous = await rig.completed()
    async with rig.database.transaction() as tx:
        await tx.outbox.number(["here"], 1)
    for _ in range(2):
        async with rig.database.transaction() as tx:
            assert len(await tx.outbox.claim("here", 1, lease=timedelta(seconds=1))) == 1
        rig.after(seconds=1)

    assert (await rig.core.relay()).dead == 1

    assert poisonous.upload.id not in {event.upload_id for event in publisher.events}
    assert await dead(rig) == [("here", "the process ended during the last attempts")]
    assert await rig.core.events.replay(destination="here") == 1
    assert await delivered(rig) == 1, "it may be tried by hand"


async def test_a_dead_letter_that_is_replayed_arrives_late_with_the_same_id(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    done = await rig.completed()
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    publisher.failures.append(UndeliverableError("refused"))
    await rig.core.relay()
    (letter,) = await rig.core.events.dead_letters(destination="here")

    assert await rig.core.events.replay(destination="elsewhere") == 0
    assert await rig.core.events.replay(destination="here", event_id=letter.event.id) == 1
    assert await rig.core.events.replay(destination="here") == 0
    assert await delivered(rig) == 1

    assert types(publisher) == ["file.deleted", "upload.completed"]
    assert publisher.events[1] == letter.event
    assert await dead(rig) == []


async def test_what_is_discarded_never_arrives(rig: Rig, publisher: MemoryEventPublisher) -> None:
    await rig.completed()
    await rig.core.relay()
    publisher.fail_with = OSError("away")
    await rig.completed()
    await rig.completed()
    await rig.core.relay()
    assert [(there.destination, there.pending) for there in await rig.core.events.backlog()] == [("here", 2)]

    assert await rig.core.events.discard(destination="here") == 2
    publisher.fail_with = None
    rig.after(hours=2)

    assert await delivered(rig) == 0


@pytest.mark.parametrize("portion", [1, 2, 4])
async def test_dead_letters_are_replayed_and_discarded_in_portions(
    rig: Rig, publisher: MemoryEventPublisher, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr("uploadcore.event_service.PORTION", portion)
    publisher.fail_with = UndeliverableError("no")
    for _ in range(3):
        await rig.completed()
    await rig.core.relay()

    assert await rig.core.events.replay(destination="here") == 3
    await rig.core.relay()
    assert len(await dead(rig)) == 3
    assert await rig.core.events.discard(destination="here") == 3
    assert await dead(rig) == []


async def test_dead_letters_come_in_pages(rig: Rig, publisher: MemoryEventPublisher) -> None:
    publisher.fail_with = UndeliverableError("no")
    for _ in range(3):
        await rig.completed()
    await rig.core.relay()

    first = await rig.core.events.dead_letters(limit=2)
    rest = await rig.core.events.dead_letters(after=first[-1])

    assert [letter.event.position for letter in (*first, *rest)] == [1, 2, 3]


@pytest.mark.parametrize(("asked", "waited"), [(90.0, 90), (1e9, 3_600), (float("inf"), 3_600)])
async def test_nothing_is_delivered_sooner_than_its_receiver_says(
    rig: Rig, publisher: MemoryEventPublisher, asked: float, waited: int
) -> None:
    publisher.fail_with = DeliveryError("not now", retry_after=asked)
    await rig.completed()
    await rig.core.relay()
    publisher.fail_with = None

    rig.after(seconds=waited - 1)
    assert (await rig.core.relay()).delivered == 0
    rig.after(seconds=1)
    assert (await rig.core.relay()).delivered == 1


@pytest.mark.parametrize("asked", [None, "30", float("-inf"), float("nan"), -5])
async def test_a_publisher_that_asks_for_no_time_holds_up_nobody_else(
    rig: Rig, publisher: MemoryEventPublisher, asked: Any
) -> None:
    publisher.fail_with = DeliveryError("not now", retry_after=asked)
    await rig.completed()

    assert (await rig.core.relay()).failed == 1

    publisher.fail_with = None
    rig.after(seconds=1)
    assert (await rig.core.relay()).delivered == 1


async def test_what_went_wrong_is_cut_short(rig: Rig, publisher: MemoryEventPublisher) -> None:
    publisher.fail_with = DeliveryError("x" * 10_000)
    await rig.completed()

    await rig.core.relay()
    publisher.fail_with = UndeliverableError("y" * 10_000)
    rig.after(seconds=1)
    await rig.core.relay()

    assert await dead(rig) == [("here", "y" * 500)]


# --- in the background --------------------------------------------------------------------------------------------


async def stopped(background: asyncio.Task[None]) -> None:
    background.cancel()
    with suppress(asyncio.CancelledError):
        await background


async def test_in_the_background_a_commit_wakes_the_relay_without_time_going_by(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: rig.clock.sleepers >= 3)
    stands_at = rig.clock.monotonic()

    await rig.completed()
    await until(lambda: len(publisher.events) == 1)

    assert rig.clock.monotonic() == stands_at
    await stopped(background)


async def test_in_the_background_what_another_process_has_written_is_found_within_an_interval(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: rig.clock.sleepers >= 3)
    await rig.completed()
    rig.database.inner._events_written.clear()

    rig.after(seconds=1)
    await until(lambda: len(publisher.events) == 1)

    await stopped(background)


async def test_in_the_background_a_backlog_is_worked_off_without_pause_and_failures_without_haste() -> None:
    publisher = MemoryEventPublisher()
    rig = Rig(publisher=publisher, config=UploadConfig(batch=1))
    for _ in range(100):
        await rig.completed()
    publisher.fail_with = OSError("away")
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: failed(rig) > 0)
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert failed(rig) <= 2 * AT_ONCE, "it pauses"
    publisher.fail_with = None

    rig.after(seconds=BUSY_PAUSE)
    await until(lambda: len(publisher.events) >= AT_ONCE)

    await stopped(background)


async def test_in_the_background_what_is_written_while_a_delivery_hangs_does_not_wait_for_it() -> None:
    holding = Holding()
    rig = Rig(publisher=holding)
    held = await rig.completed()
    holding.upload_ids = (held.upload.id,)
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: holding.begun == 1)
    stands_at = rig.clock.monotonic()

    others = [await rig.completed() for _ in range(2)]
    await until(lambda: len(holding.events) == 2)

    assert {event.upload_id for event in holding.events} == {other.upload.id for other in others}
    assert rig.clock.monotonic() == stands_at
    await stopped(background)


async def test_in_the_background_what_becomes_due_while_a_delivery_hangs_is_found_within_an_interval() -> None:
    holding = Holding()
    rig = Rig(publisher=holding)
    held = await rig.completed()
    holding.upload_ids = (held.upload.id,)
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: holding.begun == 1 and rig.clock.sleepers >= 3)
    await rig.completed()
    rig.database.inner._events_written.clear()

    rig.after(seconds=1)
    await until(lambda: len(holding.events) == 1)

    await stopped(background)


async def test_in_the_background_a_delivery_under_way_is_not_broken_off_since_the_database_is_away_for_a_moment() -> (
    None
):
    holding = Holding()
    rig = Rig(publisher=holding)
    await rig.completed()
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: holding.begun == 1 and rig.clock.sleepers >= 3)
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"), times=4)
    for _ in range(4):
        rig.after(seconds=1)
        await until(lambda: rig.clock.sleepers >= 3)

    rig.database.faults.heal()
    holding.gate.set()
    await until(lambda: len(holding.events) == 1)

    assert holding.begun == 1
    await stopped(background)


async def test_in_the_background_a_backlog_larger_than_a_pass_does_not_wait_for_a_delivery_that_hangs() -> None:
    holding = Holding()
    rig = Rig(publisher=holding, config=UploadConfig(batch=2))
    held, *others = [await rig.completed() for _ in range(10)]
    holding.upload_ids = (held.upload.id,)
    background = asyncio.create_task(rig.core.run_background())

    await until(lambda: len(holding.events) == len(others))

    assert holding.begun == 10
    await stopped(background)


async def test_in_the_background_trouble_with_the_database_is_logged_and_tried_again(
    rig: Rig, publisher: MemoryEventPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"), times=2)
    background = asyncio.create_task(rig.core.run_background())
    await until(lambda: "relay failed: away" in caplog.text and "relay to here failed: away" in caplog.text)

    await rig.completed()
    await until(lambda: len(publisher.events) == 1)

    await stopped(background)


async def test_in_the_background_a_defect_is_logged_and_ends_neither_the_relay_nor_the_sweeper(
    rig: Rig, publisher: MemoryEventPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    rig.database.faults.fail("transaction", ValueError("a defect"), times=2)
    rig.database.faults.fail("reader", ValueError("a defect"))
    background = asyncio.create_task(rig.core.run_background())
    told = ("relay: a defect", "relay to here: a defect", "sweep: a defect")
    await until(lambda: all(line in caplog.text for line in told))

    await rig.completed()
    await until(lambda: len(publisher.events) == 1)
    rig.after(days=2)
    await until(lambda: rig.core.tally.sweeps["ok"] > 0)

    await stopped(background)


# --- backing off --------------------------------------------------------------------------------------------------


def test_the_wait_doubles_from_one_second_to_at_most_an_hour() -> None:
    longest = [retry_after(attempts, chance=1.0) for attempts in range(1, 15)]

    assert longest[:12] == [timedelta(seconds=2**n) for n in range(12)]
    assert longest[12:] == [timedelta(hours=1)] * 2
    assert retry_after(10**9, chance=0.5) == timedelta(minutes=30)
    assert retry_after(5, chance=0.0) == timedelta(0)


@given(attempts=st.integers(1, 10**12), chance=st.floats(0, 1, exclude_max=True))
def test_the_wait_is_anywhere_between_nothing_and_a_ceiling_that_never_falls(attempts: int, chance: float) -> None:
    wait = retry_after(attempts, chance=chance)

    assert timedelta(0) <= wait <= retry_after(attempts, chance=1.0) <= retry_after(attempts + 1, chance=1.0)
    assert wait <= LONGEST_RETRY


def test_the_attempts_there_are_by_default_take_about_a_day() -> None:
    mean = sum(
        (retry_after(attempt, chance=0.5) for attempt in range(1, UploadConfig().delivery_attempts)), timedelta()
    )

    assert timedelta(hours=16) < mean < timedelta(hours=30)
