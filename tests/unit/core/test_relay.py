"""The relay: every event arrives, at least once, in order per upload, never before it is true (rule 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.unit.core.rig import OWNER, Rig, until
from uploadcore import Event, UploadConfig
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.relay import retry_after
from uploadcore_memory import MemoryEventPublisher


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


async def test_rule_8_an_event_arrives_once_it_is_true(rig: Rig, publisher: MemoryEventPublisher) -> None:
    upload = await rig.sent()
    assert await rig.core.relay() == 0

    await rig.complete(upload.id)

    assert await rig.core.relay() == 1
    assert await rig.core.relay() == 0
    assert types(publisher) == ["upload.completed"]
    assert publisher.events[0].occurred_at is not None


async def test_rule_8_events_of_one_upload_arrive_in_order_one_a_pass(
    rig: Rig, publisher: MemoryEventPublisher
) -> None:
    done = await rig.completed()
    await rig.core.files.delete(done.upload.file_id, owner=OWNER)

    assert (await rig.core.relay(), types(publisher)) == (1, ["upload.completed"])
    assert (await rig.core.relay(), types(publisher)) == (1, ["upload.completed", "file.deleted"])


async def test_rule_8_a_failing_event_holds_back_its_own_upload_only(rig: Rig, publisher: MemoryEventPublisher) -> None:
    first = await rig.completed()
    await rig.core.files.delete(first.upload.file_id, owner=OWNER)
    await rig.completed()
    publisher.failures.append(OSError("refused"))

    assert await rig.core.relay() == 1
    assert await rig.core.relay() == 0
    rig.after(seconds=1)
    assert await rig.core.relay() == 1
    assert await rig.core.relay() == 1

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
    await rig.completed()
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.relay()
    assert await rig.core.relay() == 0  # still claimed
    rig.after(seconds=30)
    assert await rig.core.relay() == 1

    assert len(publisher.events) == 2
    assert publisher.events[0] == publisher.events[1]


async def test_a_delivery_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uploadcore.relay.DELIVERY_TIMEOUT", 0.001)
    hanging = HangsOnce()
    rig = Rig(publisher=hanging)
    await rig.completed()

    assert await rig.core.relay() == 0
    rig.after(seconds=1)
    assert await rig.core.relay() == 1


class HangsOnce:
    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def __init__(self) -> None:
        self.deliveries = 0

    async def publish(self, event: Event) -> None:
        self.deliveries += 1
        if self.deliveries == 1:
            await asyncio.Event().wait()


async def test_a_relay_that_is_cancelled_leaves_its_events_to_the_next() -> None:
    hanging = HangsOnce()
    rig = Rig(publisher=hanging)
    await rig.completed()
    relaying = asyncio.ensure_future(rig.core.relay())
    await until(lambda: hanging.deliveries == 1)

    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying
    rig.after(seconds=30)

    assert await rig.core.relay() == 1


async def test_two_relays_at_once_deliver_each_event_once(rig: Rig, publisher: MemoryEventPublisher) -> None:
    for _ in range(20):
        await rig.completed()

    arrived = await asyncio.gather(rig.core.relay(), rig.another_core().relay())

    assert sum(arrived) == len({event.id for event in publisher.events}) == len(publisher.events) == 20


async def test_a_pass_is_bounded() -> None:
    rig = Rig(publisher=MemoryEventPublisher(), config=UploadConfig(batch=2))
    for _ in range(3):
        await rig.completed()

    assert [await rig.core.relay() for _ in range(3)] == [2, 1, 0]


async def test_without_a_publisher_every_event_has_arrived_everywhere_it_should() -> None:
    rig = Rig()
    await rig.completed()

    assert [await rig.core.relay(), await rig.core.relay()] == [1, 0]
    rig.after(days=1, seconds=1)
    assert (await rig.core.sweep()).records_purged == 1


def test_the_wait_doubles_from_one_second_to_at_most_five_minutes() -> None:
    longest = [retry_after(attempts, chance=1.0) for attempts in range(1, 12)]

    assert longest[:9] == [timedelta(seconds=2**n) for n in range(9)]
    assert longest[9:] == [timedelta(minutes=5)] * 2
    assert retry_after(10**9, chance=0.5) == timedelta(minutes=2.5)
    assert retry_after(5, chance=0.0) == timedelta(0)
