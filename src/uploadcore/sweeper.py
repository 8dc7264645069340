"""Background: expire, recover, clean up. One bounded pass at a time, safe on any number of instances at once.

What a pass does to an upload it does under the upload's lease, or under a version that only one instance can save. Nothing is claimed
beforehand: each instance takes a share of what is due at random, and who comes second with an upload has lost one look and one statement,
refused by its version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from uploadcore.config import UploadConfig
from uploadcore.errors import (
    ChecksumMismatchError,
    PartsMissingError,
    StoreOverloadedError,
    StoreUnavailableError,
    UploadCoreError,
    VersionConflictError,
)
from uploadcore.file import File, FileStatus
from uploadcore.freed import Freed
from uploadcore.installation import Installation
from uploadcore.orphans import Orphan, Orphans
from uploadcore.ports import Clock, Database, ObjectStore
from uploadcore.records import existing_file
from uploadcore.states import UploadState
from uploadcore.steps import UploadSteps
from uploadcore.upload import Condition, Timer, Upload
from uploadcore.views import SweepReport

__all__ = ["Sweeper"]

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Uploads, files and orphans seen to at a time by one process: what waits for the store holds up no other, and the store is not flooded."""
CHOICE = 10
"""Of how many times as many that are due a pass takes its share, at random: of a backlog, instances at work at once seldom take the same."""
PURGES = 10
"""How often one pass drops old records; what is left then is for the next."""
MOST_COUNTED = 10_000
"""What is due of each kind that a dry run looks at."""


class Sweeper:
    """Made by `UploadCore`; use it as `core.sweep()`."""

    def __init__(
        self, *, store: ObjectStore, database: Database, steps: UploadSteps, clock: Clock, config: UploadConfig
    ) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._steps = steps
        self._clock = clock
        self._config = config
        self._installation = Installation(store=store, database=database, clock=clock, config=config)
        self._orphans = Orphans(
            store=store, database=database, installation=self._installation, clock=clock, config=config
        )
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._underway: dict[str, asyncio.Task[None]] = {}
        self._account = _Account()

    async def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """One pass over what is due.

        It ends when all is seen to; nobody is waited for longer than a lease: what takes longer goes on beside the next passes, and is in
        the report of the one in which it ends.

        Args:
            dry_run: Only look and count; change nothing, at the store or in the database.

        Raises:
            DatabaseUnavailableError: It can't be asked what is due.
            StoreUnavailableError: It can't be asked whose the prefix is, or says that it is another's: nothing was touched.
        """
        await self._installation.prefix(marks=not dry_run)
        if dry_run:
            return await self._counted()
        async with self._database.reader() as tx:
            uploads = await tx.uploads.due(self._config.batch * CHOICE)
            files = await tx.files.due(self._config.batch * CHOICE)
        found: list[Upload | File] = [*uploads, *files]
        due = random.sample(found, min(len(found), self._config.batch))
        await self._done_or_late(self._begin(one.id, partial(self._see_to_one, one)) for one in due)
        await self._done_or_late([self._begin("orphans", self._clear_orphans), self._begin("old records", self._purge)])
        account, self._account = self._account, _Account()
        return account.report(more=account.has_more or (len(found) > len(due) and account.has_done_something))

    async def close(self) -> None:
        """Stop; leases are given up, so that another process goes on at once."""
        for task in self._underway.values():
            task.cancel()
        await asyncio.gather(*self._underway.values(), return_exceptions=True)
        await self._orphans.close()
        self._slots = asyncio.Semaphore(AT_ONCE)  # opened again, it may be in another event loop

    # --- a pass ---------------------------------------------------------------------------------------------------

    def _begin(self, name: str, see_to: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
        """See to it in a task of its own, unless one of a pass before is still at it."""
        if name in self._underway:
            return None
        task = self._underway[name] = asyncio.create_task(see_to())
        task.add_done_callback(lambda _: self._underway.pop(name))
        return task

    async def _done_or_late(self, begun: Iterable[asyncio.Task[None] | None]) -> None:
        """Until all are done, or the time of a lease is over."""
        tasks = {task for task in begun if task is not None}
        if not tasks:
            return
        ends: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._clock.sleep(self._config.lease.total_seconds())),
            asyncio.ensure_future(asyncio.wait(tasks)),  # whose end, unlike that of `gather`, is not that of the tasks
        }
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def _see_to_one(self, one: Upload | File) -> None:
        if isinstance(one, Upload):
            await self._accounted(one.id, one.state, one.created_at, partial(self._see_to, one))
        else:
            await self._accounted(one.id, one.status, one.created_at, partial(self._delete, one))

    async def _accounted(
        self, name: str, doing: str, since: datetime | None, work: Callable[[Freed], Awaitable[str]]
    ) -> None:
        """Do it, and count it as what it came to: one failure stops no other."""
        freed = Freed()
        told = {"file_id" if isinstance(doing, FileStatus) else "upload_id": name, "state": str(doing)}
        async with self._slots:
            try:
                kind = await work(freed)
            except VersionConflictError:
                return  # another instance did it
            except UploadCoreError as exc:
                log.warning("sweep: %s (%s): %s", name, doing, exc.message, extra={**told, "code": exc.code})
                kind = "failed"
            except Exception:
                log.exception("sweep: %s (%s): a defect", name, doing, extra=told)
                kind = "failed"
        self._account.count(kind, self._age(since))
        self._account.freed.add(freed)

    def _age(self, since: datetime | None) -> timedelta:
        return timedelta(0) if since is None else self._clock.now() - since

    async def _see_to(self, upload: Upload, freed: Freed) -> str:
        """Do what is due, and name it."""
        if upload.state in {UploadState.UPLOADING, UploadState.PENDING}:
            return await self._see_to_open(upload, freed)
        if upload.state is UploadState.COMPLETING:
            upload = await self._steps.take_over(upload)
            with suppress(PartsMissingError, ChecksumMismatchError):  # back to uploading: its client sees why
                upload = await self._steps.assemble(upload, None)
                return "unsettled" if upload.state in _UNSETTLED else "settled"
            return "settled"
        if upload.state is UploadState.ABORTING:
            upload = await self._steps.take_over(upload)
            return _of_end(await self._steps.clean(upload, freed), "cleaned")
        return await self._recheck(upload, freed)

    async def _see_to_open(self, upload: Upload, freed: Freed) -> str:
        """Expire it, or else, if it is pending, go on where its opener stopped."""
        try:
            return _of_end(await self._steps.expire(upload, freed), "expired")
        except VersionConflictError:
            if upload.state is not UploadState.PENDING:
                raise
            await self._steps.open(await self._steps.take_over(upload))
            return "opened"
        except StoreOverloadedError:
            raise  # it was not asked about this one: a statement for each of them would take from the requests there is no room for
        except StoreUnavailableError:
            await self._put_off(upload)
            raise

    async def _put_off(self, upload: Upload) -> None:
        """Not at the head of every pass: many that the store does not answer for would keep all others from being seen to."""
        with suppress(VersionConflictError):  # its opener is at work, or somebody else was faster
            if upload.state is UploadState.PENDING:
                upload = await self._steps.save(upload.lease_given_up().only_if(Condition(Timer.LEASE, passed=True)))
            await self._steps.save(upload.put_off())

    async def _recheck(self, upload: Upload, freed: Freed) -> str:
        """Every URL has run out: remove what landed after the upload was cleaned, or after its file was deleted or replaced.

        Of one whose content is its file's: look whether that is still what was completed.
        """
        file = await self._file_of(upload)
        is_done = False
        try:
            if not _is_content(upload, file):
                is_done = await self._steps.wipe(upload, freed)
            elif file.status is not FileStatus.AVAILABLE or await self._steps.stands(upload, file):
                is_done = True
            else:
                await self._steps.record_damaged(upload, file)
                return "damaged"
        except StoreOverloadedError:
            raise  # it was not asked about this one
        except StoreUnavailableError:
            await self._steps.save(upload.recheck(self._config.sweep_interval))  # not at the head of every pass
            raise
        await self._steps.save(upload.recheck(None if is_done else self._config.sweep_interval))
        return "rechecked" if is_done else "unsettled"

    async def _file_of(self, upload: Upload) -> File:
        async with self._database.reader(single=True) as tx:
            return await existing_file(tx, upload.file_id)

    async def _delete(self, file: File, freed: Freed) -> str:
        taken = await self._steps.save_file(file, lease=self._config.lease, lease_passed=True)
        await self._steps.delete_content(taken, freed)
        return "files_deleted"

    # --- orphans, old records -------------------------------------------------------------------------------------

    async def _clear_orphans(self) -> None:
        """Abort multipart uploads that nobody knows, where it is time to look for them."""
        try:
            orphans, has_more = await self._orphans.due()
        except UploadCoreError as exc:
            log.warning("sweep: looking for orphans failed: %s", exc.message, extra={"code": exc.code})
            self._account.count("failed")
            return
        except Exception:
            log.exception("sweep: looking for orphans: a defect")
            self._account.count("failed")
            return
        self._account.has_more |= has_more
        await asyncio.gather(*(self._clear_orphan(orphan) for orphan in orphans))

    async def _clear_orphan(self, orphan: Orphan) -> None:
        async def abort(freed: Freed) -> str:
            await self._steps.abort_multipart(orphan.address, freed)
            return "orphans"

        await self._accounted("an orphan", "abort", orphan.since, abort)

    async def _purge(self) -> None:
        """Drop old records, until there are none or enough is done for one pass."""
        for _ in range(PURGES):
            try:
                async with self._database.transaction() as tx:
                    purged = await tx.idempotency.purge(older_than=self._config.idempotency_kept)
                    purged += await tx.outbox.purge(
                        older_than=self._config.events_kept, dead_older_than=self._config.dead_letters_kept
                    )
            except UploadCoreError as exc:
                log.warning("sweep: dropping old records failed: %s", exc.message, extra={"code": exc.code})
                self._account.count("failed")
                return
            except Exception:
                log.exception("sweep: dropping old records: a defect")
                self._account.count("failed")
                return
            if not purged:
                return
            self._account.done["records_purged"] += purged
        self._account.has_more = True

    # --- a dry run ------------------------------------------------------------------------------------------------

    async def _counted(self) -> SweepReport:
        """What a pass, or as many as it takes, would do now."""
        async with self._database.reader() as tx:
            uploads = await tx.uploads.due(MOST_COUNTED)
            files = await tx.files.due(MOST_COUNTED)
        account = _Account()
        looks = [
            *(self._look(account, upload.created_at, partial(self._would_do, upload)) for upload in uploads),
            *(self._look(account, file.created_at, partial(self._would_delete, file)) for file in files),
        ]
        try:
            looks += [
                self._look(account, orphan.since, partial(self._would_abort, orphan))
                for orphan in await self._orphans.all()
            ]
        except UploadCoreError as exc:
            log.warning("sweep: looking for orphans failed: %s", exc.message, extra={"code": exc.code})
            account.count("failed")
        await asyncio.gather(*looks)
        return account.report(more=MOST_COUNTED in {len(uploads), len(files)})

    async def _look(
        self, account: _Account, since: datetime | None, look: Callable[[], Awaitable[tuple[str, Freed]]]
    ) -> None:
        async with self._slots:
            try:
                kind, freed = await look()
            except UploadCoreError as exc:
                log.warning("sweep: %s", exc.message)
                kind, freed = "failed", Freed()
        account.count(kind, self._age(since))
        account.freed.add(freed)

    async def _would_do(self, upload: Upload) -> tuple[str, Freed]:
        """What `_see_to` would, as far as it can be seen: how a completion ends can't."""
        nothing = Freed()
        if upload.state is UploadState.COMPLETING:
            return "settled", nothing
        if upload.state in {UploadState.PENDING, UploadState.UPLOADING}:
            # By this process's clock: good enough for an account.
            if upload.expires_at is not None and upload.expires_at > self._clock.now():
                return "opened", nothing
            is_found = await self._steps.found_whole(upload) is not None
            return ("settled", nothing) if is_found else ("expired", await self._steps.held(upload))
        if upload.state is UploadState.ABORTING:
            return "cleaned", await self._steps.held(upload)
        file = await self._file_of(upload)
        if not _is_content(upload, file):
            return "rechecked", await self._steps.held(upload)
        is_sound = file.status is not FileStatus.AVAILABLE or await self._steps.stands(upload, file)
        return "rechecked" if is_sound else "damaged", nothing

    async def _would_delete(self, file: File) -> tuple[str, Freed]:
        return "files_deleted", await self._steps.held(await self._steps.read(file.upload_id))

    async def _would_abort(self, orphan: Orphan) -> tuple[str, Freed]:
        return "orphans", await self._steps.held_by_multipart(orphan.address)


class _Account:
    """What was done, by field of `SweepReport`."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.freed = Freed()
        self.has_more = False
        self._oldest = timedelta(0)

    def count(self, kind: str, age: timedelta = timedelta(0)) -> None:
        """One more."""
        self.done[kind] += 1
        self._oldest = max(self._oldest, age)

    @property
    def has_done_something(self) -> bool:
        """Whether another pass at once may do more: not where everything fails."""
        return any(count for kind, count in self.done.items() if kind not in {"failed", "unsettled"})

    def report(self, *, more: bool) -> SweepReport:
        """The account, closed."""
        freed = self.freed
        return SweepReport(
            **self.done,
            multiparts=freed.multiparts,
            parts=freed.parts,
            objects=freed.objects,
            bytes=freed.bytes,
            oldest_age=self._oldest.total_seconds(),
            more=more,
        )


_UNSETTLED = frozenset({UploadState.COMPLETING, UploadState.ABORTING})


def _of_end(upload: Upload, kind: str) -> str:
    """What to count it as: not as ended, where the store was not to be cleaned now; nor as expired, where it was found completed."""
    if upload.state in _UNSETTLED:
        return "unsettled"
    return "settled" if upload.state is UploadState.COMPLETED else kind


def _is_content(upload: Upload, file: File) -> bool:
    """Whether what the upload brought is the content of its file."""
    return (
        upload.state is UploadState.COMPLETED and file.upload_id == upload.id and file.status is not FileStatus.DELETED
    )
