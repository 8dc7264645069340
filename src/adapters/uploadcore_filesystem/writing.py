"""Bodies on their way to disk: one object per request, which can be cut at any moment and then never writes again.

The fence is a lock per writer, held through every call that touches the disk, and a flag that is looked at under it. Who cuts a writer sets the
flag, then takes the lock once (`join`): a write that was under way has ended by then, and none comes after it. That holds for a thread that is
stalled inside the system call, too: whoever wants to go on waits for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from uploadcore.file import Checksum
from uploadcore_filesystem.digests import StreamDigest
from uploadcore_filesystem.disk import create_exclusive, sync_file, sync_folder, unlink_if_there, write_at
from uploadcore_filesystem.errors import (
    BodyTooLargeError,
    IncompleteBodyError,
    PreconditionFailedError,
    SupersededError,
)
from uploadcore_filesystem.multipart import Multipart
from uploadcore_filesystem.multipart_folder import MultipartFolder
from uploadcore_filesystem.objects import ObjectFolder, ObjectRecord, new_token
from uploadcore_filesystem.records import PartRecord
from uploadcore_filesystem.signing import PartGrant, PutGrant

__all__ = ["BodyWriter", "ObjectWriter", "PartWriter"]

_RecordT_co = TypeVar("_RecordT_co", covariant=True)


class BodyWriter(Protocol[_RecordT_co]):
    """What the store drives, each call in a thread, one after the other: `begin`, `write` …, `commit` or `discard`."""

    on_cut: Callable[[], None] | None
    """Called, from any thread, when the writer is cut: end the request, nothing comes of it."""

    @property
    def is_cut(self) -> bool:
        """If it may write no more."""

    def begin(self) -> None:
        """Get ready; after an exception there is nothing to discard."""

    def write(self, chunks: Sequence[bytes]) -> None:
        """The next bytes of the body."""

    def commit(self) -> _RecordT_co:
        """The body has ended: make it durable and visible."""

    def discard(self) -> None:
        """Leave nothing behind. Idempotent, and nothing at all after `commit`."""

    def cut(self) -> None:
        """Forbid it to write from now on. Does not wait."""


class _Output:
    """One open file, written from one offset on, and what is known of the bytes so far."""

    def __init__(self, path: Path, offset: int, *, length: int | None, limit: int, promised: Checksum | None) -> None:
        self._descriptor = os.open(path, os.O_WRONLY)
        self._offset = offset
        self._length = length
        self._limit = limit
        self.received = 0
        self.digest = StreamDigest(promised)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Go on, but never beyond what was signed."""
        size = sum(map(len, chunks))
        if self._length is not None and self.received + size > self._length:
            raise IncompleteBodyError(f"the body is longer than the {self._length} bytes that were signed")
        if self.received + size > self._limit:
            raise BodyTooLargeError(f"a body has {self._limit} bytes at most")
        write_at(self._descriptor, chunks, self._offset + self.received)
        self.digest.update(chunks)
        self.received += size

    def finish(self) -> None:
        """Hold what came against what was promised, and make it durable."""
        if self._length is not None and self.received != self._length:
            raise IncompleteBodyError(f"the body has {self.received} bytes, and {self._length} were signed")
        self.digest.verify()
        sync_file(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


class _Fenced:
    """The flag and the lock."""

    def __init__(self) -> None:
        self.on_cut: Callable[[], None] | None = None
        self._io = threading.Lock()
        self._is_cut = False
        self._is_over = False
        self._output: _Output | None = None

    @property
    def is_cut(self) -> bool:
        """If it may write no more."""
        return self._is_cut

    def cut(self) -> None:
        """Forbid it to write from now on. Does not wait."""
        self._is_cut = True
        if (tell := self.on_cut) is not None:
            tell()

    def join(self) -> None:
        """Wait for the write it was in when it was cut."""
        with self._io:
            pass

    def _require_uncut(self) -> None:
        if self._is_cut:
            raise SupersededError("a newer request took this part, or the upload ended: this one has no effect")

    def _close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None


class PartWriter(_Fenced):
    """Writes one part, at its offset in the upload's `data` or, where that is not known, into a file of its own."""

    def __init__(self, multiparts: MultipartFolder, grant: PartGrant, limit: int) -> None:
        super().__init__()
        self._multiparts = multiparts
        self._grant = grant
        self._limit = limit
        self._etag = new_token()
        self._is_in_place = False

    @property
    def part_number(self) -> int:
        """Which part."""
        return self._grant.part_number

    def begin(self) -> None:
        """Take the part over from whoever writes it.

        Raises:
            NoSuchMultipartError: There is no such upload.
            SealedError: It is being completed.
        """
        grant = self._grant
        extent = None
        if grant.offset is not None and grant.length is not None:
            extent = (grant.offset, grant.offset + grant.length)
        self._multipart: Multipart = self._multiparts.acquire(grant.upload_id)
        try:
            self._multipart.expect(grant.key)
            with self._io:
                self._is_in_place = self._multipart.admit(self, extent)
        except BaseException:
            self._multiparts.release(self._multipart)
            raise

    def write(self, chunks: Sequence[bytes]) -> None:
        """The next bytes. Before the first of them what was there is unlisted."""
        with self._io:
            self._require_uncut()
            self._opened().write(chunks)

    def commit(self) -> PartRecord:
        """Make the part durable, then list it."""
        with self._io:
            self._require_uncut()
            output = self._opened()
            output.finish()
            if not self._is_in_place:
                sync_folder(self._chunk.parent)
                self._multipart.unlist(self.part_number)
            offset = self._grant.offset if self._is_in_place else None
            record = PartRecord(self.part_number, offset, output.received, self._etag, output.digest.crc64)
            self._multipart.list_part(record)
            self._end()
        return record

    def discard(self) -> None:
        """Leave nothing behind that counts."""
        self.cut()
        with self._io:
            if not self._is_over:
                self._end()
                if not self._is_in_place:
                    with suppress(OSError):
                        unlink_if_there(self._chunk)

    @property
    def _chunk(self) -> Path:
        return self._multipart.folder / "chunks" / self._etag

    def _opened(self) -> _Output:
        if self._output is None:
            if self._is_in_place:
                self._multipart.unlist(self.part_number)
                path, offset = self._multipart.folder / "data", self._grant.offset or 0
            else:
                path, offset = self._chunk, 0
                create_exclusive(path)
            self._output = _Output(
                path, offset, length=self._grant.length, limit=self._limit, promised=self._grant.checksum
            )
        return self._output

    def _end(self) -> None:
        self._is_over = True
        self._close()
        self._multipart.dismiss(self)
        self._multiparts.release(self._multipart)


class ObjectWriter(_Fenced):
    """Writes a whole object where none is. Several may at once, under one key: the first to commit wins."""

    def __init__(self, objects: ObjectFolder, grant: PutGrant, limit: int) -> None:
        super().__init__()
        self._objects = objects
        self._grant = grant
        self._limit = limit

    def begin(self) -> None:
        """Make a place for it.

        Raises:
            PreconditionFailedError: There is an object already.
        """
        self._require_absent()
        self._staged = self._objects.stage()
        try:
            path = self._objects.create_data(self._staged)
            self._output = _Output(path, 0, length=self._grant.length, limit=self._limit, promised=self._grant.checksum)
        except OSError:
            with suppress(OSError):
                self._objects.discard(self._staged)
            raise

    def write(self, chunks: Sequence[bytes]) -> None:
        """The next bytes."""
        with self._io:
            self._require_uncut()
            self._opened().write(chunks)

    def commit(self) -> ObjectRecord:
        """Make it durable, then put it in place.

        Raises:
            PreconditionFailedError: Another was faster.
        """
        with self._io:
            self._require_uncut()
            output = self._opened()
            output.finish()
            with self._objects.lock(self._grant.key):
                self._require_absent()
                record = ObjectRecord(
                    id=self._staged.name,
                    key=self._grant.key,
                    size=output.received,
                    etag=f'"{self._staged.name}"',
                    crc64=output.digest.crc64,
                    content_type=self._grant.headers.content_type,
                    metadata=dict(self._grant.headers.metadata),
                )
                self._objects.decide(self._staged, record)
                try:
                    self._objects.install(self._staged)
                except OSError:
                    # Who is told that it failed may try again: this attempt must not come back when the store is next opened.
                    self._objects.revoke(self._staged)
                    raise
            self._is_over = True
            self._close()
        return record

    def discard(self) -> None:
        """Leave nothing behind, unless it is there already."""
        self.cut()
        with self._io:
            if not self._is_over:
                self._is_over = True
                self._close()
                with suppress(OSError):
                    if not self._objects.is_decided(self._staged):
                        self._objects.discard(self._staged)

    def _opened(self) -> _Output:
        assert self._output is not None, "begin comes first, and nothing after commit"
        return self._output

    def _require_absent(self) -> None:
        if self._objects.read(self._grant.key) is not None:
            raise PreconditionFailedError("an object stands under this key already")
