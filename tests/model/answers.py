"""What callers are told, held against the history: every answer must have been true at some moment between the question and now."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

from tests.model.history import Life, planned
from tests.model.processes import Operation, at_once
from tests.model.reference import Reference
from uploadcore.config import UploadConfig
from uploadcore.errors import (
    ChecksumMismatchError,
    DatabaseUnavailableError,
    FileNotReadyError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NoSuchFileError,
    PartOutOfRangeError,
    PartsMissingError,
    QuotaExceededError,
    StoreUnavailableError,
    TooLargeError,
    UploadBusyError,
    UploadClosedError,
    UploadNotFoundError,
    VersionConflictError,
)
from uploadcore.file import File, FileStatus, FileView
from uploadcore.ports import SignedRequest
from uploadcore.states import TERMINAL_STATES, UploadState
from uploadcore.upload import Reason
from uploadcore.views import Completion, SignedPart, SweepReport, UploadParts, UploadView
from uploadcore_memory import ManualClock, MemoryObjectStore

__all__ = ["Answers"]

S = UploadState
CLOSED = TERMINAL_STATES | {S.ABORTING}
UNAVAILABLE = (StoreUnavailableError, DatabaseUnavailableError)
OLD = timedelta(seconds=7)
"""What signing goes by may be a copy up to 5 s old, filled by a read that took up to 2 s (docs/concepts.md, rule 11)."""

LAST_KNOWN = timedelta(minutes=15)
"""And up to a URL's life where the database has not answered, or not at once: nothing else takes time here."""
DATABASE_CALLS = {"reader", "transaction"}
OLD_FILE = timedelta(seconds=62)
"""The same of a copy of a file, which lives up to 60 s where a change did not reach the cache it is in."""


class Answers:
    """Judges answers; each method takes an operation that has ended."""

    def __init__(self, reference: Reference, clock: ManualClock, config: UploadConfig) -> None:
        self._reference = reference
        self._clock = clock
        self._config = config
        self._completions: dict[str, UploadView] = {}
        self._told: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def initiated(
        self, operation: Operation, owner: str, size: int | None, key: str | None
    ) -> tuple[str, tuple[SignedPart, ...]] | None:
        """The upload's id and its signed parts."""
        allowed: list[type[Exception]] = [QuotaExceededError, FileNotReadyError, UploadClosedError, UploadBusyError]
        if key is not None:
            allowed.append(IdempotencyMismatchError)
        if operation.kind.startswith("foreign"):
            allowed.append(NoSuchFileError)
        view = self._result(operation, None, *allowed)
        if not isinstance(view, UploadView):
            return None
        life = self._reference.lives.get(view.id)
        if life is None:
            self._reference.broken(2, "an upload was handed out that no row knows")
            return None
        if view.state not in life.states_since(operation.started) or life.now.owner != owner:
            self._reference.broken(6, f"initiate answered that {view.id} is {view.state}")
        if key is not None:
            given = self._reference.idempotency[owner, key]
            standing = {upload_id for position, upload_id in given if position > operation.started}
            standing |= {upload_id for _, upload_id in [pair for pair in given if pair[0] <= operation.started][-1:]}
            if view.id not in standing:
                self._reference.broken(7, f"key {key} of {owner} stands for {standing}, and {view.id} was answered")
        if life.first.plan.size != size:
            self._reference.broken(3, f"{view.id} was to have {size} bytes")
        return view.id, view.parts

    def signed(self, operation: Operation, life: Life, numbers: list[int]) -> tuple[str, tuple[SignedPart, ...]] | None:
        """The upload's id and its signed parts."""
        allowed: list[type[Exception]] = [UploadBusyError, UploadClosedError, PartOutOfRangeError]
        if len(set(numbers)) != len(numbers):
            allowed.append(InvalidRequestError)
        parts = self._result(operation, life, *allowed)
        if not isinstance(parts, tuple):
            return None
        old = LAST_KNOWN if self._waited_for_database(operation) else OLD
        if S.UPLOADING not in life.states_since_time(operation.started_at - old):
            self._reference.broken(11, f"{life.now.id} was signed by a copy that is too old")
        now = self._clock.now()
        for part in parts:
            assert life.now.expires_at is not None, "set by add"
            if part.request.expires_at > min(now + self._config.url_lifetime, life.now.expires_at):
                self._reference.broken(10, f"a URL of {life.now.id} outlives it, or lives too long")
            if life.first.plan.size is not None and part.length != planned(life.first).get(part.part_number):
                self._reference.broken(
                    3, f"part {part.part_number} of {life.now.id} was signed with {part.length} bytes"
                )
        return life.now.id, parts

    def listed(self, life: Life, operation: Operation) -> None:
        """The listing must be what the store had."""
        answer = self._result(operation, life, UploadBusyError, UploadClosedError)
        if isinstance(answer, UploadParts):
            sizes = {part.part_number: part.size for part in answer.ledger.parts}
            if answer.upload.state not in life.states_since(operation.started):
                self._reference.broken(6, f"{life.now.id} was listed as {answer.upload.state}")
            if not any(sizes == (snapshot.parts or {}) for snapshot in life.since(operation.started)):
                self._reference.broken(4, f"{sizes} were listed as the parts of {life.now.id}")

    def completed(self, life: Life, said: int | None, operation: Operation) -> None:
        """All who are told that it is completed are told the same, and it is true for ever; nobody who `said` that it has another size."""
        allowed: list[type[Exception]] = [PartsMissingError, UploadBusyError, UploadClosedError]
        if life.first.checksum is not None:
            allowed.append(ChecksumMismatchError)
        if life.first.plan.size is None:
            allowed.append(TooLargeError)
        if said is not None and any(len(body) != said for body in life.stood):
            allowed.append(InvalidRequestError)
        answer = self._result(operation, life, *allowed)
        if not isinstance(answer, Completion):
            return
        name = life.now.id
        if answer.file is None:
            if S.COMPLETING not in life.states_since(operation.started):
                self._reference.broken(6, f"{name} was said to be assembled still")
            return
        first = self._completions.setdefault(name, answer.upload)
        if life.now.state is not S.COMPLETED or answer.upload != first:
            self._reference.broken(
                6, f"{name} was answered as {answer.upload}, before as {first}; it is {life.now.state}"
            )
        if said is not None and answer.upload.size != said:
            self._reference.broken(5, f"{name} was answered as completed with {answer.upload.size} bytes, not {said}")
        if life.content is None or answer.upload.size != len(life.content) or answer.file.id != life.now.file_id:
            self._reference.broken(7, f"{name} was answered with another size or file")

    def aborted(self, life: Life, operation: Operation) -> None:
        """Who is told that it is given up is told so for good."""
        view = self._result(operation, life, UploadBusyError, UploadClosedError)
        if isinstance(view, UploadView) and (view.state not in CLOSED or life.now.state not in CLOSED - {S.COMPLETED}):
            self._reference.broken(6, f"{view.id} was answered as given up ({view.state}), and is {life.now.state}")

    def got(self, life: Life, operation: Operation) -> None:
        """What is read was true."""
        view = self._result(operation, life)
        if isinstance(view, UploadView) and view.state not in life.states_since(operation.started):
            self._reference.broken(6, f"{view.id} was read as {view.state}")

    def deleted(self, life: Life, operation: Operation) -> None:
        """Deleted is deleted."""
        if self._result(operation, None, FileNotReadyError, VersionConflictError) is not None:
            status = self._reference.files[life.now.file_id].status
            if status not in {FileStatus.DELETING, FileStatus.DELETED}:
                self._reference.broken(6, f"file {life.now.file_id} was answered as deleted, and is {status}")

    def edited(self, life: Life, title: str, operation: Operation) -> None:
        """What was said to be changed was changed."""
        view = self._result(operation, None, FileNotReadyError, VersionConflictError)
        if isinstance(view, FileView):
            history = self._reference.file_histories[life.now.file_id].since_time(operation.started_at)
            if not any(FileView.of(file) == view and view.title == title for file in history):
                self._reference.broken(7, f"file {view.id} was answered as changed to {title!r}, and never was that")
            self._tell(operation, view)

    def looked_at(self, life: Life, operation: Operation) -> None:
        """What is read was true, not long ago."""
        view = self._result(operation, None)
        if isinstance(view, FileView) and not any(FileView.of(file) == view for file in self._lately(life, operation)):
            self._reference.broken(
                11, f"file {view.id} was read as version {view.version}, which is too old, or never was"
            )
        if isinstance(view, FileView):
            self._tell(operation, view)

    def _tell(self, operation: Operation, view: FileView) -> None:
        """Whoever has told of a version tells of none before it to who asks afterwards."""
        told = self._told[operation.process.name, view.id]
        newest = max((version for position, version in told if position <= operation.started), default=0)
        if view.version < newest:
            self._reference.broken(
                11, f"{operation.process.name} told of file {view.id} at version {newest}, then at {view.version}"
            )
        told.append((self._reference.position, view.version))

    def flushed(self) -> None:
        """The caches were emptied, and what they knew to be overtaken is forgotten: what was read just before may come back."""
        self._told.clear()

    def downloaded(self, store: MemoryObjectStore, life: Life, operation: Operation) -> None:
        """The bytes are those that were completed, or none any more."""
        signed = self._result(operation, None, FileNotReadyError)
        if not isinstance(signed, SignedRequest):
            return
        contents = [
            self._reference.lives[file.upload_id]
            for file in self._lately(life, operation)
            if file.status is FileStatus.AVAILABLE
        ]
        answer = at_once(store.get(signed))
        if answer.status == 200:
            if answer.body not in {body for content in contents for body in (content.content, *content.stood)}:
                self._reference.broken(9, f"file {life.now.file_id} was downloaded with other bytes")
        elif all(content.now.address.key in self._reference.objects for content in contents):
            self._reference.broken(9, f"file {life.now.file_id} could not be downloaded: {answer.status}")

    def _lately(self, life: Life, operation: Operation) -> list[File]:
        """How its file was when a copy was made that may still be read, and how since."""
        return self._reference.file_histories[life.now.file_id].since_time(operation.started_at - OLD_FILE)

    def not_found(self, operation: Operation) -> None:
        """Nothing but that."""
        answer = self._result(operation, None, UploadNotFoundError, NoSuchFileError)
        if answer is not None:
            self._reference.broken(13, f"a stranger was answered {answer!r}")

    def swept(self, operation: Operation) -> None:
        """A sweep fails only with its ports."""
        report = self._result(operation, None)
        if isinstance(report, SweepReport) and report.failed and not self._faults(operation):
            self._reference.broken(9, "a sweep failed with its ports in order")

    def relayed(self, operation: Operation) -> None:
        """So does a relay."""
        self._result(operation, None)

    def closed(self, operation: Operation) -> None:
        """Closing does not fail."""
        self._result(operation, None)

    # --- errors ---------------------------------------------------------------------------------------------------

    def _result(self, operation: Operation, life: Life | None, *allowed: type[Exception]) -> object:
        """What was answered; `None` for an error, which must be one of those, and true."""
        assert operation.main is not None, "it was started"
        if operation.main.cancelled():
            self._reference.broken(7, f"{operation.kind} was cancelled")
            return None
        error = operation.main.exception()
        if error is None:
            return operation.main.result()
        if isinstance(error, UNAVAILABLE):
            if not self._faults(operation):
                self._reference.broken(7, f"{operation.kind} raised {error!r} with its ports in order")
        elif not isinstance(error, allowed):
            self._reference.broken(7, f"{operation.kind} raised {error!r}")
        elif life is not None:
            self._check_error(operation, life, error)
        return None

    def _check_error(self, operation: Operation, life: Life, error: BaseException) -> None:
        states, name = life.states_since(operation.started), life.now.id
        if isinstance(error, UploadClosedError):
            expired = error.reason is Reason.EXPIRED and life.now.expires_at <= self._clock.now()  # type: ignore[operator]
            if error.state not in states or (error.state not in CLOSED and not expired):
                self._reference.broken(6, f"{operation.kind} of {name} answered {error}, and it was {states}")
        elif isinstance(error, UploadBusyError):
            if not states & {S.PENDING, S.COMPLETING} and len([*life.since(operation.started)]) == 1:
                self._reference.broken(6, f"{operation.kind} of {name} answered {error}, and it was {states}")
        elif isinstance(error, PartsMissingError) and (error.missing or error.mismatched):
            self._check_missing(operation, life, error)

    def _check_missing(self, operation: Operation, life: Life, error: PartsMissingError) -> None:
        missing = {number for first, last in error.missing for number in range(first, last + 1)}
        for snapshot in life.since(operation.started):
            if snapshot.state not in {S.UPLOADING, S.COMPLETING} or snapshot.parts is None:
                continue
            if life.first.plan.size is None:
                return
            plan = planned(life.first)
            wrong = {number for number, size in snapshot.parts.items() if plan.get(number) != size}
            if missing == plan.keys() - snapshot.parts.keys() and set(error.mismatched) == wrong:
                return
        self._reference.broken(7, f"{operation.kind} of {life.now.id} answered {error.missing} missing, never true")

    def _waited_for_database(self, operation: Operation) -> bool:
        """Whether the database did not answer it, or not at once: by a fault of its own, or of one whose question it shared."""
        process = operation.process
        others = [one for one in process.operations if one.fault is not None and (one is operation or not one.ended)]
        asked = any(DATABASE_CALLS.intersection(one.calls[one.fault_at - 1 : one.fault_at]) for one in others)
        return asked or (process.has_frozen and self._clock.now() > operation.started_at)

    @staticmethod
    def _faults(operation: Operation) -> bool:
        """Whether anything has gone wrong in its process."""
        return operation.process.faults > 0
