"""The two state machines, whole: what an upload and a part can be, what can happen to them, and where that leads.

Everything that decides a transition is in the two tables below. A pair that is not in its table is illegal:
`next_upload_state` and `next_part_state` raise `IllegalTransitionError` for it, and nothing has happened.

>>> next_upload_state(UploadState.UPLOADING, UploadInput.FENCED)
<UploadState.COMPLETING: 'completing'>
"""

from __future__ import annotations

from enum import StrEnum

from uploadcore.errors import IllegalTransitionError

__all__ = [
    "PART_TRANSITIONS",
    "TERMINAL_STATES",
    "UPLOAD_TRANSITIONS",
    "PartInput",
    "PartState",
    "UploadInput",
    "UploadState",
    "next_part_state",
    "next_upload_state",
]


class UploadState(StrEnum):
    """What an upload is. The values are the words of the HTTP API and of the database."""

    PENDING = "pending"
    UPLOADING = "uploading"
    COMPLETING = "completing"
    COMPLETED = "completed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"


class UploadInput(StrEnum):
    """What can happen to an upload."""

    OPENED = "opened"
    """The store has a multipart upload for it, or none is needed."""
    OPENING_REFUSED = "opening refused"
    """The store definitely refused to open it."""
    FENCED = "completion fenced"
    """One caller took the right to complete it, with a lease."""
    LOST = "lost"
    """The store knows no such multipart upload, and there is no object either."""
    LEASE_TAKEN = "lease taken"
    """The lease was renewed by its holder, or taken over by another after it had run out."""
    ASSEMBLED = "assembled"
    """The object stands under the key, with the right size and marker."""
    ASSEMBLY_REJECTED = "assembly rejected"
    """The store refused the parts that were named."""
    INTEGRITY_FAILED = "integrity failed"
    """An object stands under the key and is not what was to be assembled, or its file was deleted meanwhile."""
    GAVE_UP = "gave up"
    """Nothing could be settled in 24 hours, nor by two calls after them; the store was made to abort, then looked at."""
    COMPLETION_REQUESTED = "completion requested"
    ABORT_REQUESTED = "abort requested"
    DEADLINE_PASSED = "deadline passed"
    CLEANED_AFTER_ABORT = "cleaned after abort"
    """The store holds nothing of it any more, and it was aborted by its owner."""
    CLEANED_AFTER_EXPIRY = "cleaned after expiry"
    CLEANED_AFTER_FAILURE = "cleaned after failure"


_S, _I = UploadState, UploadInput

UPLOAD_TRANSITIONS: dict[tuple[UploadState, UploadInput], UploadState] = {
    (_S.PENDING, _I.OPENED): _S.UPLOADING,
    (_S.PENDING, _I.OPENING_REFUSED): _S.ABORTING,
    (_S.PENDING, _I.LEASE_TAKEN): _S.PENDING,
    (_S.PENDING, _I.ABORT_REQUESTED): _S.ABORTING,
    (_S.PENDING, _I.DEADLINE_PASSED): _S.ABORTING,
    (_S.UPLOADING, _I.FENCED): _S.COMPLETING,
    (_S.UPLOADING, _I.LOST): _S.UPLOADING,
    (_S.UPLOADING, _I.ABORT_REQUESTED): _S.ABORTING,
    (_S.UPLOADING, _I.DEADLINE_PASSED): _S.ABORTING,
    (_S.COMPLETING, _I.LEASE_TAKEN): _S.COMPLETING,
    (_S.COMPLETING, _I.LOST): _S.UPLOADING,
    (_S.COMPLETING, _I.ASSEMBLED): _S.COMPLETED,
    (_S.COMPLETING, _I.ASSEMBLY_REJECTED): _S.UPLOADING,
    (_S.COMPLETING, _I.INTEGRITY_FAILED): _S.ABORTING,
    (_S.COMPLETING, _I.GAVE_UP): _S.ABORTING,
    (_S.COMPLETED, _I.COMPLETION_REQUESTED): _S.COMPLETED,
    (_S.ABORTING, _I.LEASE_TAKEN): _S.ABORTING,
    (_S.ABORTING, _I.ABORT_REQUESTED): _S.ABORTING,
    (_S.ABORTING, _I.DEADLINE_PASSED): _S.ABORTING,
    (_S.ABORTING, _I.CLEANED_AFTER_ABORT): _S.ABORTED,
    (_S.ABORTING, _I.CLEANED_AFTER_EXPIRY): _S.EXPIRED,
    (_S.ABORTING, _I.CLEANED_AFTER_FAILURE): _S.FAILED,
}
"""`(state, input) -> state`. From `completing`, abort and deadline are not legal: a fenced completion goes forward."""

TERMINAL_STATES = frozenset({_S.COMPLETED, _S.ABORTED, _S.EXPIRED, _S.FAILED})
"""States in which nothing is left to do but answer, and clean up once more after the last URL has run out."""


def next_upload_state(state: UploadState, happened: UploadInput) -> UploadState:
    """Where `happened` leads from `state`.

    Raises:
        IllegalTransitionError: If the table has no such edge.
    """
    try:
        return UPLOAD_TRANSITIONS[state, happened]
    except KeyError:
        raise IllegalTransitionError(f"an upload that is {state} can't take the input {happened!r}") from None


class PartState(StrEnum):
    """What a part is. A client's transfer runs all of it; the server sees only what the store can show."""

    PLANNED = "planned"
    SIGNED = "signed"
    SENDING = "sending"
    UPLOADED = "uploaded"
    VERIFIED = "verified"
    ASSEMBLED = "assembled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class PartInput(StrEnum):
    """What can happen to a part."""

    SIGNED = "signed"
    """A URL was issued for it."""
    SENT = "sent"
    """Its body is on the way."""
    STORED = "stored"
    """The store has it: it said so, or lists it."""
    CHECKED = "checked"
    """Its size, and its checksum where there is one, are the expected ones."""
    MISMATCHED = "mismatched"
    """Its size or checksum is not the expected one, or the store refused the body."""
    URL_EXPIRED = "url expired"
    INTERRUPTED = "interrupted"
    """The transfer stopped half-way; what arrived counts for nothing."""
    GONE = "gone"
    """The store no longer lists it, or it must be planned anew."""
    ASSEMBLED = "assembled"


_P, _J = PartState, PartInput

PART_TRANSITIONS: dict[tuple[PartState, PartInput], PartState] = {
    (_P.PLANNED, _J.SIGNED): _P.SIGNED,
    (_P.PLANNED, _J.STORED): _P.UPLOADED,
    (_P.SIGNED, _J.SENT): _P.SENDING,
    (_P.SIGNED, _J.URL_EXPIRED): _P.EXPIRED,
    (_P.SIGNED, _J.GONE): _P.PLANNED,
    (_P.SENDING, _J.STORED): _P.UPLOADED,
    (_P.SENDING, _J.INTERRUPTED): _P.SIGNED,
    (_P.SENDING, _J.URL_EXPIRED): _P.EXPIRED,
    (_P.SENDING, _J.MISMATCHED): _P.REJECTED,
    (_P.UPLOADED, _J.CHECKED): _P.VERIFIED,
    (_P.UPLOADED, _J.MISMATCHED): _P.REJECTED,
    (_P.UPLOADED, _J.GONE): _P.PLANNED,
    (_P.VERIFIED, _J.ASSEMBLED): _P.ASSEMBLED,
    (_P.VERIFIED, _J.MISMATCHED): _P.REJECTED,
    (_P.VERIFIED, _J.GONE): _P.PLANNED,
    (_P.EXPIRED, _J.GONE): _P.PLANNED,
    (_P.REJECTED, _J.GONE): _P.PLANNED,
}
"""`(state, input) -> state` for a part. `expired` and `rejected` lead back to `planned`."""


def next_part_state(state: PartState, happened: PartInput) -> PartState:
    """Where `happened` leads a part from `state`.

    Raises:
        IllegalTransitionError: If the table has no such edge.
    """
    try:
        return PART_TRANSITIONS[state, happened]
    except KeyError:
        raise IllegalTransitionError(f"a part that is {state} can't take the input {happened!r}") from None
