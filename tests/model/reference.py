"""What must be true, kept as plainly as possible: dictionaries of what the store was made to hold, and the history of every upload.

The reference sees each effect on the store and each commit as it happens, whoever caused it, and compares it with the rules of the
design (by their numbers). It decides nothing and calls nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.model.history import FileHistory, Life, Snapshot, is_whole
from uploadcore.events import Event, EventType
from uploadcore.file import File, FileStatus
from uploadcore.ports import OpenMultipart, StoredObject
from uploadcore.states import TERMINAL_STATES, UPLOAD_TRANSITIONS, UploadState
from uploadcore.upload import Address, Reason, Strategy, Upload
from uploadcore_memory import ManualClock, MemoryDatabase

if TYPE_CHECKING:
    from tests.model.processes import Operation

__all__ = ["INSTALLATION_MARKER", "Reference"]

S = UploadState
OPEN = frozenset({S.PENDING, S.UPLOADING, S.COMPLETING, S.ABORTING})
UPLOAD_EDGES = {(state, after) for (state, _), after in UPLOAD_TRANSITIONS.items()} | {(s, s) for s in TERMINAL_STATES}
FILE_EDGES = {
    (FileStatus.UPLOADING, FileStatus.AVAILABLE),
    (FileStatus.UPLOADING, FileStatus.FAILED),
    (FileStatus.FAILED, FileStatus.AVAILABLE),
    (FileStatus.AVAILABLE, FileStatus.AVAILABLE),
    (FileStatus.AVAILABLE, FileStatus.DELETING),
    (FileStatus.DELETING, FileStatus.DELETING),
    (FileStatus.DELETING, FileStatus.DELETED),
    # What is said about it has changed.
    (FileStatus.UPLOADING, FileStatus.UPLOADING),
    (FileStatus.FAILED, FileStatus.FAILED),
}
DAMAGED_EDGES = {(FileStatus.FAILED, FileStatus.DELETING)}
"""Its owner deletes what has failed though its upload was completed."""
TERMINAL_EVENTS = {
    S.COMPLETED: EventType.UPLOAD_COMPLETED,
    S.ABORTED: EventType.UPLOAD_ABORTED,
    S.EXPIRED: EventType.UPLOAD_EXPIRED,
    S.FAILED: EventType.UPLOAD_FAILED,
}
FROZEN = (
    *("id", "owner", "file_id", "filename", "content_type", "plan", "strategy", "metadata", "fingerprint", "checksum"),
    *("reserved_bytes", "created_at"),
)
INSTALLATION_MARKER = ".installation"

# The design's own figures, said once more: what the core computes from its configuration is held against them.
ORPHAN_AGE = timedelta(days=1, minutes=15)
RECHECK_AFTER = timedelta(hours=1, minutes=15)
GIVE_UP_AFTER = timedelta(hours=24)
IDEMPOTENCY_KEPT = timedelta(hours=24)


@dataclass
class _Looks:
    """What an operation has seen of one key since it last changed anything there."""

    no_multipart: bool = False
    no_object: bool = False


class Reference:
    """The plain model.

    Args:
        clock: Everybody's.
        lists_completed: The store goes on listing the parts of what it has assembled.

    Attributes:
        violations: What was found to be against the rules, first to last.
        position: Counts effects and commits.
        parts: The bodies of the parts of every multipart upload in progress, by storage upload id.
        objects: The bytes of every object, by key.
        lives: Every upload, by id.
        files: Every file, by id; `file_histories` says how it came to be so.
        events: Every event written, in order.
        ever_dead: Ids of those that have been dead letters.
    """

    def __init__(self, clock: ManualClock, *, lists_completed: bool = False) -> None:
        self._clock = clock
        self._lists_completed = lists_completed
        self.violations: list[str] = []
        self.position = 0
        self.parts: dict[str, dict[int, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.lives: dict[str, Life] = {}
        self.files: dict[str, File] = {}
        self.file_histories: dict[str, FileHistory] = defaultdict(FileHistory)
        self.events: list[Event] = []
        self.idempotency: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        self.ever_dead: set[str] = set()
        self._by_key: dict[str, Life] = {}
        self._assembled: dict[str, tuple[dict[int, bytes], Sequence[int]]] = {}
        self._made: dict[str, tuple[str, datetime, Operation | None]] = {}
        self._looks: dict[tuple[Operation, str], _Looks] = defaultdict(_Looks)
        self._written: dict[str, Event] = {}
        self._idempotency_at: dict[tuple[str, str], tuple[str, datetime]] = {}

    def broken(self, rule: int, what: str) -> None:
        """Note a violated rule of docs/concepts.md."""
        self.violations.append(f"rule {rule}: {what}")

    # --- the store ------------------------------------------------------------------------------------------------

    def store_called(self, operation: Operation, name: str, address: Address | None) -> None:
        """Before a call, whether or not it takes effect: may this caller make it, now?"""
        if operation.kind.startswith("foreign"):
            self.broken(13, f"{operation.kind} called {name} at the store")
        if address is None or address.key.endswith(INSTALLATION_MARKER):
            return
        life = self._by_key.get(address.key)
        if life is None:
            self.broken(2, f"{name} on a key that no row knows")
            return
        named = address.storage_upload_id
        counts = name == "list_parts" and operation.kind == "sweep"  # what it is about to abort
        is_for_its_parts = name in {"list_parts", "complete_multipart", "presign_parts"}
        if is_for_its_parts and named not in life.storage_ids and not counts:
            self.broken(1, f"{name} on a storage upload id that was never in the row of {life.now.id}")
        if name == "abort_multipart" and named in self.parts and not self._may_abort(operation, life, named):
            self.broken(2, f"{operation.kind} aborts a multipart upload of {life.now.id}, which is {life.now.state}")
        if name == "delete" and not self._may_delete(life):
            self.broken(9, f"{operation.kind} deletes the object of {life.now.id}, which is {life.now.state}")

    def _may_abort(self, operation: Operation, life: Life, named: str) -> bool:
        row, now = life.now, self._clock.now()
        _, made_at, made_by = self._made[named]
        if row.state is S.ABORTING or row.is_terminal:
            return True
        if row.address.storage_upload_id == named:
            if row.state is not S.COMPLETING or row.fenced_at is None or row.called_at is None:
                return False
            return row.called_at >= row.fenced_at + GIVE_UP_AFTER  # it was given a last chance
        return made_by is operation or (row.state is not S.PENDING and made_at + ORPHAN_AGE < now)

    def _may_delete(self, life: Life) -> bool:
        row = life.now
        if row.state is S.COMPLETED:
            file = self.files[row.file_id]
            return file.upload_id != row.id or file.status in {FileStatus.DELETING, FileStatus.DELETED}
        return row.state is S.ABORTING or row.is_terminal

    def created(self, operation: Operation | None, address: Address, storage_upload_id: str) -> None:
        """The store has begun a multipart upload."""
        self.parts[storage_upload_id] = {}
        self._made[storage_upload_id] = (address.key, self._clock.now(), operation)

    def assembled(self, address: Address, numbers: Sequence[int]) -> None:
        """The store has answered a completion with success; the first time, it has assembled."""
        parts = self.parts.pop(address.storage_upload_id or "", None)
        if parts is None:
            return
        life = self._by_key[address.key]
        named = {number: len(parts[number]) for number in numbers}
        if not is_whole(life.first, named):
            self.broken(5, f"parts {named} of {life.now.id} were assembled: not a whole blob")
        self.objects[address.key] = body = b"".join(parts[number] for number in numbers)
        self._assembled[address.storage_upload_id or ""] = parts, numbers
        life.stood = [body]
        self._note(life)

    def aborted(self, operation: Operation | None, address: Address) -> None:
        """The store has dropped a multipart upload."""
        self.parts.pop(address.storage_upload_id or "", None)
        self._changed(operation, address)

    def deleted(self, operation: Operation | None, address: Address) -> None:
        """The store has deleted an object."""
        self.objects.pop(address.key, None)
        self._changed(operation, address)

    def stored_part(self, storage_upload_id: str, number: int, body: bytes) -> None:
        """The store has accepted a part; of an upload that it has assembled, perhaps."""
        if storage_upload_id in self.parts:
            self.parts[storage_upload_id][number] = body
        else:
            parts, numbers = self._assembled[storage_upload_id]
            parts[number] = body
            key = self._made[storage_upload_id][0]
            if key in self.objects:
                self.objects[key] = late = b"".join(parts[named] for named in numbers)
                if late != self._by_key[key].stood[-1]:
                    self._by_key[key].stood.append(late)
        self._note(self._by_key[self._made[storage_upload_id][0]])

    def stored_object(self, key: str, body: bytes) -> None:
        """The store has accepted a single PUT."""
        self.objects[key] = body
        self._note(self._by_key[key])

    def lost(self, life: Life) -> None:
        """The store has forgotten the upload's multipart upload."""
        self.parts.pop(life.now.address.storage_upload_id or "", None)
        self._note(life)

    def looked_for_multiparts(self, operation: Operation, prefix: str, found: Iterable[OpenMultipart]) -> None:
        """An operation was told what multipart uploads there are."""
        self._looks[operation, prefix].no_multipart = not any(multipart.key == prefix for multipart in found)

    def looked_for_object(self, operation: Operation, address: Address, found: StoredObject | None) -> None:
        """An operation was told whether an object stands."""
        self._looks[operation, address.key].no_object = found is None

    def _changed(self, operation: Operation | None, address: Address) -> None:
        life = self._by_key.get(address.key)
        if operation is not None:
            self._looks.pop((operation, address.key), None)
        if life is not None:
            self._note(life)

    def _note(self, life: Life) -> None:
        self.position += 1
        row, key = life.now, life.now.address.key
        parts: Mapping[int, int] | None
        if row.strategy is Strategy.SINGLE:
            parts = {1: len(self.objects[key])} if key in self.objects else {}
        elif row.address.storage_upload_id in self.parts:
            parts = {number: len(body) for number, body in self.parts[row.address.storage_upload_id].items()}
        elif key in self.objects:
            left, _ = self._assembled.get(row.address.storage_upload_id or "", ({}, ()))
            parts = {number: len(body) for number, body in left.items()} if left and self._lists_completed else None
        else:
            parts = {}
        life.timeline.append(Snapshot(self.position, self._clock.now(), row.state, parts))

    # --- the database ---------------------------------------------------------------------------------------------

    def committed(self, operation: Operation, database: MemoryDatabase) -> None:
        """A transaction was committed: compare all there is with what there was."""
        self.position += 1
        uploads, files = database.uploads, database.files
        expected: list[tuple[EventType, str]] = []
        before = dict(self.files)
        self.files = files
        for upload_id, upload in uploads.items():
            life = self.lives.get(upload_id)
            if life is None:
                self._added(operation, upload)
            elif life.now is not upload:
                expected += self._saved(operation, life, upload)
        if self.lives.keys() - uploads.keys():
            self.broken(2, "a row is gone")
        for file_id, file in files.items():
            if before.get(file_id) is not file:
                self.file_histories[file_id].timeline.append((self._clock.now(), file))
                expected += self._file_saved(operation, before.get(file_id), file)
        self._check_events(expected, database)
        dead = database._tables.deliveries.items()
        self.ever_dead |= {event_id for (_, event_id), waiting in dead if waiting.dead_at is not None}
        self._check_quotas(database)
        self._check_idempotency(database)

    def _added(self, operation: Operation, upload: Upload) -> None:
        life = Life(upload, upload, holder=operation)
        self.lives[upload.id] = self._by_key[upload.address.key] = life
        opened = upload.state is S.UPLOADING and upload.strategy is Strategy.SINGLE
        if not (upload.state is S.PENDING or opened):
            self.broken(2, f"{upload.id} was born {upload.state}")
        self._note(life)

    def _saved(self, operation: Operation, life: Life, new: Upload) -> list[tuple[EventType, str]]:
        old, name = life.now, new.id
        if new.version != old.version + 1:
            self.broken(6, f"{name} went from version {old.version} to {new.version}")
        frozen = [attribute for attribute in FROZEN if getattr(new, attribute) != getattr(life.first, attribute)]
        if frozen or new.address.key != old.address.key or new.address.bucket != old.address.bucket:
            self.broken(3, f"{name}: {frozen or 'address'} changed")
        if old.is_terminal and new.state is not old.state:
            self.broken(6, f"{name} was {old.state} and became {new.state}")
        elif (old.state, new.state) not in UPLOAD_EDGES:
            self.broken(6, f"{name} went from {old.state} to {new.state}")
        self._check_lease(operation, life, new)
        self._check_conditions(old, new)
        reopened = self._check_storage_id(life, new)
        life.now = new
        life.holder = operation
        if new.state is not old.state and new.is_terminal:
            self._ended(operation, life, old)
        self._note(life)
        if reopened:
            return [(EventType.UPLOAD_REOPENED, name)]
        return [(TERMINAL_EVENTS[new.state], name)] if new.is_terminal and new.state is not old.state else []

    def _check_lease(self, operation: Operation, life: Life, new: Upload) -> None:
        old = life.now
        guarded = old.state in {S.COMPLETING, S.ABORTING} or (old.state is S.PENDING and new.state is not S.ABORTING)
        held = old.lease_until is not None and old.lease_until > self._clock.now()
        if guarded and held and life.holder is not operation:
            self.broken(6, f"{operation.kind} saved {new.id}, {old.state}, under another's lease")

    def _check_conditions(self, old: Upload, new: Upload) -> None:
        now, name = self._clock.now(), new.id
        assert old.expires_at is not None, "set by add"
        assert new.expires_at is not None, "never cleared"
        if new.expires_at != old.expires_at and max(old.expires_at, new.expires_at) > now:
            self.broken(3, f"{name}: its deadline was moved from {old.expires_at} to {new.expires_at}")
        if old.state is S.ABORTING and new.reason is not old.reason:
            self.broken(6, f"{name} was closed because {old.reason}, then because {new.reason}")
        if new.state is old.state:
            return
        if new.state is S.COMPLETING and now >= new.expires_at and not self._stands_whole(new):
            self.broken(6, f"{name} was fenced after its deadline")
        if new.state is S.ABORTING:
            reason = new.reason
            if reason is Reason.EXPIRED and now < new.expires_at:
                self.broken(6, f"{name} expired before its deadline")
            if reason is Reason.GAVE_UP and not (old.fenced_at is not None and old.fenced_at + GIVE_UP_AFTER <= now):
                self.broken(6, f"{name} was given up early")
            if reason is Reason.FILE_DELETED and self.files[new.file_id].status not in {
                FileStatus.DELETING,
                FileStatus.DELETED,
            }:
                self.broken(6, f"{name} was closed for its file's deletion, and that is not deleted")

    def _stands_whole(self, new: Upload) -> bool:
        """Whether the store has assembled it: a completion that was fenced in time has taken effect late, and counts."""
        body = self.objects.get(new.address.key)
        is_assembled = new.strategy is Strategy.MULTIPART and body is not None
        return is_assembled and new.expected is not None and len(body or b"") == new.expected.size

    def _check_storage_id(self, life: Life, new: Upload) -> bool:
        """Whether this save reopened it, and rightly."""
        old, key = life.now, new.address.key
        before, after = old.address.storage_upload_id, new.address.storage_upload_id
        if after is not None:
            life.storage_ids.add(after)
            if self._made.get(after, ("",))[0] != key:
                self.broken(1, f"{new.id} has a storage upload id that was not made for its key")
        single = new.strategy is Strategy.SINGLE and (old.state, new.state) == (S.COMPLETING, S.UPLOADING)
        if not single and (before == after or before is None):
            return False
        if before in self.parts or key in self.objects:
            self.broken(6, f"{new.id} was reopened, and the store has not lost it")
        return True

    def _ended(self, operation: Operation, life: Life, old: Upload) -> None:
        new, key, name = life.now, life.now.address.key, life.now.id
        file = self.files[new.file_id]
        if new.state is S.COMPLETED:
            body = self.objects.get(key)
            if body is None or new.expected is None or len(body) != new.expected.size:
                self.broken(5, f"{name} was completed over {'nothing' if body is None else f'{len(body)} bytes'}")
            life.content = body
            if file.status is not FileStatus.AVAILABLE or file.upload_id != name:
                self.broken(9, f"{name} was completed, and its file was not made available with it")
            return
        looks = self._looks[operation, key]
        if not (looks.no_multipart and looks.no_object):
            self.broken(10, f"{name} was closed as {new.state} by {operation.kind} without looking whether it is clean")
        if new.recheck_at is None or new.recheck_at < self._clock.now() + RECHECK_AFTER:
            self.broken(10, f"{name} was closed, and nobody will look again when its last URL has run out")
        if file.upload_id == name and file.status is FileStatus.UPLOADING:
            self.broken(9, f"{name} was closed as {new.state}, and its file is still said to be uploading")

    def _file_saved(self, operation: Operation, old: File | None, new: File) -> list[tuple[EventType, str]]:
        life = self.lives[new.upload_id]
        if (new.address.bucket, new.address.key) != (life.first.address.bucket, life.first.address.key):
            self.broken(1, f"file {new.id} lies elsewhere than its upload {new.upload_id}")
        if old is not None and (old.status, new.status) == (FileStatus.AVAILABLE, FileStatus.FAILED):
            return self._damaged(life, new)
        if old is None:
            if new.status is not FileStatus.UPLOADING or life.first.file_id != new.id:
                self.broken(2, f"file {new.id} was born {new.status}")
            return []
        edges = FILE_EDGES | DAMAGED_EDGES if life.now.state is S.COMPLETED else FILE_EDGES
        if (old.status, new.status) not in edges or new.version != old.version + 1:
            self.broken(9, f"file {new.id} went from {old.status} to {new.status}")
        if new.status is FileStatus.AVAILABLE and (
            life.now.state is not S.COMPLETED or life.content is None or new.size != len(life.content)
        ):
            self.broken(9, f"file {new.id} is available, and its upload is {life.now.state}")
        is_failing = (
            new.status is FileStatus.FAILED is not old.status
        )  # one that was found damaged may be changed still
        if is_failing and life.now.state not in {S.ABORTED, S.EXPIRED, S.FAILED}:
            self.broken(9, f"file {new.id} has failed, and its upload is {life.now.state}")
        if new.status is FileStatus.DELETED:
            looks = self._looks[operation, life.now.address.key]
            if not (looks.no_multipart and looks.no_object):
                self.broken(10, f"file {new.id} was deleted by {operation.kind} without looking whether it is clean")
            return [(EventType.FILE_DELETED, new.upload_id)]
        return []

    def _damaged(self, life: Life, new: File) -> list[tuple[EventType, str]]:
        """A file has failed that was available: its content is another than was assembled."""
        stands = self.objects.get(life.now.address.key)
        if life.now.state is not S.COMPLETED or not life.is_altered or stands == life.stood[0]:
            self.broken(9, f"file {new.id} is said to be damaged, and is not")
        return [(EventType.FILE_DAMAGED, new.upload_id)]

    def _check_events(self, expected: list[tuple[EventType, str]], database: MemoryDatabase) -> None:
        written = []
        for event in database.events:
            known = self._written.get(event.id)
            if known is None:
                self._written[event.id] = event
                self.events.append(event)
                written.append((event.type, event.upload_id))
                self._check_secrets(str(dict(event.data)))
            elif known != replace(event, position=None):  # which it is given later
                self.broken(8, f"event {event.id} has changed")
        if sorted(written) != sorted(expected):
            self.broken(8, f"the changes tell of {expected}, the events written with them of {written}")

    def _check_quotas(self, database: MemoryDatabase) -> None:
        charged: dict[str, tuple[int, int]] = {}
        for life in self.lives.values():
            if not life.now.is_terminal:
                uploads, size = charged.get(life.now.owner, (0, 0))
                charged[life.now.owner] = (uploads + 1, size + life.now.reserved_bytes)
        for owner in {life.now.owner for life in self.lives.values()}:
            if database.open_quota(owner) != charged.get(owner, (0, 0)):
                self.broken(9, f"{owner} is charged {database.open_quota(owner)} for {charged.get(owner, (0, 0))}")

    def _check_idempotency(self, database: MemoryDatabase) -> None:
        now = self._clock.now()
        standing = {key: (record.upload_id, at) for key, (record, at) in database._tables.idempotency.items()}
        for key, (upload_id, at) in self._idempotency_at.items():
            if standing.get(key) != (upload_id, at) and at > now - IDEMPOTENCY_KEPT:
                self.broken(7, f"idempotency key {key} was forgotten after {now - at}")
        for key, (upload_id, at) in standing.items():
            if self._idempotency_at.get(key) != (upload_id, at):
                self.idempotency[key].append((self.position, upload_id))
        self._idempotency_at = standing

    # --- secrets --------------------------------------------------------------------------------------------------

    def kept(self, text: str) -> None:
        """Something was put into the cache."""
        self._check_secrets(text)

    def _check_secrets(self, text: str) -> None:
        if "token=" in text or "memory://" in text:
            self.broken(14, "a signed URL was kept")

    # --- what the machine asks ------------------------------------------------------------------------------------

    def check_contents(self) -> None:
        """A file that is available has the bytes that were assembled for it, always; but for what is sent late, until somebody looks again."""
        for file in self.files.values():
            if file.status is FileStatus.AVAILABLE:
                life = self.lives[file.upload_id]
                stands = self.objects.get(life.now.address.key)
                if life.content is None or (stands != life.content and (stands is None or not life.is_altered)):
                    self.broken(9, f"file {file.id} is available and its content is not what was completed")

    def check_deliveries(self, delivered: Sequence[Event]) -> None:
        """Nothing is announced that is not true, and nothing out of order."""
        order: dict[str, list[str]] = defaultdict(list)
        for event in delivered:
            if self._written.get(event.id) != replace(event, position=None):
                self.broken(8, f"event {event.id} was delivered, and never written so")
            if event.id not in order[event.upload_id]:
                order[event.upload_id].append(event.id)
        for upload_id, ids in order.items():
            # A dead letter holds back nobody, and may be replayed.
            delivered_in_turn = [event_id for event_id in ids if event_id not in self.ever_dead]
            written = [event.id for event in self.events if event.upload_id == upload_id]
            if delivered_in_turn != [each for each in written if each not in self.ever_dead][: len(delivered_in_turn)]:
                self.broken(8, f"the events of {upload_id} were delivered out of order: {ids}")
