"""A database in memory, with real transactions: one writer at a time on a copy, which takes the place of the original at the end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from uploadcore.errors import QuotaExceededError, VersionConflictError
from uploadcore.events import Event
from uploadcore.file import File, FileStatus
from uploadcore.ports import Clock, IdempotencyRecord
from uploadcore.states import UploadState
from uploadcore.system import SystemClock
from uploadcore.upload import Condition, Timer, Transition, Upload
from uploadcore.waking import woken
from uploadcore_memory.outbox import MemoryOutbox, OutboxTables

__all__ = ["MemoryDatabase"]

_LEASED = frozenset({UploadState.PENDING, UploadState.COMPLETING, UploadState.ABORTING})
_DATED = frozenset({UploadState.PENDING, UploadState.UPLOADING})


@dataclass(slots=True)
class _Tables(OutboxTables):
    """Everything there is. The rows are immutable, so a copy of the dictionaries is a copy of all."""

    uploads: dict[str, Upload] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], tuple[IdempotencyRecord, datetime]] = field(default_factory=dict)
    quotas: dict[str, tuple[int, int]] = field(default_factory=dict)

    def copy(self) -> _Tables:
        return _Tables(
            outbox=dict(self.outbox),
            deliveries=dict(self.deliveries),
            last_position=self.last_position,
            uploads=dict(self.uploads),
            files=dict(self.files),
            idempotency=dict(self.idempotency),
            quotas=dict(self.quotas),
        )


class MemoryDatabase:
    """The source of truth of one process.

    Args:
        clock: Sets and compares every lease and deadline.
        installation_id: To be foreseen in a test; random by default.
    """

    def __init__(self, *, clock: Clock | None = None, installation_id: str | None = None) -> None:
        self._clock = clock or SystemClock()
        self._installation_id = installation_id or uuid.uuid4().hex
        self._tables = _Tables()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = asyncio.Lock()
        self._events_written = asyncio.Event()

    async def open(self) -> None:
        """Get ready for this event loop: opened again, it may be another."""
        loop, self._loop = self._loop, asyncio.get_running_loop()
        if loop is not None and loop is not self._loop:
            self._writing, self._events_written = asyncio.Lock(), asyncio.Event()

    async def close(self) -> None:
        """Let go of nothing: what was committed stays, as it would anywhere else."""

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[_Transaction]:
        """Begin, commit on leaving, roll back on any exception. Others wait; a second one in the same task waits for ever."""
        del single  # there is no round trip to spare
        async with self._writing:
            # Lets others run, as a call over a network would.
            await asyncio.sleep(0)
            tables = self._tables.copy()
            tx = _Transaction(tables, self._clock)
            yield tx
            self._tables = tables
            if tx.has_written_events:
                self._events_written.set()
        await asyncio.sleep(0)

    @asynccontextmanager
    async def reader(self, *, single: bool = False) -> AsyncIterator[_Transaction]:
        """One consistent view. What is written through it is lost."""
        del single
        await asyncio.sleep(0)
        yield _Transaction(self._tables.copy(), self._clock)

    async def installation_id(self) -> str:
        """Made with the object."""
        return self._installation_id

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        """Wait until events were written since this last returned, or so long."""
        await woken(self._events_written, self._clock, timeout)

    # --- what a test looks at -------------------------------------------------------------------------------------

    @property
    def uploads(self) -> dict[str, Upload]:
        """Every upload committed, by id."""
        return dict(self._tables.uploads)

    @property
    def files(self) -> dict[str, File]:
        """Every file committed, by id."""
        return dict(self._tables.files)

    @property
    def events(self) -> list[Event]:
        """Every event committed, delivered ones included until they are purged, in the order they were written."""
        return [written.event for written in self._tables.outbox.values()]

    def open_quota(self, owner: str) -> tuple[int, int]:
        """How many uploads and bytes in flight the owner is charged with."""
        return self._tables.quotas.get(owner, (0, 0))


class _Transaction:
    """A view of the tables, one attribute per kind of record."""

    def __init__(self, tables: _Tables, clock: Clock) -> None:
        self.has_written_events = False
        self.outbox = MemoryOutbox(tables, clock, self._wrote_events)
        self.uploads = _Uploads(tables, clock, self.outbox)
        self.files = _Files(tables, clock)
        self.idempotency = _Idempotency(tables, clock)
        self.quotas = _Quotas(tables)

    def _wrote_events(self) -> None:
        self.has_written_events = True


class _Uploads:
    def __init__(self, tables: _Tables, clock: Clock, outbox: MemoryOutbox) -> None:
        self._tables = tables
        self._clock = clock
        self._outbox = outbox

    async def add(self, upload: Upload, *, lifetime: timedelta, lease: timedelta | None) -> Upload:
        if upload.id in self._tables.uploads:
            raise VersionConflictError("there is an upload of that id already", upload_id=upload.id)
        now = self._clock.now()
        added = replace(
            upload,
            version=1,
            created_at=now,
            expires_at=now + lifetime,
            lease_until=None if lease is None else now + lease,
        )
        self._tables.uploads[upload.id] = added
        return added

    async def get(self, upload_id: str) -> Upload | None:
        return self._tables.uploads.get(upload_id)

    async def save(self, transition: Transition) -> Upload:
        upload = transition.upload
        stored = self._tables.uploads.get(upload.id)
        now = self._clock.now()
        if stored is None or (stored.version, stored.lease_owner) != (upload.version, upload.lease_owner):
            raise VersionConflictError("somebody else changed the upload", upload_id=upload.id)
        for condition in transition.conditions:
            if not _holds(condition, stored, now):
                raise VersionConflictError(
                    f"the time condition on {condition.timer} does not hold", upload_id=upload.id
                )
        timers = {timer: _timer(stored, timer) for timer in Timer}
        for timer, after in transition.timers.items():
            timers[timer] = None if after is None else now + after
        saved = replace(
            upload,
            version=stored.version + 1,
            created_at=stored.created_at,
            expires_at=timers[Timer.DEADLINE],
            lease_until=timers[Timer.LEASE],
            lease_owner=transition.lease_owner if Timer.LEASE in transition.timers else stored.lease_owner,
            fenced_at=timers[Timer.FENCED],
            called_at=timers[Timer.CALLED],
            lost_at=timers[Timer.LOST],
            recheck_at=timers[Timer.RECHECK],
        )
        for event in transition.events:
            await self._outbox.add(event)
        self._tables.uploads[upload.id] = saved
        return saved

    async def find(
        self,
        *,
        owner: str,
        state: UploadState | None,
        fingerprint: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Upload]:
        found = [
            (_created(upload), upload.id)
            for upload in self._tables.uploads.values()
            if upload.owner == owner
            and (state is None or upload.state is state)
            and (fingerprint is None or upload.fingerprint == fingerprint)
        ]
        found.sort(reverse=True)
        return [self._tables.uploads[id_] for at, id_ in found if before is None or (at, id_) < before][:limit]

    async def due(self, limit: int) -> list[Upload]:
        now = self._clock.now()
        due = [
            (min(passed), upload.id)
            for upload in self._tables.uploads.values()
            if (passed := [timer for timer in _watched(upload) if timer <= now])
        ]
        return [self._tables.uploads[id_] for _, id_ in sorted(due)[:limit]]

    async def by_keys(self, keys: Sequence[str]) -> dict[str, Upload]:
        asked = frozenset(keys)
        return {upload.address.key: upload for upload in self._tables.uploads.values() if upload.address.key in asked}


class _Files:
    def __init__(self, tables: _Tables, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock

    async def add(self, file: File) -> File:
        if file.id in self._tables.files:
            raise VersionConflictError("there is a file of that id already", file_id=file.id)
        now = self._clock.now()
        added = replace(file, version=0, created_at=now, updated_at=now)
        self._tables.files[file.id] = added
        return added

    async def get(self, file_id: str, *, hold: bool = False) -> File | None:
        del hold  # there is one writer at a time
        return self._tables.files.get(file_id)

    async def save(self, file: File, *, lease: timedelta | None = None, lease_passed: bool = False) -> File:
        stored = self._tables.files.get(file.id)
        now = self._clock.now()
        if stored is None or stored.version != file.version:
            raise VersionConflictError("somebody else changed the file", file_id=file.id)
        if lease_passed and not (stored.lease_until is not None and stored.lease_until <= now):
            raise VersionConflictError("somebody else holds the file's lease", file_id=file.id)
        saved = replace(
            file,
            version=stored.version + 1,
            created_at=stored.created_at,
            updated_at=now,
            lease_until=None if lease is None else now + lease,
        )
        self._tables.files[file.id] = saved
        return saved

    async def find(
        self,
        *,
        owner: str,
        status: FileStatus | None,
        label: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[File]:
        found = [
            (_created(file), file.id)
            for file in self._tables.files.values()
            if file.owner == owner
            and (file.status is not FileStatus.DELETED if status is None else file.status is status)
            and (label is None or label in file.labels)
        ]
        found.sort(reverse=True)
        return [self._tables.files[id_] for at, id_ in found if before is None or (at, id_) < before][:limit]

    async def due(self, limit: int) -> list[File]:
        now = self._clock.now()
        due = [
            (file.lease_until, file.id)
            for file in self._tables.files.values()
            if file.status is FileStatus.DELETING and file.lease_until is not None and file.lease_until <= now
        ]
        return [self._tables.files[id_] for _, id_ in sorted(due)[:limit]]


class _Idempotency:
    def __init__(self, tables: _Tables, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock

    async def claim(self, record: IdempotencyRecord, *, kept: timedelta) -> IdempotencyRecord:
        now = self._clock.now()
        standing = self._tables.idempotency.get((record.owner, record.key))
        if standing is not None and standing[1] > now - kept:
            return standing[0]
        self._tables.idempotency[record.owner, record.key] = (record, now)
        return record

    async def purge(self, *, older_than: timedelta) -> int:
        until = self._clock.now() - older_than
        old = [key for key, (_, at) in self._tables.idempotency.items() if at < until]
        for key in old:
            del self._tables.idempotency[key]
        return len(old)


class _Quotas:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    async def reserve(self, owner: str, *, size: int, max_uploads: int | None, max_bytes: int | None) -> None:
        uploads, in_flight = self._tables.quotas.get(owner, (0, 0))
        if max_uploads is not None and uploads + 1 > max_uploads:
            raise QuotaExceededError(f"{uploads} uploads are open, and {max_uploads} is the limit")
        if max_bytes is not None and in_flight + size > max_bytes:
            raise QuotaExceededError(
                f"{in_flight} bytes are in flight, {size} more would pass the limit of {max_bytes}"
            )
        self._tables.quotas[owner] = (uploads + 1, in_flight + size)

    async def release(self, owner: str, *, size: int) -> None:
        uploads, in_flight = self._tables.quotas.get(owner, (0, 0))
        self._tables.quotas[owner] = (max(0, uploads - 1), max(0, in_flight - size))


def _timer(upload: Upload, timer: Timer) -> datetime | None:
    at: datetime | None = getattr(upload, timer.value)
    return at


def _holds(condition: Condition, upload: Upload, now: datetime) -> bool:
    at = _timer(upload, condition.timer)
    return at is not None and (at + condition.margin <= now) is condition.passed


def _watched(upload: Upload) -> Iterator[datetime]:
    """The timers on which somebody should see to this upload, as it now is."""
    if upload.state in _LEASED and upload.lease_until is not None:
        yield upload.lease_until
    if upload.state in _DATED and upload.expires_at is not None:
        yield upload.expires_at
    if upload.is_terminal and upload.recheck_at is not None:
        yield upload.recheck_at


def _created(record: Upload | File) -> datetime:
    assert record.created_at is not None, "set by add"
    return record.created_at
