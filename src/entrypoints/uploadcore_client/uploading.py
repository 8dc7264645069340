"""From a path to a file at the server: find the upload that was begun before, or begin one, and see it through."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from uploadcore.errors import (
    IdempotencyMismatchError,
    InvalidRequestError,
    UploadClosedError,
    UploadCoreError,
    UploadNotFoundError,
)
from uploadcore.file import ChecksumAlgorithm, FileStatus
from uploadcore.states import UploadState
from uploadcore_client.api import Session
from uploadcore_client.errors import FileChangedError
from uploadcore_client.hashing import Sha256Reading
from uploadcore_client.journal import Identity, Journal, Journals
from uploadcore_client.progress import Meter, ProgressCallback
from uploadcore_client.sending import Wiring
from uploadcore_client.signing import batch_size
from uploadcore_client.source import SourceFile
from uploadcore_client.transfer import Transfer
from uploadcore_client.wire import File, Upload

__all__ = ["Uploading", "Wish"]

GOES_ON = frozenset({UploadState.UPLOADING, UploadState.COMPLETING, UploadState.COMPLETED})
"""States of an upload that can be taken up: the last two need nothing but the answer to completion. Of a completed one the file must be there."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of an upload. Counts for a new one only: one that is taken up keeps what it was begun with."""

    filename: str
    content_type: str
    title: str = ""
    metadata: Mapping[str, str] | None = None
    part_size: int | None = None
    file_id: str | None = None
    checksum: ChecksumAlgorithm = ChecksumAlgorithm.CRC64NVME

    @classmethod
    def of(cls, path: Path, *, filename: str | None, content_type: str | None, **rest: Any) -> Wish:
        """The wish, with name and type taken from the path where they are not given.

        Raises:
            InvalidRequestError: If the checksum is none a client can give.
        """
        # A name that is no UTF-8 can't be told to anybody as it is.
        name = filename or os.fsencode(path.name).decode(errors="replace")
        if rest.get("checksum", ChecksumAlgorithm.CRC64NVME) is ChecksumAlgorithm.CRC32C:
            raise InvalidRequestError("the checksum of an upload is crc64nvme or sha256")
        guessed, encoding = mimetypes.guess_type(name)
        # A compressed file is what it is, not what is inside.
        by_name = guessed if encoding is None else f"application/{encoding}"
        return cls(filename=name, content_type=content_type or by_name or "application/octet-stream", **rest)


class Uploading:
    """One call to upload one file.

    Args:
        session: The service, with this call's cancellation and retry budget.
        journals: Where resume journals are.
        wiring: How to talk to stores.
    """

    def __init__(self, session: Session, journals: Journals, wiring: Wiring) -> None:
        self._session = session
        self._journals = journals
        self._wiring = wiring

    def run(self, path: Path, wish: Wish, report: ProgressCallback, *, upload_id: str | None = None) -> File:
        """Upload the file; take up `upload_id`, or whichever unfinished upload of it there is.

        Raises:
            UploadCoreError: See `Client.upload`.
        """
        with (
            SourceFile(path) as source,
            self._journals.open(Identity.of(self._session.url, source)) as journal,
            ExitStack() as stack,
        ):
            meter = Meter(source.size)
            report(meter.reading())
            whole = None
            if wish.checksum is ChecksumAlgorithm.SHA256:
                reading = Sha256Reading(source, self._session.cancellation)
                stack.callback(reading.close)
                whole = reading.result
            try:
                upload = self._named(upload_id, source, journal) if upload_id else self._found(source, journal)
                server_time = None
                if upload is None:
                    upload, server_time = self._begun(source, journal, wish)
                transfer = Transfer(
                    self._session,
                    upload,
                    source,
                    journal,
                    meter=meter,
                    wiring=self._wiring,
                    whole=whole,
                    is_new=server_time is not None,
                )
                if server_time is not None:
                    transfer.urls.add(upload.parts, server_time)
                file = transfer.run(report)
            except (FileChangedError, UploadClosedError) as exc:
                self._give_up(journal, exc)
                raise
            journal.delete()
            if upload_id is not None:
                self._journals.drop(upload_id)  # one of another name: the file was edited or moved since
            return file

    def _named(self, upload_id: str, source: SourceFile, journal: Journal) -> Upload:
        """The upload somebody asked for."""
        upload = self._session.upload(upload_id)
        if upload.state not in GOES_ON:
            raise UploadClosedError(upload_id=upload.id, state=upload.state, reason=upload.reason)
        if upload.size != source.size:
            raise InvalidRequestError(
                f"{source.path} has {source.size} bytes and upload {upload.id!r} is of {upload.size}: it is another file",
                upload_id=upload.id,
            )
        if not self._goes_on(upload):
            raise UploadClosedError(upload_id=upload.id, state=upload.state, reason="its file is no more")
        return self._taken_up(upload, journal)

    def _found(self, source: SourceFile, journal: Journal) -> Upload | None:
        """The unfinished upload of this file: by the journal, else by the server's record."""
        if journal.upload_id is not None:
            with suppress(UploadNotFoundError):
                upload = self._session.upload(journal.upload_id)
                if upload.size == source.size and self._goes_on(upload):
                    return upload
            journal.begin_again()
        for upload in self._session.uploads(state=UploadState.UPLOADING, fingerprint=source.fingerprint()):
            if upload.size == source.size:
                return self._taken_up(upload, journal)
        return None

    def _goes_on(self, upload: Upload) -> bool:
        """Whether the upload can be taken up. Of a completed one the answer to completion tells what has become of its file since."""
        if upload.state != UploadState.COMPLETED:
            return upload.state in GOES_ON
        answer = self._session.complete(upload.id, size=upload.size or 0, checksum=None)
        return isinstance(answer, File) and answer.status == FileStatus.AVAILABLE

    def _taken_up(self, upload: Upload, journal: Journal) -> Upload:
        if journal.upload_id != upload.id:
            journal.begin_again()
            journal.opened(upload.id)
        return upload

    def _begun(self, source: SourceFile, journal: Journal, wish: Wish) -> tuple[Upload, datetime]:
        """A new upload; with the service's time. The journal has its idempotency key before the service does."""
        body: dict[str, Any] = {
            "filename": wish.filename,
            "size": source.size,
            "content_type": wish.content_type,
            "fingerprint": source.fingerprint(),
            "sign": batch_size(self._wiring.parallel),
        }
        optional = {
            "title": wish.title,
            "metadata": wish.metadata,
            "part_size": wish.part_size,
            "file_id": wish.file_id,
        }
        body.update({name: value for name, value in optional.items() if value})
        with suppress(IdempotencyMismatchError):
            upload, server_time = self._session.initiate(body, idempotency_key=journal.idempotency_key)
            if self._goes_on(upload):
                journal.opened(upload.id)
                return upload, server_time
        # An earlier process used the key for something else, or for an upload that has ended since.
        journal.begin_again()
        upload, server_time = self._session.initiate(body, idempotency_key=journal.idempotency_key)
        journal.opened(upload.id)
        return upload, server_time

    def _give_up(self, journal: Journal, error: UploadCoreError) -> None:
        """What was sent is of no use to anybody: free it at the server now, if that can be had, rather than at its deadline."""
        if isinstance(error, FileChangedError) and journal.upload_id is not None:
            with suppress(UploadCoreError):
                self._session.without_retries().abort(journal.upload_id)
        journal.delete()
