"""Cache-aside reads of uploads and files.

Check; on a miss read the database, populate, return; write through on change. What is cached decides nothing: copies of uploads serve
signing, copies of files serve reading them, and whoever changes something reads the database. The rules that keep a copy from being
older than its time to live:

- A copy has the version of its record, and the cache takes no older one in its place.
- A copy says when its life ends, counted from the call to the database that has brought it: one that a cache was late to store, or is late
  to drop, is not used. By wall-clock time: processes whose clocks differ by a time to live share nothing.
- What a call to the database has brought is dropped after two seconds: whoever stood still must not bring back what others have changed
  meanwhile, and whose marks in the cache have gone. Of a change, the copy before it is dropped instead.
- A change the cache did not answer for is made known to it in the background (see `Invalidations`); and so is one the database did not
  answer for, or whose caller went away while it did: it may be made.
- That there is no such file is remembered for five seconds at most, below every version: it hides no file that is born meanwhile.

- While the database does not answer, the last known version of an upload will do for signing, up to the life of a URL (see `LastKnown`).

And those that keep the database from being asked: one read per record and process at a time, however many ask; a copy that is asked for
in the last tenth of its life is read anew in the background, once, by the process that has put it there (or else, in the last
twentieth, by another); lives differ by a third, so that what was kept together does not end together.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Generic

from uploadcore.copies import file_from, file_values, upload_from, upload_values
from uploadcore.errors import UploadCoreError
from uploadcore.file import File
from uploadcore.invalidation import Invalidations
from uploadcore.known import LastKnown, Record, Versioned
from uploadcore.ports import Cache, Clock, Database, Transaction
from uploadcore.records import ID
from uploadcore.tally import Tally
from uploadcore.upload import Upload

__all__ = ["CachedRecords", "Copies"]

FILL_TIME = 2.0
"""Seconds after which what a call to the database has brought is too old to be kept, or to be shared with who asks now."""
ABSENCE_TTL = timedelta(seconds=5)
"""How long it is remembered at most that there is no such record."""
ABSENT = 0
"""The version of that in the cache, below those of records: a record's is one more than its own."""
REFRESH_SHARE = 0.1
"""The last part of a copy's life, in which who asks has it read anew. Of 60 s: whatever is asked for every six seconds is never missed."""
DECODED = 256
"""Copies kept decoded, per kind: those that are asked for again and again."""


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Record]):
    """What there is to know of one kind of record.

    Attributes:
        name: First part of its keys.
        values: The record as JSON values.
        record: The record of such values.
        read: Reads it from the database.
        absence: Whether it is remembered that there is none.
    """

    name: str
    values: Callable[[Record], dict[str, Any]]
    record: Callable[[dict[str, Any]], Record]
    read: Callable[[Transaction, str], Awaitable[Record | None]]
    absence: bool


@dataclass(slots=True)
class _Copy(Generic[Record]):
    """What lay in the cache. Times in seconds since 1970.

    Attributes:
        record: `None`: there is none.
        refresh_from: From when on it is to be read anew.
        until: When its life ends.
        is_refreshed: Whether that was begun, in this process.
    """

    record: Record | None
    refresh_from: float
    until: float
    is_refreshed: bool = False


class CachedRecords(Generic[Record]):
    """Records of one kind by id, at most `ttl` old. Without a cache every read goes to the database."""

    def __init__(
        self,
        kind: _Kind[Record],
        *,
        cache: Cache | None,
        database: Database,
        clock: Clock,
        ttl: timedelta,
        known_for: timedelta | None,
        invalidations: Invalidations | None,
        tally: Tally,
    ) -> None:
        """Read the database through `cache`. See `Copies`."""
        self._kind = kind
        self._cache = cache
        self._database = database
        self._clock = clock
        self._ttl = ttl
        self._invalidations = invalidations
        self._known: LastKnown[Record] = LastKnown(clock, known_for)
        self._found = tally.reads.setdefault(kind.name, Counter())
        self._name = random.getrandbits(32)
        self._reading: dict[str, tuple[float, asyncio.Task[Record | None]]] = {}
        self._decoded: Callable[[bytes], _Copy[Record] | None] = lru_cache(DECODED)(self._decode)

    async def get(self, record_id: str) -> Record | None:
        """The record, perhaps `ttl` old, or `known_for` while the database is away; `None` if there is none.

        Raises:
            DatabaseUnavailableError: The database was to be asked, and did not answer within 1.5 s; and nothing is known that will do.
        """
        if not ID.fullmatch(record_id):
            return None
        copy = await self._copy(record_id)
        if copy is None:
            self._found["miss"] += 1
            return await self._known.unless_answered(record_id, self._read(record_id))
        self._found["absent" if copy.record is None else "hit"] += 1
        if copy.record is not None and not self._known.is_known(copy.record):
            # Read by whoever put it there, a time to live ago at most.
            self._known.keep(copy.record, as_of=self._clock.monotonic() - self._ttl.total_seconds())
        if not copy.is_refreshed and copy.refresh_from <= self._clock.now().timestamp():
            copy.is_refreshed = True
            self._read(record_id)
        return copy.record

    async def remember(self, record: Record, *, as_of: float) -> None:
        """Write a change through: the copy before it is not given out again, by this process from now on.

        Args:
            record: As the database has returned it, once that is committed.
            as_of: The clock's monotonic seconds when the database was called for it.
        """
        self._reading.pop(record.id, None)  # it may have seen what was before: who asks from now on reads again
        self._known.keep(record, as_of=as_of)
        if self._cache is None or self._invalidations is None:
            return
        key, version = self._key(record.id), _version(record)
        answer: bool | None = None
        try:
            if self._is_old(as_of):
                answer = await self._cache.delete(key, version - 1)
            else:
                answer = await self._store(record.id, record, as_of)
        finally:  # also of a caller that is cancelled here: the change is made
            if answer is None:
                self._invalidations.add(key, version, keep=self._ttl)
            else:
                self._invalidations.settled(key, version)

    def doubt(self, record: Record) -> None:
        """A change of this record was begun, and nobody knows whether it is made: what was before it is not given out again.

        Costs reads of the database, for ten seconds or so, where it was not made.

        Args:
            record: As it was before, by its version.
        """
        self._reading.pop(record.id, None)
        self._known.forget(record.id)
        if self._invalidations is not None:
            self._invalidations.add(self._key(record.id), _version(record) + 1, keep=self._ttl)

    async def close(self) -> None:
        """Wait for the reads that nobody waits for."""
        await asyncio.gather(*(task for _, task in self._reading.values()), return_exceptions=True)

    # --- check ----------------------------------------------------------------------------------------------------

    async def _copy(self, record_id: str) -> _Copy[Record] | None:
        if self._cache is None or self._invalidations is None:
            return None
        key = self._key(record_id)
        found = await self._cache.get(key)
        copy = None if found is None else self._decoded(found)
        if copy is None or copy.until <= self._clock.now().timestamp():
            return None
        # Asked after the cache was, which takes its time. What this process holds of a cache that is away may be new enough.
        oldest = self._invalidations.pending(key)
        return copy if oldest is None or (copy.record is not None and _version(copy.record) >= oldest) else None

    def _decode(self, found: bytes) -> _Copy[Record] | None:
        """The copy; `None` if it is damaged, or another version of this code wrote it in another way."""
        try:
            refresh_from, until, putter, values = json.loads(found)
            if putter != self._name:
                # Of many processes that ask for it, one is enough to renew it: the others give it time.
                refresh_from = (refresh_from + until) / 2
            return _Copy(None if values is None else self._kind.record(values), float(refresh_from), float(until))
        except (ValueError, LookupError, TypeError, UploadCoreError):
            return None

    # --- read and populate ----------------------------------------------------------------------------------------

    def _read(self, record_id: str) -> asyncio.Task[Record | None]:
        """The read of this record that is under way and not too old to be shared, or else a new one."""
        began, reading = self._reading.get(record_id, (0.0, None))
        if reading is None or self._is_old(began):
            began = self._clock.monotonic()
            reading = asyncio.create_task(self._fill(record_id, began))
            self._reading[record_id] = (began, reading)
            reading.add_done_callback(lambda task: self._ended(record_id, task))
        return reading

    async def _fill(self, record_id: str, began: float) -> Record | None:
        async with self._database.reader(single=True) as tx:
            record = await self._kind.read(tx, record_id)
        if record is not None and self._reading.get(record_id, (0.0, None))[1] is asyncio.current_task():
            self._known.keep(record, as_of=began)  # nothing has overtaken it since
        if not self._is_old(began) and (record is not None or self._kind.absence):
            stored = await self._store(record_id, record, began)
            if stored is not None and record is not None and self._invalidations is not None:
                self._invalidations.settled(self._key(record_id), _version(record))
        return record

    def _ended(self, record_id: str, task: asyncio.Task[Record | None]) -> None:
        if self._reading.get(record_id, (0.0, None))[1] is task:
            del self._reading[record_id]
        # A failure is told to those that wait; a read in the background that failed is tried again on a miss.
        if not task.cancelled() and task.exception() is None:
            self._known.answered()

    async def _store(self, record_id: str, record: Record | None, as_of: float) -> bool | None:
        """Put a copy in its place. Its life has begun when the database was asked for it."""
        if self._cache is None:
            return None
        version, most, values = ABSENT, min(ABSENCE_TTL, self._ttl), None
        if record is not None:
            version, most, values = _version(record), self._ttl, self._kind.values(record)
        ttl = most * (1 - random.random() / 3)  # noqa: S311 - no secret; within 20 % of the middle, and never above the most
        now, spent = self._clock.now(), timedelta(seconds=self._clock.monotonic() - as_of)
        born = now - spent
        # What is said not to be there is not worth refreshing.
        share = 0 if record is None else REFRESH_SHARE
        copy = ((born + (1 - share) * ttl).timestamp(), (born + ttl).timestamp(), self._name, values)
        encoded = json.dumps(copy, separators=(",", ":"), ensure_ascii=False).encode()
        # Also of one whose life is over: it takes the place of an older one.
        left = max(ttl - spent, timedelta(milliseconds=1))
        return await self._cache.set_if_newer(self._key(record_id), encoded, version, ttl=left)

    def _key(self, record_id: str) -> str:
        return f"{self._kind.name}:{record_id}"

    def _is_old(self, as_of: float) -> bool:
        return self._clock.monotonic() - as_of > FILL_TIME


class Copies:
    """The copies of everything that is cached.

    Attributes:
        uploads: For signing. A copy does not refuse, hence that there is no upload is not remembered.
        files: For reading.
    """

    def __init__(
        self,
        cache: Cache | None,
        database: Database,
        clock: Clock,
        *,
        upload_ttl: timedelta,
        file_ttl: timedelta,
        known_for: timedelta,
        tally: Tally,
    ) -> None:
        """Read the database through `cache`; `None`: there is none. While the database is away, uploads as they were `known_for` ago will do. What is found is counted in `tally`."""
        self._invalidations = None if cache is None else Invalidations(cache, clock)
        self.uploads = CachedRecords(
            _UPLOADS,
            cache=cache,
            database=database,
            clock=clock,
            ttl=upload_ttl,
            known_for=known_for,
            invalidations=self._invalidations,
            tally=tally,
        )
        self.files = CachedRecords(
            _FILES,
            cache=cache,
            database=database,
            clock=clock,
            ttl=file_ttl,
            known_for=None,
            invalidations=self._invalidations,
            tally=tally,
        )

    async def close(self) -> None:
        """End what goes on in the background."""
        await self.uploads.close()
        await self.files.close()
        if self._invalidations is not None:
            await self._invalidations.close()


def _version(record: Versioned) -> int:
    return ABSENT + 1 + record.version


async def _read_upload(tx: Transaction, upload_id: str) -> Upload | None:
    return await tx.uploads.get(upload_id)


async def _read_file(tx: Transaction, file_id: str) -> File | None:
    return await tx.files.get(file_id)


_UPLOADS = _Kind("upload", upload_values, upload_from, _read_upload, absence=False)
_FILES = _Kind("file", file_values, file_from, _read_file, absence=True)
