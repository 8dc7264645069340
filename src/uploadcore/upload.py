"""The upload: one attempt to bring one blob into the store.

`Upload` is immutable. Each verb looks its input up in the table of `states` and returns a `Transition`: the next upload, what
must hold for it to be saved, the timers to set, and the events to write in the same transaction. Nothing here does I/O and nothing
here reads a clock: timers are set and compared by the database, inside the statement that saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from uploadcore.address import Address
from uploadcore.events import Event, EventType
from uploadcore.file import Checksum
from uploadcore.plan import PartPlan
from uploadcore.states import TERMINAL_STATES, UploadInput, UploadState, next_upload_state

__all__ = ["Address", "Condition", "Expected", "Lease", "Reason", "Strategy", "Timer", "Transition", "Upload"]


class Strategy(StrEnum):
    """How the bytes get into the store."""

    SINGLE = "single"
    """One PUT that can't overwrite."""
    MULTIPART = "multipart"


class Reason(StrEnum):
    """Why an upload ended without a file."""

    ABORTED = "aborted"
    EXPIRED = "expired"
    OPENING_REFUSED = "opening_refused"
    INTEGRITY_FAILED = "integrity_failed"
    FILE_DELETED = "file_deleted"
    GAVE_UP = "gave_up"


class Timer(StrEnum):
    """The moments an upload records. Each is the name of an `Upload` attribute; the database's clock sets and compares them."""

    LEASE = "lease_until"
    DEADLINE = "expires_at"
    FENCED = "fenced_at"
    CALLED = "called_at"
    LOST = "lost_at"
    RECHECK = "recheck_at"


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a timer at the moment a transition is saved, by the database's clock.

    `passed`: `timer + margin <= now`; otherwise `timer + margin > now`. A timer that is not set satisfies neither.
    """

    timer: Timer
    passed: bool
    margin: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one process to act alone for a while.

    Attributes:
        owner: Its instance: `UploadCore.instance`.
        duration: From the moment it is saved, by the database's clock.
    """

    owner: str
    duration: timedelta


@dataclass(frozen=True, slots=True)
class Expected:
    """What the object must look like once assembled; stored by the fence.

    Attributes:
        part_count: Parts to assemble.
        size: Bytes of the object.
        checksum: Of the object, if one was declared.
        parts_digest: `plan.digest_of` the parts to assemble, where the store lets URLs change them later and a listing told them; else `None`.
    """

    part_count: int
    size: int
    checksum: Checksum | None = None
    parts_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload, as the database has it.

    Attributes:
        version: Counts the saves. A transition is saved only if the version it started from still stands, and who held the lease then.
        lease_owner: The instance that holds the lease until `lease_until`; `None` if nobody does. Set with it.
        reserved_bytes: What the owner's quota is charged with until the upload ends.
        expires_at, lease_until, fenced_at, called_at, lost_at, recheck_at: see `Timer`. Set by the database. `called_at` is when the store was
            last told to assemble, where the fence's own call did not settle it; one from before the fence means nothing.
    """

    id: str
    owner: str
    file_id: str
    filename: str
    content_type: str
    plan: PartPlan
    strategy: Strategy
    address: Address = field(repr=False)
    state: UploadState = UploadState.PENDING
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fingerprint: str | None = None
    checksum: Checksum | None = None
    expected: Expected | None = None
    reason: Reason | None = None
    reserved_bytes: int = 0
    version: int = 0
    created_at: datetime | None = None
    expires_at: datetime | None = None
    lease_until: datetime | None = None
    lease_owner: str | None = None
    fenced_at: datetime | None = None
    called_at: datetime | None = None
    lost_at: datetime | None = None
    recheck_at: datetime | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the whole; `None` while it is not known."""
        return self.plan.size if self.expected is None else self.expected.size

    @property
    def is_terminal(self) -> bool:
        """Nothing will change this state any more."""
        return self.state in TERMINAL_STATES

    @property
    def last_called_at(self) -> datetime:
        """When the store was last told to assemble it. Of one that was fenced."""
        last = self.fenced_at if self._was_called_before_the_fence else self.called_at
        assert last is not None, "set by the fence"
        return last

    @property
    def _was_called_before_the_fence(self) -> bool:
        """Or never."""
        return self.called_at is None or (self.fenced_at is not None and self.called_at < self.fenced_at)

    def called_after(self, age: timedelta) -> bool:
        """Whether the store was told to assemble it so long after the fence, or later."""
        assert self.fenced_at is not None, "set by the fence"
        return self.last_called_at >= self.fenced_at + age

    @property
    def was_found(self) -> bool:
        """Whether its object stood already when it was fenced: see `found_assembled`, which alone fences after the deadline."""
        return self.fenced_at is not None and self.expires_at is not None and self.fenced_at >= self.expires_at

    def opened(self, storage_upload_id: str | None) -> Transition:
        """The store has a multipart upload for it, or none is needed."""
        address = replace(self.address, storage_upload_id=storage_upload_id)
        return self._step(UploadInput.OPENED, address=address).clearing(Timer.LEASE)

    def opening_refused(self, lease: Lease) -> Transition:
        """The store definitely refused to open it."""
        return self._closing(UploadInput.OPENING_REFUSED, Reason.OPENING_REFUSED, lease)

    def fenced(self, expected: Expected, lease: Lease) -> Transition:
        """One caller goes on to complete it. The one place where the deadline counts against a completion."""
        return (
            self._step(UploadInput.FENCED, expected=expected)
            .leasing(lease)
            .setting(Timer.FENCED, timedelta(0))
            .clearing(Timer.LOST)
            .only_if(Condition(Timer.DEADLINE, passed=False))
        )

    def found_assembled(self, expected: Expected, lease: Lease) -> Transition:
        """Its object stands already: completed in a past that this database, restored from an older copy, does not know. However late that is."""
        return (
            self._step(UploadInput.FENCED, expected=expected)
            .leasing(lease)
            .setting(Timer.FENCED, timedelta(0))
            .clearing(Timer.LOST)
            .only_if(Condition(Timer.DEADLINE, passed=True))
        )

    def lease_renewed(self, lease: Lease) -> Transition:
        """Its holder goes on. Saved only if nobody took over: that would have changed version and holder."""
        return self._step(UploadInput.LEASE_TAKEN).leasing(lease)

    def completed_again(self, expected: Expected, lease: Lease, *, after: timedelta) -> Transition:
        """Who took over tells the store once more, of what it lists now: some parts may have been sent again. Not before `after` the last call."""
        last = Timer.FENCED if self._was_called_before_the_fence else Timer.CALLED
        return (
            self._step(UploadInput.LEASE_TAKEN, expected=expected)
            .leasing(lease)
            .setting(Timer.CALLED, timedelta(0))
            .only_if(Condition(last, passed=True, margin=after))
        )

    def lease_taken_over(self, lease: Lease) -> Transition:
        """Another goes on where a holder let the lease run out."""
        return self.lease_renewed(lease).only_if(Condition(Timer.LEASE, passed=True))

    def lease_given_up(self) -> Transition:
        """Its holder stops here; anybody may take over at once."""
        return self._step(UploadInput.LEASE_TAKEN).setting(Timer.LEASE, timedelta(0))

    def seen_lost(self) -> Transition:
        """While completing: the store shows neither upload nor object. Counts only when seen again later."""
        return self.lease_given_up().setting(Timer.LOST, timedelta(0))

    def seen_known(self) -> Transition:
        """While completing: the store knows the upload, whatever it said before; it could not be settled now."""
        return self.lease_given_up().clearing(Timer.LOST)

    def reopened(self, storage_upload_id: str | None, *, confirmed_after: timedelta) -> Transition:
        """The store lost it: it starts again under a new storage upload id, all parts missing."""
        address = replace(self.address, storage_upload_id=storage_upload_id)
        transition = self._step(UploadInput.LOST, address=address, expected=None).clearing(
            Timer.LEASE, Timer.FENCED, Timer.CALLED, Timer.LOST
        )
        if self.state is UploadState.COMPLETING:
            transition = transition.only_if(Condition(Timer.LOST, passed=True, margin=confirmed_after))
        return transition.announcing(EventType.UPLOAD_REOPENED)

    def assembled(self, *, recheck_after: timedelta | None = None) -> Transition:
        """The object stands, whole. `recheck_after`: look once more then, where URLs that were given out may still change it."""
        transition = self._step(UploadInput.ASSEMBLED).clearing(Timer.LEASE, Timer.LOST)
        if recheck_after is not None:
            transition = transition.setting(Timer.RECHECK, recheck_after)
        return transition.announcing(EventType.UPLOAD_COMPLETED)

    def assembly_rejected(self) -> Transition:
        """The store refused the parts: back to uploading, nothing lost."""
        return self._step(UploadInput.ASSEMBLY_REJECTED, expected=None).clearing(
            Timer.LEASE, Timer.FENCED, Timer.CALLED, Timer.LOST
        )

    def integrity_failed(self, lease: Lease, reason: Reason = Reason.INTEGRITY_FAILED) -> Transition:
        """What stands under the key is not what was to be assembled, or nobody may have it any more."""
        return self._closing(UploadInput.INTEGRITY_FAILED, reason, lease)

    def gave_up(self, lease: Lease, *, after: timedelta) -> Transition:
        """Nothing could be settled since the fence, `after` ago or more."""
        transition = self._closing(UploadInput.GAVE_UP, Reason.GAVE_UP, lease)
        return transition.only_if(Condition(Timer.FENCED, passed=True, margin=after))

    def abort_requested(self, lease: Lease) -> Transition:
        """Its owner wants no more of it. Where it is closing already, the first reason stands."""
        return self._closing(UploadInput.ABORT_REQUESTED, Reason.ABORTED, lease)

    def deadline_passed(self, lease: Lease) -> Transition:
        """Its time is over."""
        transition = self._closing(UploadInput.DEADLINE_PASSED, Reason.EXPIRED, lease)
        return transition.only_if(Condition(Timer.DEADLINE, passed=True))

    def put_off(self) -> Transition:
        """No change of state: its time is over and nothing could be done, so it goes behind all else that is due.

        A deadline that has passed is set to the moment of the save, and has passed still: whatever is decided by it is decided as before.
        """
        return Transition(self).setting(Timer.DEADLINE, timedelta(0)).only_if(Condition(Timer.DEADLINE, passed=True))

    def cleaned(self, *, recheck_after: timedelta) -> Transition:
        """The store holds nothing of it any more."""
        happened, event = {
            Reason.ABORTED: (UploadInput.CLEANED_AFTER_ABORT, EventType.UPLOAD_ABORTED),
            Reason.EXPIRED: (UploadInput.CLEANED_AFTER_EXPIRY, EventType.UPLOAD_EXPIRED),
        }.get(self.reason or Reason.GAVE_UP, (UploadInput.CLEANED_AFTER_FAILURE, EventType.UPLOAD_FAILED))
        return self._step(happened).clearing(Timer.LEASE).setting(Timer.RECHECK, recheck_after).announcing(event)

    def recheck(self, after: timedelta | None) -> Transition:
        """No change of state: when to look at the store once more for what landed late; `None` for never again."""
        transition = Transition(self)
        return transition.clearing(Timer.RECHECK) if after is None else transition.setting(Timer.RECHECK, after)

    def _closing(self, happened: UploadInput, reason: Reason, lease: Lease) -> Transition:
        if self.state is UploadState.ABORTING:
            return self._step(happened)
        return self._step(happened, reason=reason).leasing(lease)

    def _step(self, happened: UploadInput, **changes: Any) -> Transition:
        state = next_upload_state(self.state, happened)
        return Transition(replace(self, state=state, **changes), is_move=state is not self.state)


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of one upload, for `Transaction.uploads.save` to carry out in one statement.

    Attributes:
        upload: The next upload; its `version`, timers and `lease_owner` are still those that were read.
        timers: Timers to set to the database's now plus this much, or to clear (`None`). Others stay as they are.
        lease_owner: Who holds the lease from then on, where `Timer.LEASE` is among the timers.
        conditions: What must hold at that moment, besides version and lease owner being the ones that were read.
        events: To be written in the same transaction.
        is_move: Whether the upload comes into another state by it.
    """

    upload: Upload
    timers: Mapping[Timer, timedelta | None] = field(default_factory=lambda: MappingProxyType({}))
    lease_owner: str | None = None
    conditions: tuple[Condition, ...] = ()
    events: tuple[Event, ...] = ()
    is_move: bool = False

    def setting(self, timer: Timer, after: timedelta) -> Transition:
        """The same, with a timer set to now + `after`."""
        return replace(self, timers={**self.timers, timer: after})

    def leasing(self, lease: Lease) -> Transition:
        """The same, with the lease given to somebody from now on."""
        return replace(self.setting(Timer.LEASE, lease.duration), lease_owner=lease.owner)

    def clearing(self, *timers: Timer) -> Transition:
        """The same, with timers cleared."""
        return replace(self, timers={**self.timers, **dict.fromkeys(timers)})

    def only_if(self, condition: Condition) -> Transition:
        """The same, under one more condition."""
        return replace(self, conditions=(*self.conditions, condition))

    def announcing(self, kind: EventType) -> Transition:
        """The same, with an event whose id is derived from the upload, its next version, and what happened.

        The version alone would not do: in a database restored from an older copy it comes again, and something else may happen then.
        """
        upload = self.upload
        data = {"state": str(upload.state), "filename": upload.filename, "content_type": upload.content_type}
        if upload.size is not None:
            data["size"] = str(upload.size)
        if upload.reason is not None:
            data["reason"] = str(upload.reason)
        event = Event(
            type=kind,
            owner=upload.owner,
            upload_id=upload.id,
            file_id=upload.file_id,
            id=f"{upload.id}-{upload.version + 1}-{kind.rpartition('.')[2]}",
            data=MappingProxyType(data),
        )
        return replace(self, events=(*self.events, event))
