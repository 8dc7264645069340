"""The transfer: brings every part of one upload into the store, and completes it.

Works in rounds. A round sends what is not verified; when no PUT is in flight any more, completion is asked for, and what it finds missing is the
next round. The store's listing is the truth all along, this process's memory a hint.
"""

from __future__ import annotations

import time

from uploadcore.errors import ChecksumMismatchError, PartsMissingError, StoreUnavailableError, UploadClosedError
from uploadcore.file import Checksum, ChecksumAlgorithm, FileStatus
from uploadcore.states import PartState, UploadState
from uploadcore_client.checksums import to_checksum
from uploadcore_client.progress import ProgressCallback
from uploadcore_client.retry import TransientError
from uploadcore_client.sending import Sending
from uploadcore_client.wire import File

__all__ = ["Transfer"]

COMPLETION_PATIENCE = 3600.0
"""Seconds to wait for a store that assembles. It goes on without us, and so does the next call."""


class Transfer(Sending):
    """One upload's way into the store."""

    def run(self, report: ProgressCallback) -> File:
        """Send what is missing, complete, and return the file.

        Raises:
            FileChangedError: The file is no longer what it was.
            TransferCancelledError: It was cut.
            UploadClosedError: It was completed before, and its file has other content now.
            UploadCoreError: What service or store refused. The upload can be taken up again unless it says that it is closed.
        """
        file = self._answered() if self._upload.state != UploadState.UPLOADING else None
        if file is not None:
            self._check_replaced(file)
        else:
            if not self._is_new:
                self._recall()
            report(self.meter.reading())  # whoever stops it at once wants to know which upload it is
            file = self.session.retrying(lambda: self._round_and_complete(report))
            self._check(file)
        self._table.assembled()
        report(self.meter.reading())
        return file

    def _recall(self) -> None:
        """Take up what is there already. The listing decides; what the journal says counts only where they agree."""
        listed = {each.part_number: each for each in self.session.parts(self._upload.id)}
        unread = self._table.recall(listed.values())
        self._unread = {number: listed[number].checksum for number in unread}
        for number in self._table.numbers:
            if self._table.state(number) in {PartState.VERIFIED, PartState.UPLOADED}:
                self._trusted.add(number)
                self.meter.found(self._table.length(number))

    def _answered(self) -> File | None:
        """The file of an upload that was completing or completed when it was found; `None` if the store wants parts again."""
        try:
            file = self._completed(None)
        except PartsMissingError:
            return None
        for number in self._table.numbers:
            self.meter.found(self._table.length(number))
        return file

    def _round_and_complete(self, report: ProgressCallback) -> File:
        """One round. Raises `TransientError` if another is needed: the parts that are missing are planned again by then."""
        to_do = self._table.to_do()
        if to_do:
            self._send(to_do, report)
        self._source.check_unchanged()
        checksum = None
        if not self._table.to_do():
            checksum = to_checksum(self._table.crc(self._read)) if self._whole is None else self._whole()
        elif self._is_listed():
            raise TransientError(StoreUnavailableError("the store took no more parts", upload_id=self._upload.id))
        try:
            return self._completed(checksum)
        except PartsMissingError as exc:
            raise self._planned_again(exc) from exc
        except ChecksumMismatchError as exc:
            if not self._trusted:
                raise
            # What an earlier process sent is all that was not checked as it went out: send it again.
            self._forget(self._trusted)
            raise TransientError(exc) from exc

    def _is_listed(self) -> bool:
        """Whether the store shows any part of an upload it said it did not know. What it does not show is planned again.

        If it shows none, asking for completion tells which: the service finds it lost and opens it anew, or completed by another.
        """
        try:
            listed = {each.part_number for each in self.session.parts(self._upload.id)}
        except UploadClosedError as exc:
            if exc.state != UploadState.COMPLETED:
                raise
            return False
        self.urls.drop_all()
        if listed:
            self._forget(number for number in self._table.numbers if number not in listed)
        return bool(listed)

    def _check(self, file: File) -> None:
        """The file that stands must be the one that was read.

        Raises:
            ChecksumMismatchError: It isn't.
        """
        theirs = file.checksum
        if file.size != self._source.size:
            raise ChecksumMismatchError(
                f"{self._source.size} bytes were sent and the file has {file.size}", file_id=file.id
            )
        if theirs is None or theirs.algorithm is not ChecksumAlgorithm.CRC64NVME:
            return
        if theirs != to_checksum(self._table.crc(self._read)):
            raise ChecksumMismatchError("the file at the store is not the one that was sent", file_id=file.id)

    def _check_replaced(self, file: File) -> None:
        try:
            self._check(file)
        except ChecksumMismatchError as exc:
            raise UploadClosedError(
                upload_id=self._upload.id,
                state=UploadState.COMPLETED,
                reason="its file has other content now: upload again to send this",
            ) from exc

    def _completed(self, checksum: Checksum | None) -> File:
        """Ask for completion until the store has assembled.

        Raises:
            UploadClosedError: It was completed before, and its file is not there any more.
        """
        give_up_at = time.monotonic() + COMPLETION_PATIENCE
        while True:
            answer = self.session.complete(self._upload.id, size=self._source.size, checksum=checksum)
            if isinstance(answer, File):
                if answer.status != FileStatus.AVAILABLE:
                    raise UploadClosedError(
                        upload_id=self._upload.id, state=UploadState.COMPLETED, reason=f"its file is {answer.status}"
                    )
                return answer
            if time.monotonic() + answer > give_up_at:
                raise StoreUnavailableError(
                    "the store still assembles the file; ask again later", upload_id=self._upload.id
                )
            self.session.cancellation.event.wait(answer)
            self.session.cancellation.check()

    def _planned_again(self, error: PartsMissingError) -> TransientError | PartsMissingError:
        """The parts that completion found missing, to be sent in another round."""
        beyond = [number for number in error.mismatched if number > self._table.count]
        if beyond:
            return PartsMissingError(
                upload_id=self._upload.id,
                missing=error.missing,
                mismatched=error.mismatched,
                message=f"the store holds parts this file does not have ({beyond[:5]}…): abort the upload and begin anew",
            )
        again = {number for first, last in error.missing for number in range(first, last + 1)} | set(error.mismatched)
        self._forget(again)
        # The store may have lost the upload, and been given another: URLs that name the old one are no good.
        self.urls.drop_all()
        return TransientError(error)
