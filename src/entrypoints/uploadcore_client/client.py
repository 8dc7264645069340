"""The SDK's front door, for code that may block."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from uploadcore.errors import InvalidRequestError
from uploadcore.file import ChecksumAlgorithm
from uploadcore_client.api import Api, Session
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.connection import Timeouts
from uploadcore_client.downloading import Downloading
from uploadcore_client.journal import Journals, state_directory
from uploadcore_client.progress import Progress, ProgressCallback
from uploadcore_client.retry import RetryBudget, RetryPolicy
from uploadcore_client.sending import Wiring
from uploadcore_client.tracing import span
from uploadcore_client.uploading import Uploading, Wish
from uploadcore_client.wire import File, Upload

__all__ = ["DEFAULT_URL", "Client"]

DEFAULT_URL = "http://127.0.0.1:8484"
"""Where `uploadcore serve` listens unless told otherwise."""
MAX_PARALLEL = 64
RETRIES_PER_THREAD = 10


def silence(_: Progress) -> None:
    """Nobody wants to know."""


class Client:
    """Talks to an uploadcore service; moves files' bytes between the disk and the store itself. Safe for use by several threads.

    Args:
        url: Address of the service.
        token: Bearer token; `None` where the service needs none.
        parallel: Parts in flight at a time, 1 to 64. Four keep a fast line full and a slow one fair; memory is 1 MiB for each.
        state_dir: Where resume journals are kept; by default `UPLOADCORE_STATE_DIR`, else the platform's place for such things.
        retry: How often and how patiently calls are tried again.
        timeouts: How long to wait.
        tls: For `https`; by default the system's trusted authorities.

    Raises:
        InvalidRequestError: If the address or another value can't be used.

    Example:
        with Client("http://127.0.0.1:8484") as client:
            file = client.upload("trip.mp4")
            client.download(file.id, "copy.mp4")
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        parallel: int = 4,
        state_dir: Path | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not 1 <= parallel <= MAX_PARALLEL:
            raise InvalidRequestError(f"1 to {MAX_PARALLEL} parts can be in flight at a time, not {parallel}")
        timeouts = timeouts or Timeouts()
        self._api = Api(url, token, retry=retry or RetryPolicy(), timeouts=timeouts, tls=tls)
        self._wiring = Wiring(parallel=parallel, timeouts=timeouts, tls=tls)
        self._journals = Journals(state_dir or state_directory())

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._api.url

    def upload(
        self,
        path: str | Path,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        title: str = "",
        metadata: Mapping[str, str] | None = None,
        part_size: int | None = None,
        file_id: str | None = None,
        checksum: ChecksumAlgorithm = ChecksumAlgorithm.CRC64NVME,
        progress: ProgressCallback = silence,
        cancellation: Cancellation | None = None,
    ) -> File:
        """Upload a file; go on with an unfinished upload of it, if there is one.

        It is found by the journal an earlier call left, from whatever it ended, or by the server's own record. What the store has is not
        sent again. What is not given below, the upload that is taken up decides.

        Args:
            path: A regular file. It must not change meanwhile.
            filename: Its name at the service; by default its own.
            content_type: What it is served as; by default guessed from its name.
            title: Of the new file.
            metadata: Text kept with it.
            part_size: Bytes per part, instead of the service's choice.
            file_id: A file of yours that gets this as its new version.
            checksum: What to declare of the whole: CRC64NVME, for which the file is read once, or SHA-256, for which it is read twice.
            progress: Called about ten times a second, in this thread.
            cancellation: Cuts the call from another thread. The upload stays and can be taken up.

        Returns:
            The file, available.

        Raises:
            FileUnreadableError: It is missing, no regular file, or may not be read.
            FileChangedError: It changed. What was sent of it is dropped.
            TransferInUseError: Another process is uploading it.
            ServerUnreachableError: Service or store did not answer, patience spent.
            TransferCancelledError: It was cut.
            UploadCoreError: What the service answered: `UnauthenticatedError`, `QuotaExceededError`, `TooLargeError`,
                `StorageFullError` and others.
        """
        wish = Wish.of(
            Path(path),
            filename=filename,
            content_type=content_type,
            title=title,
            metadata=metadata,
            part_size=part_size,
            file_id=file_id,
            checksum=checksum,
        )
        with span("uploadcore upload"):
            return Uploading(self._session(cancellation), self._journals, self._wiring).run(Path(path), wish, progress)

    def resume(
        self,
        upload_id: str,
        path: str | Path | None = None,
        *,
        progress: ProgressCallback = silence,
        cancellation: Cancellation | None = None,
    ) -> File:
        """Go on with one upload.

        Args:
            upload_id: Which.
            path: Its file; by default the one this machine's journal names.
            progress: As in `upload`.
            cancellation: As in `upload`.

        Raises:
            InvalidRequestError: No path is given and no journal here names one, or the file has another size.
            UploadClosedError: The upload has ended.
            UploadCoreError: As in `upload`.
        """
        if path is None:
            path = self.path_of(upload_id)
        if path is None:
            raise InvalidRequestError(
                f"no journal on this machine names the file of upload {upload_id!r}: name it", upload_id=upload_id
            )
        wish = Wish.of(Path(path), filename=None, content_type=None)
        uploading = Uploading(self._session(cancellation), self._journals, self._wiring)
        with span("uploadcore upload"):
            return uploading.run(Path(path), wish, progress, upload_id=upload_id)

    def unfinished(self) -> list[tuple[str, Path]]:
        """`(upload id, path)` of the uploads to this service that calls on this machine have left unfinished, newest first."""
        return [
            (left.upload_id, Path(left.identity.path))
            for left in self._journals.find()
            if left.identity.server == self.url
        ]

    def path_of(self, upload_id: str) -> Path | None:
        """The file this machine's journal names for an upload."""
        found = (left.identity for left in self._journals.find(upload_id))
        return next((Path(identity.path) for identity in found if identity.server == self.url), None)

    def uploads(self, *, state: str | None = None, limit: int | None = None) -> list[Upload]:
        """Own uploads, newest first.

        Args:
            state: Only those in this state.
            limit: At most so many.
        """
        return list(islice(self._session().uploads(state=state), limit))

    def get_upload(self, upload_id: str) -> Upload:
        """One upload. Raises `UploadNotFoundError` for one that is unknown or not yours."""
        return self._session().upload(upload_id)

    def abort(self, upload_id: str) -> None:
        """Give an upload up; what has arrived is dropped. Idempotent.

        Raises:
            UploadNotFoundError: It is unknown, or not yours.
            UploadClosedError: It is completed: delete its file instead.
            UploadBusyError: It is being completed.
        """
        self._session().abort(upload_id)
        self._journals.drop(upload_id)

    def get_file(self, file_id: str) -> File:
        """One file. Raises `NoSuchFileError` for one that is unknown or not yours."""
        return self._session().file(file_id)

    def download(
        self,
        file_id: str,
        target: str | Path | None = None,
        *,
        replace: bool = False,
        progress: ProgressCallback = silence,
        cancellation: Cancellation | None = None,
    ) -> Path:
        """Download a file; go on with an unfinished download of it to the same place, if there is one.

        Args:
            file_id: Which.
            target: Where to, or into which folder; by default the file's own name in the current folder.
            replace: Whether a file that is there already may be replaced.
            progress: As in `upload`.
            cancellation: As in `upload`; what has arrived is kept.

        Returns:
            Where it is. It stands there whole and compared with the file's checksum, or not at all.

        Raises:
            TargetExistsError: A file is there already.
            ChecksumMismatchError: What arrived is not the file. Nothing of it is kept.
            FileNotReadyError: It has no content yet, or any more.
            UploadCoreError: As in `upload`.
        """
        downloading = Downloading(self._session(cancellation), self._wiring)
        with span("uploadcore download"):
            return downloading.run(file_id, None if target is None else Path(target), progress, replace=replace)[1]

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _session(self, cancellation: Cancellation | None = None) -> Session:
        budget = RetryBudget(RETRIES_PER_THREAD * self._wiring.parallel)
        return self._api.session(cancellation or Cancellation(), budget)
