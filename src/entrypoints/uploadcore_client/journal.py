"""What a transfer leaves behind for the process that takes it up again: which upload it is, and the CRCs of the parts it sent.

A hint, never the truth: what has arrived, the store lists. Without a journal the upload is found by the server's own record, and the
parts' CRCs are computed anew from the file. So a line that was lost costs a reading, and nothing is synced for every part.

One file per transfer: a first line that names it, then one line per event, appended. A last line cut short is ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import platformdirs

from uploadcore.errors import UploadCoreError
from uploadcore.states import PartState
from uploadcore_client.errors import TransferInUseError
from uploadcore_client.locking import is_at, try_lock
from uploadcore_client.source import SourceFile

__all__ = ["Identity", "Journal", "Journals", "Leftover", "state_directory"]

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".journal"


def state_directory() -> Path:
    """Where journals are kept: `UPLOADCORE_STATE_DIR`, else the platform's folder for state that outlives a process."""
    return Path(os.environ.get("UPLOADCORE_STATE_DIR") or platformdirs.user_state_path("uploadcore"))


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one transfer from another.

    Attributes:
        server: Address of the service.
        path: The file, absolute, with symbolic links resolved.
        size: In bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        sample: Hash over samples of its content.
    """

    server: str
    path: str
    size: int
    mtime_ns: int
    sample: str

    @classmethod
    def of(cls, server: str, source: SourceFile) -> Identity:
        """The identity of uploading that file there."""
        return cls(
            server=server,
            path=str(source.path.resolve()),
            size=source.size,
            mtime_ns=source.snapshot.mtime_ns,
            sample=source.sampled_hash(),
        )

    @property
    def filename(self) -> str:
        """Name of the journal's file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:40] + SUFFIX


class Journals:
    """The folder of journals.

    Args:
        directory: Made when it is first needed, for its owner only.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, identity: Identity) -> Journal:
        """The journal of a transfer, with what an earlier process left in it, held against other processes until it is closed.

        Where none can be kept (no room, a read-only home), one that remembers nothing.

        Raises:
            TransferInUseError: Another process holds it.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Journal(self._directory / identity.filename, identity)
        except OSError as exc:
            log.warning("no resume journal can be kept in %s: %s", self._directory, exc.strerror or exc)
            return Journal(None, identity)

    def find(self, upload_id: str | None = None) -> Iterator[Leftover]:
        """What the transfers left behind whose upload is known, newest first; of one upload only, if named."""
        with contextlib.suppress(OSError):
            paths = sorted(self._directory.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in paths:
                left = Leftover.read(path)
                if left is not None and left.upload_id and upload_id in {None, left.upload_id}:
                    yield left

    def drop(self, upload_id: str) -> None:
        """An upload is no more: forget what was left of it, unless a process is at it."""
        for left in list(self.find(upload_id)):
            with contextlib.suppress(UploadCoreError), self.open(left.identity) as journal:
                journal.delete()


@dataclass(slots=True)
class Leftover:
    """What a journal says, its events folded in order.

    Attributes:
        upload_id: The empty string while it was not known.
        states: The last state of each part that was written down.
        crcs: CRC64NVME of the parts that were sent.
    """

    identity: Identity
    idempotency_key: str
    upload_id: str
    states: dict[int, PartState]
    crcs: dict[int, int]

    @classmethod
    def read(cls, path: Path) -> Leftover | None:
        """`None` if there is none, or it is of another format."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            head = json.loads(lines[0])
            if head["format"] != FORMAT:
                return None
            left = cls(Identity(**head["identity"]), head["idempotency_key"], "", {}, {})
        except (OSError, ValueError, LookupError, TypeError):
            return None
        for line in lines[1:]:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                left._fold(json.loads(line))
        return left

    def _fold(self, event: Any) -> None:
        if isinstance(event, dict):
            self.upload_id = str(event["upload"])
            return
        part_number, state, *crc = event
        self.states[int(part_number)] = PartState(state)
        if crc:
            self.crcs[int(part_number)] = int(crc[0], 16)


class Journal:
    """One transfer's journal. Safe for use by several threads.

    Attributes:
        idempotency_key: What the upload is, or is to be, initiated with: kept before it is sent, so that a retry finds the same upload.
        upload_id: The upload, once known.
        states: The last state of each part that an earlier process wrote down.
        crcs: CRC64NVME of the parts it sent.
    """

    def __init__(self, path: Path | None, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._is_written = path is not None
        self.idempotency_key = ""
        self.upload_id: str | None = None
        self.states: dict[int, PartState] = {}
        self.crcs: dict[int, int] = {}
        if path is not None:
            self._descriptor = _held(path, identity)
        try:
            left = None if path is None else Leftover.read(path)
            if left is None or left.identity != identity:
                self.begin_again()
            else:
                self.idempotency_key = left.idempotency_key
                self.upload_id = left.upload_id or None
                self.states, self.crcs = left.states, left.crcs
        except BaseException:
            self.close()
            raise

    def begin_again(self) -> None:
        """Forget everything: the upload it was about is no more. The next is initiated with another key."""
        self.idempotency_key = str(uuid.uuid4())
        self.upload_id = None
        self.states, self.crcs = {}, {}
        head = {"format": FORMAT, "identity": asdict(self._identity), "idempotency_key": self.idempotency_key}
        with self._lock:
            if self._path is None or self._descriptor is None:
                return
            try:
                replacement = _written(self._path, json.dumps(head) + "\n")
            except OSError as exc:
                self._goes_unwritten(exc)
                # What it says is of an upload that is no more. To take that away needs no room.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
            else:
                os.close(self._descriptor)
                self._descriptor = replacement
                self._is_written = True  # whole again, whatever could not be written before

    def opened(self, upload_id: str) -> None:
        """The upload is known."""
        self.upload_id = upload_id
        self._append({"upload": upload_id})
        self.sync()

    def note(self, part_number: int, state: PartState, crc: int | None = None) -> None:
        """A part is in that state now; with its CRC64NVME once it is known."""
        self._append([part_number, str(state)] if crc is None else [part_number, str(state), f"{crc:016x}"])

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Let another process have it. Idempotent."""
        with self._lock:
            if self._descriptor is not None:
                self.sync()
                os.close(self._descriptor)
                self._descriptor = None

    def delete(self) -> None:
        """There is nothing left to take up again."""
        with self._lock:
            if self._path is not None and self._descriptor is not None:
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, event: Any) -> None:
        with self._lock:
            if self._descriptor is not None and self._is_written:
                try:
                    os.write(self._descriptor, json.dumps(event, separators=(",", ":")).encode() + b"\n")
                except OSError as exc:
                    self._goes_unwritten(exc)

    def _goes_unwritten(self, reason: OSError) -> None:
        """A full disk must not stop an upload. The file stays open: it still holds other processes off."""
        log.warning("the resume journal can't be written any more: %s", reason.strerror or reason)
        self._is_written = False


def _held(path: Path, identity: Identity) -> int:
    """A descriptor of the file that stands under `path`, locked. The lock ends with the process, however it ends.

    Raises:
        TransferInUseError: Another process has it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock(descriptor, identity)
            # Its holder may have replaced or deleted it between our opening and our locking.
            if is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, identity: Identity) -> None:
    if not try_lock(descriptor):
        raise TransferInUseError(Path(identity.path))


def _written(path: Path, text: str) -> int:
    """Put a new file under `path`, whole or not at all, durable; its descriptor, locked before anybody can see it."""
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)  # mode 0600
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
        try_lock(descriptor)
        os.replace(name, path)
    except BaseException:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
        raise
    return descriptor
