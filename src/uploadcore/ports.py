"""What the core needs from the outside, as Protocols. Adapters implement them; `uploadcore.testing` holds their contract suites.

Rules for all of them: everything is async; every outward call has a timeout of the adapter's own; an adapter maps its SDK's errors
onto `uploadcore.errors` in one place, with `raise … from exc`; `open` and `close` are called once each by `UploadCore`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from uploadcore.address import Address
from uploadcore.events import Event
from uploadcore.file import Checksum, ChecksumAlgorithm, File, FileStatus
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.states import UploadState
from uploadcore.upload import Transition, Upload

__all__ = [
    "AdapterContext",
    "Admission",
    "Backlog",
    "Cache",
    "Clock",
    "Database",
    "DeadLetter",
    "Delivery",
    "EventPublisher",
    "FailedDelivery",
    "FileRecords",
    "IdFactory",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "ObjectHeaders",
    "ObjectStore",
    "OpenMultipart",
    "Outbox",
    "QuotaRecords",
    "SignedRequest",
    "StoreCapabilities",
    "StoredObject",
    "Transaction",
    "UploadPolicy",
    "UploadRecords",
    "UploadRequest",
]

MARKER = "uploadcore-upload"
"""Key of the user metadata (`x-amz-meta-…` on S3) that names the upload an object belongs to."""


# --- object store -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What a store can do beyond the least. Declared as data: nobody asks what class a store is.

    Attributes:
        conditional_put: A signed `If-None-Match: *` refuses to overwrite.
        repeatable_complete: Completing twice with the same parts answers success twice.
        concurrent_complete: Two completions at once do no harm; without it a second call waits ten minutes.
        late_parts_refused: A part URL used after completion changes no byte of the object.
        forgets_completed: `list_parts` of a completed upload finds none. Without it the parts may go on being listed, whatever
            stands under the key: a listing is then no evidence that an upload is still open.
        get_signs_head: A URL signed for GET answers HEAD as well.
        list_by_prefix: `list_multiparts` finds uploads by any prefix, not by the whole key only.
        object_checksums: Checksums of whole objects it computes and tells in `head`.
        part_checksums: Checksums it verifies when a signed part carries one.
    """

    conditional_put: bool = False
    repeatable_complete: bool = False
    concurrent_complete: bool = False
    late_parts_refused: bool = False
    forgets_completed: bool = False
    get_signs_head: bool = False
    list_by_prefix: bool = False
    object_checksums: frozenset[ChecksumAlgorithm] = frozenset()
    part_checksums: frozenset[ChecksumAlgorithm] = frozenset()


@dataclass(frozen=True, slots=True)
class ObjectHeaders:
    """What an object carries besides its bytes. `metadata` includes the `MARKER`."""

    content_type: str
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What `head` tells of an object."""

    size: int
    etag: str
    content_type: str
    metadata: Mapping[str, str]
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class OpenMultipart:
    """A multipart upload the store lists. `initiated` is the store's own time."""

    key: str
    storage_upload_id: str
    initiated: datetime


class SignedRequest(NamedTuple):
    """A request anybody may make until `expires_at`, with exactly these headers. The URL is a secret: `repr` hides it."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime

    def __repr__(self) -> str:
        """Show neither URL nor headers."""
        return f"SignedRequest({self.method} …, expires_at={self.expires_at.isoformat()})"


class ObjectStore(Protocol):
    """Where the bytes are. Named after S3's verbs. Every method may raise `StoreUnavailableError`, which says nothing of the outcome."""

    @property
    def bucket(self) -> str:
        """The bucket new addresses are made in."""

    @property
    def limits(self) -> StoreLimits:
        """What it can hold."""

    @property
    def capabilities(self) -> StoreCapabilities:
        """What it can do."""

    async def open(self) -> None:
        """Get ready. Raises `StoreUnavailableError` only where it could never work (no such folder, no permission)."""

    async def close(self) -> None:
        """Let go of everything. Idempotent."""

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """Begin a multipart upload under `address.key`; return its storage upload id. Not idempotent: each call makes another.

        Raises:
            InvalidRequestError: The store definitely refuses it, and nothing was made.
            StorageFullError: There is no room.
        """

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """Sign one PUT per part, in order. No call to the store.

        Each URL binds method, key, storage upload id, part number, and the `content-length` where `Part.length` is not `None`, and the
        checksum header of the parts named in `checksums`. `expires_at` is true: it may be earlier than asked for, never later.
        """

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a PUT of a whole object that binds everything in `headers`, the length, and `If-None-Match: *`. No call to the store.

        Only called where `capabilities.conditional_put`.
        """

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """All parts of a multipart upload, in order of number, each only once it is durable. Any page size is the adapter's matter.

        Raises:
            NoSuchMultipartError: The store knows no such multipart upload; with `capabilities.forgets_completed`, any more.
        """

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """Assemble exactly these parts. A return is an answer, no proof: the caller looks with `head`.

        Raises:
            NoSuchMultipartError: The store knows no such multipart upload: completed before, aborted, or reaped.
            PartsRejectedError: A part is not as named; nothing was assembled.
            ChecksumMismatchError: The whole has not that checksum; nothing was assembled.
        """

    async def abort_multipart(self, address: Address) -> None:
        """Drop a multipart upload and its parts. Idempotent: an unknown one is no error."""

    def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """Multipart uploads in progress whose key begins with `prefix`, in no particular order.

        Without `capabilities.list_by_prefix` it is asked for a whole key, or with an empty prefix for all there are.
        """

    async def head(self, address: Address) -> StoredObject | None:
        """What stands under `address.key`; `None` if nothing does. Read-after-write consistent."""

    async def delete(self, address: Address) -> None:
        """Delete the object under `address.key`. Idempotent: an absent one is no error."""

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """Store an empty object under `address.key`, replacing what is there. For the installation marker only."""

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a GET (with `capabilities.get_signs_head`, and HEAD) of an object, answered as an attachment with that name and type.

        No call to the store.
        """


# --- database -----------------------------------------------------------------------------------------------------


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


class Delivery(NamedTuple):
    """An event that was claimed, to be brought to one destination.

    Attributes:
        event: With its position.
        destination: Name of where it goes.
        attempt: The how-manieth it is, from 1. Tells this claim from a later one.
    """

    event: Event
    destination: str
    attempt: int


class FailedDelivery(NamedTuple):
    """A delivery that did not come about.

    Attributes:
        delivery: As it was claimed.
        retry_after: When it may be claimed again; `None`: never, it is a dead letter.
        error: What went wrong, for an operator. No secret, no URL.
    """

    delivery: Delivery
    retry_after: timedelta | None
    error: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that is not tried any more at a destination, until somebody replays it."""

    event: Event
    destination: str
    attempts: int
    dead_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a destination still has to get.

    Attributes:
        destination: Its name.
        pending: Events not delivered yet, those without a position included.
        dead: Dead letters.
        oldest: Age of the oldest pending event, by the database's clock; `None`: nothing is pending.
    """

    destination: str
    pending: int
    dead: int
    oldest: timedelta | None


class Outbox(Protocol):
    """Events written with their change, and how far each has come at each destination. Filled by `UploadRecords.save` and `add`.

    An event is first given its position, and with it a delivery to each destination; a delivery is claimed, and then done, failed or dead. What is
    undelivered is marked so; nobody looks for ids or positions beyond the last one seen, since the order they are written in is not that of commits.
    """

    async def add(self, event: Event) -> None:
        """Write an event that tells of a file."""

    async def number(self, destinations: Collection[str], limit: int) -> int:
        """Give committed events that have none their positions, and their deliveries to these destinations; how many, at most `limit`.

        One at a time, over all processes: whoever finds another at it does nothing, and says 0. Events of one upload are numbered in the order
        they were written in. A position is never given twice, none is left out, and whoever sees one sees all before it.
        """

    async def claim(self, destination: str, limit: int, *, lease: timedelta) -> list[Delivery]:
        """Undelivered events that are due there, the oldest one per upload at most, in order of position, hidden from others for `lease`.

        An event whose predecessor (same upload, same destination) is neither delivered nor dead is not returned, whatever the predecessor's
        retry time. A claim counts as an attempt: one that ends its process is counted, too.
        """

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """They have arrived, whoever has claimed them since. Idempotent."""

    async def failed(self, failures: Sequence[FailedDelivery]) -> None:
        """They have not. One that was claimed again since is left as it is."""

    async def dead_letters(
        self, *, destination: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Dead letters by position and destination, strictly after that pair; of one destination, or of all."""

    async def replay(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Let dead letters of a destination, one or all, be claimed again, with no attempt counted; how many, at most `limit`."""

    async def discard(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Drop what a destination still has to get, pending or dead, one event or all; how many, at most `limit`."""

    async def purge(self, *, older_than: timedelta, dead_older_than: timedelta) -> int:
        """Drop dead letters, and then events that are delivered or dead everywhere, for longer than that; how many events and dead letters.

        A bounded number at a time (10,000, say). What is left is for the next call.
        """

    async def backlog(self, destinations: Collection[str]) -> tuple[Backlog, ...]:
        """What is pending and dead, by name: at these destinations, and at others that have deliveries from before."""


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


# --- the rest -----------------------------------------------------------------------------------------------------


class Cache(Protocol):
    """Bytes with a time to live. It decides nothing: losing, hanging or flushing it costs latency only.

    No method raises for an unreachable cache: each answers `None`, and what a `set_if_newer` or `delete` did is then unknown.
    """

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Let go of everything. Idempotent."""

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that is still alive."""

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        """Store unless a newer version, or its tombstone, was stored before. The version marker outlives the value by 10 s.

        Versions are 0 to 2⁵³ - 1. The same version may be stored again, unless it was deleted.

        Returns:
            `True` if it is stored, `False` if a newer version or a tombstone stands; `None` if the cache did not answer.
        """

    async def delete(self, key: str, version: int) -> bool | None:
        """Drop the value and leave a tombstone: no version up to this one comes back for 10 s. Idempotent.

        Returns:
            `True` if the tombstone stands; `None` if the cache did not answer.
        """


class EventPublisher(Protocol):
    """Where events go: one destination. Several deliveries run at once, of one upload never."""

    async def open(self) -> None:
        """Get ready. A destination that is away is no reason to fail: deliveries to it will."""

    async def publish(self, event: Event) -> None:
        """Deliver one event. Any exception counts as not delivered; it comes again, with the same id.

        It is cancelled after 10 s. The message of an `UploadCoreError` is kept with the event and logged, and so must not hold a secret; of any
        other exception that is its class only.

        Raises:
            UndeliverableError: No retry can help: it becomes a dead letter at once.
        """

    async def close(self) -> None:
        """Let go of everything. Idempotent."""


class Clock(Protocol):
    """Time of this process. Decides nothing that a database's clock must decide."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class IdFactory(Protocol):
    """Makes unguessable, unique ids."""

    def new(self) -> str:
        """A new one: letters, digits and hyphens, up to 64 characters."""


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What somebody asks for when initiating."""

    owner: str
    filename: str
    size: int | None
    content_type: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What an owner may do. Limits of `None` are none; sizes in bytes.

    Attributes:
        max_size: Largest blob.
        max_unknown_size: What an upload of unknown size is charged, and may grow to.
        max_open_uploads: Uploads open at a time.
        max_bytes_in_flight: Sum of their sizes.
        content_types: Accepted ones; a pattern may end in `/*`. Empty: any.
    """

    max_size: int | None = None
    max_unknown_size: int = 10 * 1024**3
    max_open_uploads: int | None = None
    max_bytes_in_flight: int | None = None
    content_types: tuple[str, ...] = ()


class UploadPolicy(Protocol):
    """Decides what may be uploaded."""

    async def admit(self, request: UploadRequest) -> Admission:
        """The limits for this request. Raises `ForbiddenError` to refuse it outright."""


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """What an adapter's `from_url(url, context)` may need besides its URL.

    Attributes:
        data_dir: Folder for what the embedded defaults keep, their signing secret included.
        public_url: Where clients reach this service, without a trailing slash.
        part_size_min: Smallest part the store is to take, in bytes, where it takes smaller ones than it says by itself.
    """

    data_dir: Path
    public_url: str
    part_size_min: int | None = None
