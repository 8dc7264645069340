"""`UploadCore`: holds the ports, opens and closes them, and offers the use cases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from uploadcore.admission import StaticPolicy
from uploadcore.cached import Copies
from uploadcore.clocks import CorrectedClock, set_clock
from uploadcore.config import UploadConfig
from uploadcore.errors import UploadCoreError
from uploadcore.event_service import EventService
from uploadcore.file_service import FileService
from uploadcore.ports import Cache, Clock, Database, EventPublisher, IdFactory, ObjectStore, UploadPolicy
from uploadcore.relay import Relay, RelayReport
from uploadcore.steps import UploadSteps
from uploadcore.sweeper import Sweeper
from uploadcore.system import RandomIds, SystemClock, instance_name
from uploadcore.tally import Tally
from uploadcore.upload_service import UploadService
from uploadcore.views import SweepReport

__all__ = ["UploadCore"]

log = logging.getLogger(__name__)

BUSY_PAUSE = 0.1
"""Seconds between passes while there is more to do: a pass over what keeps failing must not spin."""


class UploadCore:
    """The control plane, embedded: give it a store and a database, enter it, use `uploads` and `files`.

    Attributes:
        uploads: Initiate, sign, list, complete, abort.
        files: Read, find, change and delete what was uploaded.
        events: For an operator: what waits to be delivered, and dead letters.
        tally: What has happened here, for metrics.
        instance: Names this one among all that work on the same database: what it holds a lease on is held by this name.

    Example:
        >>> import asyncio
        >>> from uploadcore import UploadCore
        >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
        >>> async def main():
        ...     async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        ...         upload = await core.uploads.initiate(owner="u_1", filename="a.txt", size=3)
        ...         return upload.state
        >>> asyncio.run(main())
        <UploadState.UPLOADING: 'uploading'>
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        database: Database,
        cache: Cache | None = None,
        publishers: Mapping[str, EventPublisher] | None = None,
        policy: UploadPolicy | None = None,
        config: UploadConfig | None = None,
        clock: Clock | None = None,
        ids: IdFactory | None = None,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            store: Where the bytes go.
            database: The source of truth.
            cache: Spares the database reads, of uploads when signing and of files; `None`: none.
            publishers: Where events go: to each of these, by a name of 1 to 63 lower-case letters, digits and hyphens, which stays the same
                as long as the destination does. All processes that relay have the same ones. `None`: nowhere.
            policy: What may be uploaded; `None`: anything.
            config: Durations and limits.
            clock: This process's clock; put right by the database's where the adapter tells that they differ.
            ids: Makes the ids of uploads and files.
        """
        self.store = store
        self.database = database
        self.cache = cache
        self.config = config or UploadConfig()
        clock = CorrectedClock(clock or SystemClock(), database)
        self._clock = clock
        self._stack = AsyncExitStack()
        self.tally = Tally()
        self.instance = instance_name()
        self._copies = Copies(
            cache,
            database,
            clock,
            upload_ttl=self.config.cache_ttl,
            file_ttl=self.config.file_cache_ttl,
            known_for=self.config.url_lifetime,
            tally=self.tally,
        )
        steps = UploadSteps(
            store=store,
            database=database,
            copies=self._copies,
            clock=clock,
            config=self.config,
            tally=self.tally,
            instance=self.instance,
        )
        self.uploads = UploadService(
            store=store,
            database=database,
            steps=steps,
            policy=policy or StaticPolicy(),
            clock=clock,
            ids=ids or RandomIds(),
            config=self.config,
        )
        self.files = FileService(store=store, database=database, steps=steps, config=self.config)
        self._sweeper = Sweeper(store=store, database=database, steps=steps, clock=clock, config=self.config)
        self._publishers = dict(publishers or {})
        for publisher in self._publishers.values():
            set_clock(publisher, clock)
        self._relay = Relay(
            database=database, publishers=self._publishers, clock=clock, config=self.config, tally=self.tally
        )
        self.events = EventService(database=database, destinations=self._relay.destinations)

    async def __aenter__(self) -> Self:
        """Open store, database, cache and publishers.

        Raises:
            StoreUnavailableError: The store can't work.
            DatabaseUnavailableError: The database does not answer, or its schema does not fit.
        """
        async with AsyncExitStack() as stack:
            ports: list[ObjectStore | Database | Cache | EventPublisher | None] = [
                self.store,
                self.database,
                self.cache,
            ]
            for port in [*ports, *self._publishers.values()]:
                if port is not None:
                    stack.push_async_callback(port.close)
                    await port.open()
            stack.push_async_callback(self._copies.close)
            stack.push_async_callback(self.uploads.close)
            stack.push_async_callback(self._sweeper.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop assembling, give leases up, close the ports in reverse."""
        await self._stack.aclose()

    async def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """One bounded pass of expiring, recovering and cleaning up; for cron or Celery. Safe on any number of instances."""
        if dry_run:
            return await self._sweeper.sweep(dry_run=True)
        began = self._clock.monotonic()
        try:
            report = await self._sweeper.sweep()
        except UploadCoreError:
            self.tally.sweeps["failed"] += 1
            raise
        self.tally.count_sweep(report, seconds=self._clock.monotonic() - began, at=self._clock.now())
        return report

    async def relay(self) -> RelayReport:
        """One bounded pass of delivering events; for cron or Celery. Safe on any number of instances."""
        return await self._relay.relay()

    async def run_background(self) -> None:
        """Sweep and relay, again and again, until cancelled. A failing pass is logged and tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat_sweep())
            group.create_task(self._relay.run())

    async def _repeat_sweep(self) -> None:
        while True:
            more = False
            try:
                more = (await self.sweep()).more
            except UploadCoreError as exc:
                log.warning("sweep failed: %s", exc.message, extra={"code": exc.code})
            except Exception:
                log.exception("sweep: a defect")
            await self._clock.sleep(BUSY_PAUSE if more else self.config.sweep_interval.total_seconds())
