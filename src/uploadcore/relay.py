"""Background: give events their positions, and deliver them to every destination. At least once, in order per upload, never before they are true.

Destinations have nothing to do with one another: each has its own deliveries, passes and pace. One that hangs or fails holds up no other, and an
event that fails holds up, at its destination, the later ones of its own upload only, until it is a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from uploadcore.config import UploadConfig
from uploadcore.errors import DeliveryError, InvalidRequestError, UndeliverableError, UploadCoreError
from uploadcore.ports import Clock, Database, Delivery, EventPublisher, FailedDelivery
from uploadcore.tally import Tally
from uploadcore.waking import woken

__all__ = ["DeliveryReport", "Relay", "RelayReport", "retry_after"]

log = logging.getLogger(__name__)

CLAIM_LEASE = timedelta(seconds=30)
"""How long a claimed event is hidden from other relays. A delivery begins as soon as it is claimed, and takes `DELIVERY_TIMEOUT` at most."""
DELIVERY_TIMEOUT = 10.0
"""Seconds one delivery may take."""
AT_ONCE = 32
"""Deliveries to one destination under way at a time, in one process."""
PASS_TIME = 10.0
"""Seconds after which a pass claims nothing more."""
NUMBERED_AT_ONCE = 1_000
"""Events numbered in one transaction, for which others who number wait."""
GIVING_UP_TIMEOUT = 2.0
"""Seconds that a relay which is stopped takes to let go of what it has claimed."""
LONGEST_RETRY = timedelta(hours=1)
LONGEST_ERROR = 500
"""Characters kept of what went wrong."""
BUSY_PAUSE = 0.1
"""Seconds of a pause when as many deliveries as a pass has have failed in a row: working through what keeps failing must not spin."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Of a destination: it stands in settings, metrics and the database."""


def retry_after(attempts: int, *, chance: float) -> timedelta:
    """How long to wait after `attempts` failed deliveries: exponential with full jitter, from 1 s, at most an hour.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: Failed deliveries so far, 1 or more.
        chance: Uniform in [0, 1).

    >>> retry_after(3, chance=0.5)
    datetime.timedelta(seconds=2)
    """
    ceiling = min(LONGEST_RETRY, timedelta(seconds=2 ** min(attempts - 1, 16)))
    return ceiling * chance


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one pass did at one destination. Counts of deliveries.

    Attributes:
        delivered: Arrived.
        failed: Did not, and are tried again.
        dead: Did not, and became dead letters.
        more: The pass was full: there may be more to do.
    """

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class RelayReport:
    """What one pass of the relay did.

    Attributes:
        numbered: Events that were given their position.
        destinations: What was done at each, by name.
    """

    numbered: int = 0
    destinations: Mapping[str, DeliveryReport] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def delivered(self) -> int:
        """Deliveries that arrived, at all destinations together."""
        return sum(report.delivered for report in self.destinations.values())

    @property
    def failed(self) -> int:
        """Those that did not, and are tried again."""
        return sum(report.failed for report in self.destinations.values())

    @property
    def dead(self) -> int:
        """Those that did not, and became dead letters."""
        return sum(report.dead for report in self.destinations.values())

    @property
    def more(self) -> bool:
        """There may be more to do."""
        return self.numbered == NUMBERED_AT_ONCE or any(report.more for report in self.destinations.values())


class Relay:
    """Made by `UploadCore`; use it as `core.relay()`."""

    def __init__(
        self,
        *,
        database: Database,
        publishers: Mapping[str, EventPublisher],
        clock: Clock,
        config: UploadConfig,
        tally: Tally,
    ) -> None:
        """Deliver to these; with none, every event has arrived everywhere it should as soon as it has its position.

        Raises:
            InvalidRequestError: One has a name that can't be used.
        """
        for name in publishers:
            if not NAME.fullmatch(name):
                raise InvalidRequestError(
                    f"a destination's name is 1 to 63 lower-case letters, digits and hyphens, not {name!r}"
                )
        self._database = database
        self._publishers = dict(publishers)
        self._clock = clock
        self._config = config
        self._tally = tally
        self._random = random.Random()  # noqa: S311 - jitter, no secret
        self._wakes: dict[str, asyncio.Event] = {}

    @property
    def destinations(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._publishers)

    async def relay(self) -> RelayReport:
        """One pass: number what has no position, then deliver what is due, everywhere at once.

        Raises:
            DatabaseUnavailableError: It can't be asked what is due.
        """
        numbered = await self.number()
        passes = await asyncio.gather(*(self.deliver(name) for name in self._publishers), return_exceptions=True)
        reports: dict[str, DeliveryReport] = {}
        for name, report in zip(self._publishers, passes, strict=True):
            if isinstance(report, BaseException):
                raise report
            reports[name] = report
        return RelayReport(numbered, MappingProxyType(reports))

    async def run(self) -> None:
        """Number and deliver until cancelled. A failing pass is logged and tried again."""
        self._wakes = {name: asyncio.Event() for name in self._publishers}  # of this event loop
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_numbering())
            for name in self._publishers:
                group.create_task(self._keep_delivering(name))

    async def number(self) -> int:
        """Give events that have none their position, and deliveries to every destination; how many."""
        async with self._database.transaction() as tx:
            return await tx.outbox.number(self.destinations, NUMBERED_AT_ONCE)

    async def deliver(self, destination: str) -> DeliveryReport:
        """One pass at one destination: deliver what is due, as many events as a pass may take on.

        Raises:
            DatabaseUnavailableError: It can't be asked, or told.
        """
        return await self._deliver(destination, is_kept_up=False)

    async def _deliver(self, destination: str, *, is_kept_up: bool) -> DeliveryReport:
        """Deliver what is due, until a pass is full; or, kept up, for as long as there is any.

        What was tried is recorded, and more is claimed, in one transaction, as soon as any delivery has ended. Kept up, what becomes due meanwhile
        is claimed, too, though none has ended: one that hangs, hangs alone.
        """
        publisher = self._publishers[destination]
        report = DeliveryReport()
        left = sys.maxsize if is_kept_up else self._config.batch
        ends_at = math.inf if is_kept_up else self._clock.monotonic() + PASS_TIME
        fruitless = 0
        underway: dict[asyncio.Task[_Tried], Delivery] = {}
        tried: list[_Tried] = []
        news: asyncio.Task[None] | None = None
        try:
            while True:
                is_over = self._clock.monotonic() >= ends_at
                room = 0 if is_over else min(left, AT_ONCE - len(underway))
                can_wait = bool(underway) and not tried
                claimed = await self._record_and_claim(destination, tried, room, can_wait=can_wait)
                report = _counted(report, tried)
                self._count(tried)
                fruitless = 0 if any(isinstance(one, Delivery) for one in tried) else fruitless + len(tried)
                tried = []
                left -= len(claimed)
                underway |= {asyncio.create_task(self._attempt(publisher, delivery)): delivery for delivery in claimed}
                if not underway:
                    return replace(report, more=left == 0 or is_over)
                if is_kept_up and fruitless >= self._config.batch:
                    fruitless = 0
                    await self._clock.sleep(BUSY_PAUSE)
                waited_for: set[asyncio.Task[Any]] = set(underway)
                if is_kept_up and len(underway) < AT_ONCE:
                    if news is None or news.done():
                        news = asyncio.create_task(self._news(destination))
                    waited_for.add(news)
                ended, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
                for task in ended & underway.keys():
                    del underway[task]
                    tried.append(task.result())
        finally:
            if news is not None:
                news.cancel()
            if underway or tried:
                await self._give_up(underway, tried)

    async def _news(self, destination: str) -> None:
        """Until something may be due there that was not."""
        await woken(self._wakes[destination], self._clock, self._config.relay_interval)

    def _count(self, tried: Sequence[_Tried]) -> None:
        for one in tried:
            if isinstance(one, Delivery):
                delivery, outcome = one, "delivered"
            else:
                delivery, outcome = one.delivery, "dead" if one.retry_after is None else "failed"
            self._tally.deliveries[delivery.destination, delivery.event.type, outcome] += 1

    async def _record_and_claim(
        self, destination: str, tried: Sequence[_Tried], room: int, *, can_wait: bool = False
    ) -> list[Delivery]:
        try:
            async with self._database.transaction(single=not tried) as tx:
                if arrived := [delivery for delivery in tried if isinstance(delivery, Delivery)]:
                    await tx.outbox.delivered(arrived)
                if failures := [failure for failure in tried if isinstance(failure, FailedDelivery)]:
                    await tx.outbox.failed(failures)
                return await tx.outbox.claim(destination, room, lease=CLAIM_LEASE) if room else []
        except UploadCoreError:
            if not can_wait:
                raise
            return []  # it is asked again: what is under way meanwhile is not broken off

    async def _attempt(self, publisher: EventPublisher, delivery: Delivery) -> _Tried:
        """Deliver; what became of it.

        One whose attempts are used up without any having ended is not begun again: it may be what ends the process.
        """
        if delivery.attempt > self._config.delivery_attempts:
            return self._failed(delivery, None, DeliveryError("the process ended during the last attempts"))
        wait = retry_after(delivery.attempt, chance=self._random.random())
        retry = wait if delivery.attempt < self._config.delivery_attempts else None
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                await publisher.publish(delivery.event)
        except UndeliverableError as exc:
            return self._failed(delivery, None, exc)
        except asyncio.CancelledError:
            # Ours, where we are being stopped. Else the publisher's: something that it waited for was cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._failed(delivery, retry, DeliveryError("the publisher's own work was cancelled"))
        except Exception as exc:  # noqa: BLE001 - a publisher may be the host's code; any failure of it only means: not delivered
            return self._failed(delivery, _no_sooner_than_asked(retry, exc), exc)
        return delivery

    @staticmethod
    def _failed(delivery: Delivery, retry: timedelta | None, exc: Exception) -> FailedDelivery:
        # Ours are written to be read; anybody else's may name a URL with a secret in it.
        error = exc.message[:LONGEST_ERROR] if isinstance(exc, UploadCoreError) else type(exc).__name__
        event, destination = delivery.event, delivery.destination
        told = {
            "event_id": event.id,
            "upload_id": event.upload_id,
            "file_id": event.file_id,
            "destination": destination,
            "attempt": delivery.attempt,
        }
        if retry is None:
            log.error(
                "event %s: a dead letter at %s after %d attempts: %s",
                event.id,
                destination,
                delivery.attempt,
                error,
                extra=told,
            )
        else:
            log.warning("event %s: delivery to %s failed: %s", event.id, destination, error, extra=told)
        return FailedDelivery(delivery, retry, error)

    async def _give_up(self, underway: Mapping[asyncio.Task[_Tried], Delivery], tried: Sequence[_Tried]) -> None:
        """Let go of what was claimed, so that another relay may take it at once. Whether this works makes no difference but in time."""
        for task in underway:
            task.cancel()
        await asyncio.gather(*underway, return_exceptions=True)
        ended = [
            FailedDelivery(delivery, timedelta(0), "interrupted") if task.cancelled() else task.result()
            for task, delivery in underway.items()
        ]
        with suppress(UploadCoreError, TimeoutError):
            async with asyncio.timeout(GIVING_UP_TIMEOUT):
                await self._record_and_claim("", [*tried, *ended], 0)

    async def _keep_numbering(self) -> None:
        while True:
            numbered = 0
            try:
                numbered = await self.number()
            except UploadCoreError as exc:
                log.warning("relay failed: %s", exc.message, extra={"code": exc.code})
            except Exception:
                log.exception("relay: a defect")
            if numbered:
                for wake in self._wakes.values():
                    wake.set()
            else:
                await self._database.events_written(self._config.relay_interval)

    async def _keep_delivering(self, destination: str) -> None:
        while True:
            try:
                await self._deliver(destination, is_kept_up=True)
            except UploadCoreError as exc:
                told = {"destination": destination, "code": exc.code}
                log.warning("relay to %s failed: %s", destination, exc.message, extra=told)
            except Exception:
                log.exception("relay to %s: a defect", destination, extra={"destination": destination})
            await self._news(destination)


_Tried = Delivery | FailedDelivery
"""What became of a delivery: as it was claimed, if it has arrived."""


def _no_sooner_than_asked(retry: timedelta | None, failure: Exception) -> timedelta | None:
    """When to try again, as the receiver wants it. What is no number of seconds, from a host's own publisher, says nothing."""
    asked = getattr(failure, "retry_after", 0.0) if isinstance(failure, DeliveryError) else 0.0
    if retry is None or not isinstance(asked, int | float) or not asked > 0:
        return retry
    return max(retry, timedelta(seconds=min(LONGEST_RETRY.total_seconds(), asked)))


def _counted(report: DeliveryReport, tried: Sequence[_Tried]) -> DeliveryReport:
    failures = [failure for failure in tried if isinstance(failure, FailedDelivery)]
    dead = sum(failure.retry_after is None for failure in failures)
    return DeliveryReport(
        delivered=report.delivered + len(tried) - len(failures),
        failed=report.failed + len(failures) - dead,
        dead=report.dead + dead,
    )
