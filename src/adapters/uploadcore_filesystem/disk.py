"""The few things done to a disk here, each saying what is durable when it returns.

A file's bytes are durable after `fsync` of the file; its name, and the absence of a removed name, after `fsync` of the folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from uploadcore.errors import StorageFullError, StoreUnavailableError

__all__ = [
    "copy_range",
    "create_exclusive",
    "make_folders",
    "map_os_errors",
    "sync_file",
    "sync_folder",
    "unlink_if_there",
    "write_at",
]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, or more than this filesystem lets one file hold (ext4: 16 TiB)."""

_NO_SERVER_SIDE_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What copy_file_range(2) answers where this pair of files can't be copied so."""

_COPY_AT_ONCE = 1024 * 1024
_KERNEL_COPY_AT_ONCE = 1024 * 1024 * 1024

_datasync = getattr(os, "fdatasync", os.fsync)
"""The bytes and the size, not the times. macOS has no such call."""


@contextmanager
def map_os_errors(doing: str) -> Iterator[None]:
    """Tell an `OSError` in the core's words.

    Raises:
        StorageFullError: No room is left, of whatever kind.
        StoreUnavailableError: Anything else the system refused.
    """
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        if exc.errno in _FULL:
            raise StorageFullError(f"{doing}: {reason}") from exc
        raise StoreUnavailableError(f"{doing}: {reason}") from exc


def sync_file(descriptor: int) -> None:
    """Make a file's bytes and size durable."""
    _datasync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, and the absence of those removed from it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(*folders: Path) -> None:
    """Make folders that may be there already, and those above them. Durable but for the names of those above."""
    for folder in folders:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(folder.parent)


def create_exclusive(path: Path, content: bytes = b"") -> None:
    """Write a new file whose bytes are durable; its name is after a `sync_folder`, and that is all there is of an empty one.

    Raises:
        FileExistsError: Something has that name.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if content:
            write_at(descriptor, [content], 0)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_if_there(path: Path) -> None:
    """Remove a file or a folder's whole tree; an absent one is no error. Durable after a `sync_folder`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        # Linux says the former of a folder, POSIX the latter.
        if not path.is_dir():
            raise
        shutil.rmtree(path)


def write_at(descriptor: int, chunks: Sequence[bytes], offset: int) -> int:
    """Write all the chunks from `offset` on, however many calls that takes; return the number of bytes. Not durable."""
    pending = [memoryview(chunk) for chunk in chunks if chunk]
    position = offset
    while pending:
        written = os.pwritev(descriptor, pending, position)
        position += written
        while pending and written >= len(pending[0]):
            written -= len(pending.pop(0))
        if written:
            pending[0] = pending[0][written:]
    return position - offset


def copy_range(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    """Copy `size` bytes from one file into another; inside the kernel, sharing blocks, where the filesystem can. Not durable.

    Raises:
        OSError: Also if the source ends early.
    """
    copied = 0
    in_kernel = hasattr(os, "copy_file_range")
    while copied < size:
        step = 0
        if in_kernel:
            at_once = min(size - copied, _KERNEL_COPY_AT_ONCE)
            try:
                step = os.copy_file_range(source, target, at_once, source_offset + copied, target_offset + copied)
            except OSError as exc:
                if exc.errno not in _NO_SERVER_SIDE_COPY:
                    raise
                in_kernel = False
                continue
        else:
            block = os.pread(source, min(size - copied, _COPY_AT_ONCE), source_offset + copied)
            step = write_at(target, [block], target_offset + copied)
        if step == 0:
            raise OSError(errno.EIO, "a part is shorter than it was")
        copied += step
