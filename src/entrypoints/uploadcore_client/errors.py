"""What only a client can run into. Everything the server says becomes the core's own error of the same `code`."""

from __future__ import annotations

from pathlib import Path

from uploadcore.errors import UploadCoreError

__all__ = [
    "FileChangedError",
    "FileUnreadableError",
    "FileUnwritableError",
    "ServerUnreachableError",
    "TargetExistsError",
    "TransferCancelledError",
    "TransferInUseError",
    "UnauthenticatedError",
    "UnexpectedAnswerError",
]


class FileChangedError(UploadCoreError):
    """The file was written to, replaced or removed while it was being uploaded: what was sent is of no use.

    Attributes:
        path: The file.
    """

    code = "file_changed"

    def __init__(self, path: Path, how: str, *, upload_id: str | None = None) -> None:
        super().__init__(f"{path} {how} while it was being uploaded: upload it again", upload_id=upload_id)
        self.path = path


class FileUnreadableError(UploadCoreError):
    """There is nothing at this path that could be uploaded.

    Attributes:
        path: What was asked for.
    """

    code = "file_unreadable"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


class FileUnwritableError(UploadCoreError):
    """A download can't be written here.

    Attributes:
        path: Where to.
    """

    code = "file_unwritable"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} can't be written: {why}")
        self.path = path


class TargetExistsError(UploadCoreError):
    """A download would replace a file that is there already.

    Attributes:
        path: That file.
    """

    code = "target_exists"

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists already and is not replaced unless asked for")
        self.path = path


class ServerUnreachableError(UploadCoreError):
    """The service did not answer.

    Attributes:
        url: Where it was looked for, without any secret.
        refused: Nothing listens there.
    """

    code = "server_unreachable"

    def __init__(self, url: str, why: str, *, refused: bool = False) -> None:
        super().__init__(f"no answer from {url}: {why}")
        self.url = url
        self.refused = refused


class UnauthenticatedError(UploadCoreError):
    """The token is missing, wrong or too old."""

    code = "unauthenticated"


class UnexpectedAnswerError(UploadCoreError):
    """The service or the store answered something this client does not understand.

    Attributes:
        status: The HTTP status.
        answered_code: The `code` of the answer, where it had one.
    """

    code = "unexpected_answer"

    def __init__(self, message: str, *, status: int, answered_code: str = "", upload_id: str | None = None) -> None:
        super().__init__(message, upload_id=upload_id)
        self.status = status
        self.answered_code = answered_code


class TransferCancelledError(UploadCoreError):
    """The transfer was cut by its caller. What the store has stays there; the same call goes on from it."""

    code = "cancelled"


class TransferInUseError(UploadCoreError):
    """Another process on this machine is uploading this very file, or downloading to this very place.

    Attributes:
        path: The file.
    """

    code = "transfer_in_use"

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is being transferred by another process: wait for it, or stop it first")
        self.path = path
