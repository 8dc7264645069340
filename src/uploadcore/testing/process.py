"""The contracts of the small ports: `EventPublisher`, `Clock`, `IdFactory`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

from uploadcore.ports import Clock, EventPublisher, IdFactory
from uploadcore.testing.builders import make_event

__all__ = ["ClockContract", "EventPublisherContract", "IdFactoryContract"]


class EventPublisherContract:
    """What every `EventPublisher` does. Subclass it, give one fixture and one method.

    `publisher`: an `EventPublisher` whose destination is there.

    `arrived`: which events have reached the destination.
    """

    async def arrived(self, publisher: EventPublisher) -> list[str]:
        """The ids of the events the destination has, in order, repetitions dropped or not."""
        del publisher
        raise AssertionError("say in your subclass how to look at the destination")

    async def test_what_was_published_has_arrived_in_order(self, publisher: EventPublisher) -> None:
        for number in range(5):
            event = make_event(f"e{number}", data={"filename": "日本語 🎬\n.mp4", "size": "0"})
            await publisher.publish(event)
        assert await self.arrived(publisher) == [f"e{number}" for number in range(5)]

    async def test_the_same_event_may_come_again(self, publisher: EventPublisher) -> None:
        event = make_event("e")
        await publisher.publish(event)
        await publisher.publish(event)
        assert set(await self.arrived(publisher)) == {"e"}


class ClockContract:
    """What every `Clock` does. Subclass it and give one fixture.

    `clock`: a `Clock` on which a sleep of some milliseconds ends by itself.
    """

    async def test_now_is_utc(self, clock: Clock) -> None:
        assert clock.now().utcoffset() == timedelta(0)
        assert clock.now() > datetime(2020, 1, 1, tzinfo=UTC)

    async def test_a_sleep_lasts_at_least_as_long_as_asked(self, clock: Clock) -> None:
        # A timer of the event loop may fire early by the clock's resolution.
        before, shortest = clock.monotonic(), 0.01 - 0.001
        await clock.sleep(0.01)
        assert clock.monotonic() - before >= shortest

    async def test_a_sleep_lets_others_run_and_can_be_cancelled(self, clock: Clock) -> None:
        order: list[str] = []

        async def sleeper() -> None:
            order.append("begins")
            await clock.sleep(0)
            order.append("ends")

        task = asyncio.create_task(sleeper())
        await clock.sleep(0.001)
        await task
        assert order == ["begins", "ends"]

    async def test_monotonic_never_goes_back(self, clock: Clock) -> None:
        seen = [clock.monotonic() for _ in range(100)]
        assert seen == sorted(seen)


class IdFactoryContract:
    """What every `IdFactory` does. Subclass it and give one fixture.

    `ids`: an `IdFactory`.
    """

    def test_ids_are_letters_digits_and_hyphens_up_to_64(self, ids: IdFactory) -> None:
        assert all(re.fullmatch(r"[A-Za-z0-9-]{1,64}", ids.new()) for _ in range(100))

    def test_ids_are_unique(self, ids: IdFactory) -> None:
        assert len({ids.new() for _ in range(10_000)}) == 10_000
