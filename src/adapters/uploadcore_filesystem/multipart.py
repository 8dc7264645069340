"""Multipart uploads on disk, and who may write to them.

`multiparts/<storage upload id>/` holds `upload.json`, the file `data` that parts of known length are written into at their offset, `chunks/` with a
file for each part of unknown length, and `parts/`, where each listed part has an empty file whose *name* is its record: it is there or it is not,
and can't be torn.

A process that has the store open is the only one at work in the folder (`FilesystemObjectStore.open` holds a lock), so the order of things is
kept in memory, by `Multipart`: one writer per part, none while the upload is sealed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from uploadcore.errors import ChecksumMismatchError, NoSuchMultipartError, PartsRejectedError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import StoredPart
from uploadcore.ports import ObjectHeaders
from uploadcore_filesystem.assembly import assemble, assembled_etag
from uploadcore_filesystem.digests import as_checksum, combined
from uploadcore_filesystem.disk import create_exclusive, sync_folder, unlink_if_there
from uploadcore_filesystem.errors import SealedError
from uploadcore_filesystem.objects import ObjectFolder, ObjectRecord
from uploadcore_filesystem.records import PartIndex, PartRecord

__all__ = ["Multipart", "MultipartInfo", "Writer", "read_info"]


class Writer(Protocol):
    """Who is writing a part. Its own lock is held whenever it touches the disk."""

    @property
    def part_number(self) -> int:
        """Which part."""

    def cut(self) -> None:
        """Forbid it to write from now on. Does not wait."""

    def join(self) -> None:
        """Wait for the write it was in when it was cut."""


@dataclass(frozen=True, slots=True)
class MultipartInfo:
    """What was said when it was created."""

    key: str
    headers: ObjectHeaders
    initiated: datetime


def read_info(folder: Path) -> MultipartInfo:
    """Read it back.

    Raises:
        FileNotFoundError: There is no such upload.
    """
    content = json.loads((folder / "upload.json").read_bytes())
    headers = ObjectHeaders(content["content_type"], content["metadata"])
    return MultipartInfo(content["key"], headers, datetime.fromisoformat(content["initiated"]))


class Multipart:
    """One multipart upload, while somebody uses it. Made by `MultipartFolder` only, one at a time per upload.

    Attributes:
        users: Counted, and guarded, by `MultipartFolder`.
        is_gone: Completed or aborted: of no use any more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users = 0
        self.is_gone = False
        self.is_loaded = False
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        """Held for moments, never while the disk is at work."""
        self._writers: dict[int, Writer] = {}
        self._extents: dict[int, tuple[int, int]] = {}
        """Where in `data` the writers write who write there: from and up to."""
        self._parts = PartIndex()
        self._unsure: set[int] = set()
        """Parts whose record was removed or made without it being known to be durable."""
        self._is_shut = False

    def load(self) -> None:
        """Read what is on disk, and remove what a crash left of parts that were never listed. Once.

        Raises:
            NoSuchMultipartError: There is no such upload.
        """
        with self._loading:
            if self.is_loaded:
                return
            try:
                self.info = read_info(self.folder)
                self._is_shut = (self.folder / "sealed").exists()
                self._parts = PartIndex(PartRecord.parse(name) for name in os.listdir(self.folder / "parts"))
                if not self._is_shut:
                    self._sweep()
            except (FileNotFoundError, NotADirectoryError) as exc:
                raise NoSuchMultipartError("the store knows no such multipart upload") from exc
            self.is_loaded = True

    def _sweep(self) -> None:
        """Remove what a crash left of parts that were never listed, and records of parts whose file is not there."""
        chunks = set(os.listdir(self.folder / "chunks"))
        own = [record for record in self._parts if record.offset is None]
        for name in chunks.difference(record.etag for record in own):
            unlink_if_there(self.folder / "chunks" / name)
        for record in own:
            if record.etag not in chunks:
                self._parts.remove(record.part_number)
                unlink_if_there(self.folder / "parts" / record.name)

    def expect(self, key: str) -> None:
        """Refuse to be another key's upload.

        Raises:
            NoSuchMultipartError: It is.
        """
        if self.info.key != key:
            raise NoSuchMultipartError("the store knows no such multipart upload")

    # --- writers --------------------------------------------------------------------------------------------------

    def admit(self, writer: Writer, extent: tuple[int, int] | None) -> bool:
        """Make this the one writer of its part. The one before is cut, and has ended its last write, when this returns.

        Args:
            writer: Holds its own lock, so that whoever cuts it waits for this to return.
            extent: Where in `data` it would like to write.

        Returns:
            If it may write there. Not if it has no extent, or one that meets another part's: then it gets a file of its own.

        Raises:
            SealedError: The upload is being completed.
            NoSuchMultipartError: It is completed, or aborted.
        """
        with self._lock:
            if self.is_gone:
                raise NoSuchMultipartError("the store knows no such multipart upload")
            if self._is_shut:
                raise SealedError("the upload is being completed and takes no more parts")
            in_place = extent is not None and self._has_room(writer.part_number, *extent)
            older = self._writers.get(writer.part_number)
            self._writers[writer.part_number] = writer
            self._extents.pop(writer.part_number, None)
            if in_place and extent is not None:
                self._extents[writer.part_number] = extent
            if older is not None:
                older.cut()
        if older is not None:
            older.join()
        return in_place

    def _has_room(self, part_number: int, start: int, end: int) -> bool:
        return self._parts.has_room(part_number, start, end) and all(
            number == part_number or (other_end <= start if number < part_number else other_start >= end)
            for number, (other_start, other_end) in self._extents.items()
        )

    def dismiss(self, writer: Writer) -> None:
        """It has ended, one way or the other."""
        with self._lock:
            if self._writers.get(writer.part_number) is writer:
                del self._writers[writer.part_number]
                self._extents.pop(writer.part_number, None)

    def _cut_all(self) -> list[Writer]:
        """Cut every writer; the caller holds the lock, and joins them after it has let go of it."""
        writers = list(self._writers.values())
        for writer in writers:
            writer.cut()
        return writers

    # --- records --------------------------------------------------------------------------------------------------

    def unlist(self, part_number: int) -> None:
        """Make a part absent, durably, and drop its own file if it had one. Only for the part's one writer."""
        with self._lock:
            record = self._parts.get(part_number)
            if record is None and part_number not in self._unsure:
                return
            self._unsure.add(part_number)
        prefix = PartRecord.prefix(part_number)
        for name in [record.name] if record else os.listdir(self.folder / "parts"):
            if name.startswith(prefix):
                unlink_if_there(self.folder / "parts" / name)
        with self._lock:
            self._parts.remove(part_number)
        sync_folder(self.folder / "parts")
        with self._lock:
            self._unsure.discard(part_number)
        if record is not None and record.offset is None:
            unlink_if_there(self.folder / "chunks" / record.etag)

    def list_part(self, record: PartRecord) -> None:
        """Make a part present, durably. Its bytes are durable, and no record of the part is there. Only for its one writer."""
        with self._lock:
            self._unsure.add(record.part_number)
        path = self.folder / "parts" / record.name
        try:
            create_exclusive(path)
            sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                unlink_if_there(path)
            raise
        with self._lock:
            self._parts.add(record)
            self._unsure.discard(record.part_number)

    def parts(self) -> list[StoredPart]:
        """The listed ones, in order."""
        with self._lock:
            records = list(self._parts)
        return [StoredPart(r.part_number, r.size, f'"{r.etag}"', as_checksum(r.crc64)) for r in records]

    # --- the end --------------------------------------------------------------------------------------------------

    def complete(
        self, objects: ObjectFolder, named: Sequence[StoredPart], size: int, checksum: Checksum | None
    ) -> ObjectRecord:
        """Seal, check, decide, install. Not to be called twice at a time.

        Raises:
            PartsRejectedError: As the port says; the upload takes parts again.
            ChecksumMismatchError: As the port says; the upload takes parts again.
        """
        self._seal(objects)
        if not objects.is_decided(self.folder):
            try:
                objects.decide(self.folder, self._checked(named, size, checksum))
                sync_folder(self.folder)
            except Exception:
                with suppress(OSError):
                    self._unseal(objects)
                raise
        with objects.lock(self.info.key), self._watched():
            return objects.install(self.folder)

    def abort(self, objects: ObjectFolder) -> None:
        """Cut every writer and drop everything, in one step. Not to be called while `complete` runs."""
        with self._lock:
            self._is_shut = True
            writers = self._cut_all()
        for writer in writers:
            writer.join()
        with objects.lock(self.info.key), self._watched():
            if objects.is_decided(self.folder):
                objects.revoke(self.folder)
            objects.discard(self.folder)
            sync_folder(self.folder.parent)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Notice when the folder is gone, also if the step that removed it then failed."""
        try:
            yield
        finally:
            self.is_gone = not self.folder.exists()

    def _seal(self, objects: ObjectFolder) -> None:
        """No writer from now on, not even after a crash. Those there are have ended their last write when this returns."""
        with self._lock:
            self._is_shut = True
            writers = self._cut_all()
        for writer in writers:
            writer.join()
        try:
            with suppress(FileExistsError):
                create_exclusive(self.folder / "sealed")
            sync_folder(self.folder)
        except OSError:
            with suppress(OSError):
                # Of a decided upload the data is the object's already, whoever carries the decision out.
                if not objects.is_decided(self.folder):
                    unlink_if_there(self.folder / "sealed")
                    self._is_shut = False
            raise

    def _unseal(self, objects: ObjectFolder) -> None:
        objects.undecide(self.folder)
        unlink_if_there(self.folder / "sealed")
        sync_folder(self.folder)
        self._is_shut = False

    def _checked(self, named: Sequence[StoredPart], size: int, checksum: Checksum | None) -> ObjectRecord:
        """The object these parts make, its data assembled and durable."""
        numbers = [part.part_number for part in named]
        if not numbers or numbers != sorted(set(numbers)):
            raise PartsRejectedError("parts are named in ascending order, each once, and at least one of them")
        records = []
        for part in named:
            record = self._parts.get(part.part_number)
            if record is None or f'"{record.etag}"' != part.etag or record.size != part.size:
                raise PartsRejectedError(f"part {part.part_number} is not here as named")
            if record.size == 0 and part is not named[-1]:
                raise PartsRejectedError(f"part {part.part_number} is empty, and others follow it")
            records.append(record)
        total = sum(record.size for record in records)
        if total != size:
            raise PartsRejectedError(f"the parts make {total} bytes, not {size}")
        crc64 = combined((record.crc64, record.size) for record in records)
        if (
            checksum is not None
            and checksum.algorithm is ChecksumAlgorithm.CRC64NVME
            and checksum != as_checksum(crc64)
        ):
            raise ChecksumMismatchError("the parts do not add up to the checksum that was declared")
        return ObjectRecord(
            id=self.folder.name,
            key=self.info.key,
            size=total,
            etag=assembled_etag(named),
            crc64=crc64,
            content_type=self.info.headers.content_type,
            metadata=dict(self.info.headers.metadata),
            source=assemble(self.folder, records),
        )
