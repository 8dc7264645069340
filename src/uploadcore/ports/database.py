"""The database: a transaction, and the records in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from uploadcore.file import File, FileStatus
from uploadcore.ports.outbox import Outbox
from uploadcore.states import UploadState
from uploadcore.upload import Transition, Upload

__all__ = [
    "Database",
    "FileRecords",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "QuotaRecords",
    "Transaction",
    "UploadRecords",
]


class UploadRecords(Protocol):
    """Uploads in the database."""

    async def add(self, upload: Upload, *, lifetime: timedelta, lease: timedelta | None) -> Upload:
        """Insert; return it with `created_at`, `expires_at` (now + lifetime), `lease_until` set and `version` 1.

        Args:
            upload: The upload; its `lease_owner` holds the lease.
            lifetime: Until the deadline.
            lease: How long the lease is; `None`: there is none.
        """

    async def get(self, upload_id: str) -> Upload | None:
        """The upload, whoever owns it: the caller compares the owner."""

    async def save(self, transition: Transition) -> Upload:
        """Carry out a transition in one conditional statement, and add its events to the outbox; return the upload as it now is.

        Raises:
            VersionConflictError: The stored version or lease owner is not that of `transition.upload`, or a condition does not hold. Nothing
                changed.
        """

    async def find(
        self,
        *,
        owner: str,
        state: UploadState | None,
        fingerprint: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Upload]:
        """An owner's uploads, newest first (by `created_at`, then `id`), strictly after the cursor `before`."""

    async def due(self, limit: int) -> list[Upload]:
        """Uploads somebody should see to, oldest timer first, by the database's clock.

        `pending`, `completing`, `aborting` whose lease has passed; `pending`, `uploading` whose deadline has passed; terminal ones whose
        recheck has come.
        """

    async def by_keys(self, keys: Sequence[str]) -> dict[str, Upload]:
        """The uploads at these storage keys, by key. Up to 1,000 a call."""


class FileRecords(Protocol):
    """Files in the database."""

    async def add(self, file: File) -> File:
        """Insert; return it with `created_at` and `updated_at` set. `version` stays 0."""

    async def get(self, file_id: str, *, hold: bool = False) -> File | None:
        """The file, whoever owns it: the caller compares the owner.

        Args:
            file_id: Which file.
            hold: In a transaction: nobody else changes it until this one ends, so that it can be saved as it was read.
        """

    async def save(self, file: File, *, lease: timedelta | None = None, lease_passed: bool = False) -> File:
        """Update where `file.version` still stands; return it with the next version and `updated_at`.

        Args:
            file: The next file, with the version that was read.
            lease: `lease_until` becomes now + lease; `None` clears it.
            lease_passed: Only if the stored `lease_until` has passed.

        Raises:
            VersionConflictError: The version does not stand, or the lease has not passed. Nothing changed.
        """

    async def find(
        self,
        *,
        owner: str,
        status: FileStatus | None,
        label: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[File]:
        """An owner's files, newest first (by `created_at`, then `id`), strictly after the cursor `before`.

        Args:
            owner: Whose.
            status: Only those in this status; `None`: all but the deleted ones.
            label: Only those that have exactly this label.
            before: `created_at` and `id` of the last one on the page before.
            limit: How many at most.
        """

    async def due(self, limit: int) -> list[File]:
        """Files that are `deleting` and whose lease has passed."""


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """Which upload a key made. `fingerprint` is a hash of the request, to tell a retry from another request."""

    owner: str
    key: str
    fingerprint: str
    upload_id: str


class IdempotencyRecords(Protocol):
    """Idempotency keys, unique per owner."""

    async def claim(self, record: IdempotencyRecord, *, kept: timedelta) -> IdempotencyRecord:
        """Write the record unless one younger than `kept` stands; return the one that stands."""

    async def purge(self, *, older_than: timedelta) -> int:
        """Drop records older than that, a bounded number at a time (10,000, say); how many. What is left is for the next call."""


class QuotaRecords(Protocol):
    """What each owner has open. Counters only: never below zero."""

    async def reserve(self, owner: str, *, size: int, max_uploads: int | None, max_bytes: int | None) -> None:
        """Count one upload and `size` bytes in flight, in one conditional statement.

        Raises:
            QuotaExceededError: One of the limits (`None`: none) would be passed. Nothing changed.
        """

    async def release(self, owner: str, *, size: int) -> None:
        """Count one upload and `size` bytes less."""


class Transaction(Protocol):
    """One transaction: all of it, or nothing."""

    @property
    def uploads(self) -> UploadRecords:
        """Uploads."""

    @property
    def files(self) -> FileRecords:
        """Files."""

    @property
    def outbox(self) -> Outbox:
        """Events."""

    @property
    def idempotency(self) -> IdempotencyRecords:
        """Idempotency keys."""

    @property
    def quotas(self) -> QuotaRecords:
        """Quotas."""


class Database(Protocol):
    """The source of truth. Its clock sets and compares every lease and deadline."""

    async def open(self) -> None:
        """Connect; check (SQLite: bring up to date) the schema.

        Raises:
            DatabaseUnavailableError: It does not answer, or its schema does not fit.
        """

    async def close(self) -> None:
        """Let go of everything. Idempotent."""

    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """Begin, commit on leaving, roll back on any exception.

        Args:
            single: There will be one call, and nothing after it that may fail: what it did may stand from then on. Spares a database on
                a server the round trips of beginning and committing.

        Raises:
            DatabaseUnavailableError: On entering, inside, or on commit; after a failed commit the outcome is unknown.
        """

    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """One consistent view for reading; `single`: there will be one call. Writing through it is undefined."""

    async def installation_id(self) -> str:
        """Made once, when the schema was made: tells this database's objects from another's in one bucket."""

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - it is no error that nothing happens
        """Wait until events may have been written since this last returned, by this process or (if the database can tell) by another.

        Returns after `timeout` whatever happened; a wake that was lost costs no more than that. One waits at a time.
        """
