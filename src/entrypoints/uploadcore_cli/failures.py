"""What goes wrong, as one line on stderr and an exit status that scripts can tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import IO, Any

import click

from uploadcore.errors import UploadCoreError

__all__ = ["CommandError", "ExitStatus", "of_error"]


class ExitStatus(IntEnum):
    """Exit statuses. They are public: scripts compare them."""

    OK = 0
    FAILED = 1
    """Something that has no status of its own."""
    USAGE = 2
    """Wrong arguments or settings."""
    LOCAL_FILE = 3
    """A local file can't be read or written, changed meanwhile, or is there already."""
    UNREACHABLE = 4
    """No server answers."""
    UNAUTHORISED = 5
    """The token is missing or no good, or does not allow it."""
    NOT_FOUND = 6
    """No such upload or file, or it has ended, or has no content."""
    REFUSED = 7
    """Quota, size or type."""
    FULL = 8
    """No room left, at the store or here."""
    CORRUPT = 9
    """Bytes differ from what their checksum says."""
    UNAVAILABLE = 10
    """Server or store are too busy or away for a moment. Try again."""
    INTERRUPTED = 130
    """Ctrl-C."""


_BY_CODE = {
    "cancelled": ExitStatus.INTERRUPTED,
    "checksum_mismatch": ExitStatus.CORRUPT,
    "content_type_not_allowed": ExitStatus.REFUSED,
    "database_unavailable": ExitStatus.UNAVAILABLE,
    "file_changed": ExitStatus.LOCAL_FILE,
    "file_not_found": ExitStatus.NOT_FOUND,
    "file_not_ready": ExitStatus.NOT_FOUND,
    "file_unreadable": ExitStatus.LOCAL_FILE,
    "file_unwritable": ExitStatus.LOCAL_FILE,
    "forbidden": ExitStatus.UNAUTHORISED,
    "invalid_request": ExitStatus.USAGE,
    "overloaded": ExitStatus.UNAVAILABLE,
    "quota_exceeded": ExitStatus.REFUSED,
    "server_unreachable": ExitStatus.UNREACHABLE,
    "storage_full": ExitStatus.FULL,
    "store_unavailable": ExitStatus.UNAVAILABLE,
    "target_exists": ExitStatus.LOCAL_FILE,
    "too_large": ExitStatus.REFUSED,
    "transfer_in_use": ExitStatus.LOCAL_FILE,
    "unauthenticated": ExitStatus.UNAUTHORISED,
    "upload_busy": ExitStatus.UNAVAILABLE,
    "upload_closed": ExitStatus.NOT_FOUND,
    "upload_not_found": ExitStatus.NOT_FOUND,
}


class CommandError(click.ClickException):
    """Ends the command with one line on stderr, and lines that say what to do next, if there are any."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED, *, advice: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = int(status)  # type: ignore[misc] # click declares it for the class, and reads it from the instance
        self.advice = tuple(advice)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.echo(f"uploadcore: {self.message}", file=file, err=True)
        for line in self.advice:
            click.echo(line, file=file, err=True)


def of_error(error: UploadCoreError) -> CommandError:
    """The line and the status for an error."""
    status = _BY_CODE.get(error.code, ExitStatus.FAILED)
    message = error.message
    url = getattr(error, "url", "")
    if status is ExitStatus.UNREACHABLE and getattr(error, "refused", False):
        message = f"no server at {url}: start one with 'uploadcore serve'"
    elif status is ExitStatus.UNAUTHORISED and error.code == "unauthenticated":
        message = "the server does not accept this token, or wants one: give it with --token or UPLOADCORE_TOKEN"
    elif error.code == "quota_exceeded":
        message = f"quota used up: {error.message}"
    elif error.code == "storage_full":
        message = f"no room left: {error.message}"
    return CommandError(message, status)
