"""From a file at the server to a file here: streamed to a temporary name beside its target, hashed, compared, and only then renamed."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from awscrt import checksums
from urllib3 import BaseHTTPResponse

from uploadcore.errors import (
    ChecksumMismatchError,
    FileNotReadyError,
    ForbiddenError,
    StorageFullError,
    StoreUnavailableError,
)
from uploadcore.file import Checksum, ChecksumAlgorithm, FileStatus
from uploadcore_client.api import Session
from uploadcore_client.connection import Connection, retry_after_of
from uploadcore_client.errors import FileUnwritableError, TargetExistsError, TransferInUseError, UnexpectedAnswerError
from uploadcore_client.locking import is_at, try_lock
from uploadcore_client.progress import Progress, ProgressCallback
from uploadcore_client.retry import TransientError
from uploadcore_client.sending import BUFFER_SIZE, REPORT_INTERVAL, Wiring
from uploadcore_client.wire import File

__all__ = ["Downloading"]

WORTH_GOING_ON = BUFFER_SIZE
"""Bytes. A connection that brought as many more than any before it, and then broke, does not count as a failed try."""

NAME_MAX = 255
"""Bytes of a file's name: what ext4, XFS, APFS (there: UTF-8) and NTFS (there: 255 UTF-16 units, which are never fewer) take."""
SUFFIX_MAX = 32
"""Bytes. What comes after a name's last dot and is longer is no suffix that anything knows a file by."""


class _Hash:
    """The checksum a file is compared by: the one the server names, CRC64NVME where it names none."""

    def __init__(self, algorithm: ChecksumAlgorithm) -> None:
        self._algorithm = algorithm
        self._crc = 0
        self._sha256 = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Go on with these bytes."""
        if self._algorithm is ChecksumAlgorithm.SHA256:
            self._sha256.update(data)
        elif self._algorithm is ChecksumAlgorithm.CRC32C:
            self._crc = checksums.crc32c(data, self._crc)
        else:
            self._crc = checksums.crc64nvme(data, self._crc)

    def checksum(self) -> Checksum:
        """Of all bytes so far."""
        is_sha256 = self._algorithm is ChecksumAlgorithm.SHA256
        digest = self._sha256.digest() if is_sha256 else self._crc.to_bytes(self._algorithm.digest_size, "big")
        return Checksum(self._algorithm, base64.b64encode(digest).decode())


class _Partial:
    """What has arrived of a file: `.NAME.uploadcore-part` beside the target, and in `….json` which content it is the beginning of.

    Where NAME is too long to have that added, a hash of it stands for it.

    Attributes:
        offset: Bytes that are there.
        resumed: How many of them an earlier call has left.
        etag: Of the content they are from, as its store names it.
    """

    def __init__(self, target: Path, file: File) -> None:
        name, note = f".{target.name}.uploadcore-part", ".json"
        if len(os.fsencode(name + note)) > NAME_MAX:
            name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:40]}.uploadcore-part"
        self.path = target.with_name(name)
        self._note = target.with_name(name + note)
        self._target = target
        self._file = file
        self.etag = ""
        self.offset = self.resumed = 0
        self._descriptor = self._held()
        try:
            self.hash = self._taken_up()
        except BaseException:
            os.close(self._descriptor)
            raise

    def begin_again(self, etag: str) -> None:
        """Forget what is there: the content that comes is from its beginning, and has this ETag."""
        with _mapped(self._target):
            os.ftruncate(self._descriptor, 0)
            self._note.write_text(json.dumps({"file_id": self._file.id, "etag": etag}), encoding="utf-8")
        self.etag, self.hash = etag, self._hash()
        self.offset = self.resumed = 0

    def write(self, data: bytes) -> None:
        """Add what has come."""
        view = memoryview(data)
        with _mapped(self._target):
            os.lseek(self._descriptor, self.offset, os.SEEK_SET)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self.hash.update(data)
        self.offset += len(data)

    def becomes_target(self, *, replace: bool) -> None:
        """It is whole: let it take its name, durably.

        Raises:
            TargetExistsError: Something has that name and may not be replaced. What has arrived is kept.
        """
        with _mapped(self._target):
            os.fsync(self._descriptor)
            if replace:
                os.replace(self.path, self._target)
            else:
                self._appear()
            self._note.unlink(missing_ok=True)

    def _appear(self) -> None:
        """Take the name if nothing has it: a link is made or not made in one step, where a rename would replace what came meanwhile."""
        try:
            os.link(self.path, self._target)
        except FileExistsError:
            raise TargetExistsError(self._target) from None
        except OSError:
            # No hard links here, as on FAT and some network drives; or a reason that a rename meets as well.
            if os.path.lexists(self._target):
                raise TargetExistsError(self._target) from None
            os.replace(self.path, self._target)
        else:
            self.path.unlink()

    def delete(self) -> None:
        """It is no good."""
        with _mapped(self._target):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)

    def _held(self) -> int:
        """A descriptor of the file that stands under the temporary name and under no other, locked.

        Raises:
            TransferInUseError: Another process has it.
        """
        while True:
            with _mapped(self._target):
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            if not try_lock(descriptor):
                os.close(descriptor)
                raise TransferInUseError(self._target)
            try:
                # Its holder may have given it the target's name between our opening and our locking, or ended before it took this name
                # away. To write there is to write to a finished file.
                with _mapped(self._target):
                    if is_at(descriptor, self.path):
                        if os.fstat(descriptor).st_nlink <= 1:
                            return descriptor
                        self.path.unlink()
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _hash(self) -> _Hash:
        declared = self._file.checksum
        return _Hash(ChecksumAlgorithm.CRC64NVME if declared is None else declared.algorithm)

    def _taken_up(self) -> _Hash:
        """Hash what an earlier call has left, if it is of this very file."""
        hashed = self._hash()
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["file_id"] != self._file.id or not note["etag"]:
                return hashed
            self.etag = note["etag"]
        except (OSError, ValueError, LookupError, TypeError):
            return hashed
        view = memoryview(bytearray(BUFFER_SIZE))
        with _mapped(self._target), open(self._descriptor, "rb", buffering=0, closefd=False) as raw:
            while read := raw.readinto(view):
                hashed.update(view[:read])
                self.offset += read
        self.resumed = self.offset
        return hashed


@contextlib.contextmanager
def _mapped(target: Path) -> Iterator[None]:
    """No failure of the disk may pass for one of the network."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"there is no room left for {target}; what has arrived is kept") from exc
        raise FileUnwritableError(target, exc.strerror or str(exc)) from exc


class Downloading:
    """One call to download one file.

    Args:
        session: The service, with this call's cancellation and retry budget.
        wiring: How to talk to stores.
    """

    def __init__(self, session: Session, wiring: Wiring) -> None:
        self._session = session
        self._wiring = wiring

    def run(self, file_id: str, target: Path | None, report: ProgressCallback, *, replace: bool) -> tuple[File, Path]:
        """Download; the file's record and where it is now.

        Raises:
            UploadCoreError: See `Client.download`.
        """
        file = self._session.file(file_id)
        if file.status != FileStatus.AVAILABLE or file.size is None:
            raise FileNotReadyError(file_id=file.id, status=file.status)
        with _mapped(target or Path()):
            place = _place(target, file)
        with _mapped(place):
            if os.path.lexists(place) and not replace:
                raise TargetExistsError(place)
        partial = _Partial(place, file)
        connection = Connection(self._session.cancellation, self._wiring.timeouts, self._wiring.tls)
        try:
            if partial.offset > file.size or not partial.etag:
                partial.begin_again("")
            self._fill(partial, file, connection, report)
            if file.checksum is not None and partial.hash.checksum() != file.checksum:
                partial.delete()
                raise ChecksumMismatchError(
                    f"what arrived is not file {file.id!r} (its {file.checksum.algorithm} differs); nothing was kept",
                    file_id=file.id,
                )
            partial.becomes_target(replace=replace)
            report(_progress(file, partial, is_verified=file.checksum is not None))
        finally:
            connection.close()
            partial.close()
        return file, place

    def _fill(self, partial: _Partial, file: File, connection: Connection, report: ProgressCallback) -> None:
        """Bring all bytes here. Tries are counted anew whenever one got further than any before; content that comes from its beginning again has not."""
        reported_at = 0.0
        furthest = partial.offset

        def attempt() -> None:
            nonlocal reported_at, furthest
            try:
                for _ in self._stream(partial, file, connection):
                    now = time.monotonic()
                    if now - reported_at >= REPORT_INTERVAL:
                        reported_at = now
                        report(_progress(file, partial))
            except TransientError:
                if partial.offset - furthest < WORTH_GOING_ON:
                    raise
            finally:
                furthest = max(furthest, partial.offset)

        while partial.offset < (file.size or 0):
            self._session.retrying(attempt)

    def _stream(self, partial: _Partial, file: File, connection: Connection) -> Iterator[None]:
        """One connection's worth of bytes. Yields after each piece."""
        headers = {"Accept-Encoding": "identity"}
        if partial.offset and partial.etag:
            # If the content is another by now, the store sends it from its beginning instead (RFC 9110, section 13.1.5).
            headers |= {"Range": f"bytes={partial.offset}-", "If-Range": partial.etag}
        with connection.get(self._session.content_url(file.id), headers) as response:
            if response.status == 200:
                etag = response.headers.get("etag", "")
                partial.begin_again("" if etag.startswith("W/") else etag)  # a weak one says nothing about bytes
            elif response.status != 206 or not _goes_on(response, partial.offset):
                raise _refusal(response, file)
            while data := response.read(BUFFER_SIZE):
                self._session.cancellation.check()
                partial.write(data)
                if partial.offset > (file.size or 0):
                    raise UnexpectedAnswerError(
                        f"the store sent more than the {file.size} bytes of the file", status=200
                    )
                yield
        if partial.offset < (file.size or 0):
            raise TransientError(StoreUnavailableError("the store sent fewer bytes than the file has", file_id=file.id))


def _goes_on(response: BaseHTTPResponse, offset: int) -> bool:
    return response.headers.get("content-range", "").startswith(f"bytes {offset}-")


def _refusal(response: BaseHTTPResponse, file: File) -> Exception:
    """What an answer means that brings no content."""
    status = response.status
    if status == 403:  # its time ran out between our getting the URL and its use
        return TransientError(
            ForbiddenError("the store refuses the signed URL of the file", file_id=file.id), retry_after=0
        )
    if status == 404:
        return FileNotReadyError(file_id=file.id, status="no longer at the store")
    if status in {408, 425, 429} or status >= 500:
        unavailable = StoreUnavailableError(f"the store did not send the file ({status})", file_id=file.id)
        return TransientError(
            unavailable, retry_after=retry_after_of({k.lower(): v for k, v in response.headers.items()})
        )
    return UnexpectedAnswerError(f"the store did not send the file ({status})", status=status)


def _place(target: Path | None, file: File) -> Path:
    """Where the file goes. Its name was given by somebody else: only its last component is taken, and no control characters.

    Nor a dot in front: what is hidden in a home folder, a shell may run.
    """
    if target is not None and not target.is_dir():
        return target
    name = PureWindowsPath(PurePosixPath(file.name).name).name
    name = "".join(letter for letter in name if letter.isprintable()).strip()
    safe = name if name not in {"", ".", ".."} else file.id
    safe = f"_{safe[1:]}" if safe.startswith(".") else safe
    return (target or Path()) / _cut(safe)


def _cut(name: str) -> str:
    """The name, with as much of it left out before its suffix as makes it one that a file can have.

    >>> name = _cut("é" * 200 + ".mp4")
    >>> len(name.encode()), name[-5:]
    (254, 'é.mp4')
    """
    if len(name.encode()) <= NAME_MAX:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= SUFFIX_MAX else ""
    stem = name.removesuffix(suffix).encode()[: NAME_MAX - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix  # a character that was cut in two goes whole


def _progress(file: File, partial: _Partial, *, is_verified: bool = False) -> Progress:
    return Progress(
        upload_id=file.id,
        done=partial.offset,
        total=file.size or 0,
        sent=partial.offset - partial.resumed,
        resumed=partial.resumed,
        is_verified=is_verified,
    )
