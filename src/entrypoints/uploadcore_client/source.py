"""The file to upload: what it was when we began, positioned reads of it, and whether it still is the same."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from uploadcore_client.errors import FileChangedError, FileUnreadableError

__all__ = ["Snapshot", "SourceFile"]

SAMPLES = 16
SAMPLE_SIZE = 64 * 1024
"""Bytes of each sample: 1 MiB in all, read before the first request, whatever the size of the file."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What tells a file from the one it may become. Sizes in bytes, time in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Snapshot:
        """The snapshot that a `stat` shows."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """A file open for reading by several threads at once.

    No `mmap`: a mapped file that shrinks kills the process with SIGBUS.

    Args:
        path: The file.
        positioned: Whether to read with `os.preadv`; by default wherever the platform has it. Otherwise reads take turns.

    Raises:
        FileUnreadableError: If it is missing, no regular file, or may not be read.
    """

    def __init__(self, path: Path, *, positioned: bool = hasattr(os, "preadv")) -> None:
        self.path = path
        try:
            status = path.stat()  # before opening: opening a pipe would wait for its writer
            if stat.S_ISDIR(status.st_mode):
                raise FileUnreadableError(path, "is a directory: name the files in it")
            if not stat.S_ISREG(status.st_mode):
                raise FileUnreadableError(
                    path, "is no regular file: its size must be known and its parts be readable again"
                )
            self._raw = io.FileIO(path)
        except FileNotFoundError:
            raise FileUnreadableError(path, "does not exist") from None
        except OSError as exc:
            raise FileUnreadableError(path, f"can't be read: {exc.strerror or exc}") from exc
        self._descriptor = self._raw.fileno()
        self._lock = None if positioned else threading.Lock()
        self.snapshot = Snapshot.of(os.fstat(self._descriptor))

    @property
    def size(self) -> int:
        """Bytes when it was opened."""
        return self.snapshot.size

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from byte `offset` on; how many bytes that were. 0 means the file ends there."""
        if self._lock is None:
            return os.preadv(self._descriptor, [view], offset)
        with self._lock:
            self._raw.seek(offset)
            return self._raw.readinto(view) or 0

    def check_unchanged(self) -> None:
        """See to it that size, time of change and identity are still those it was opened with.

        Raises:
            FileChangedError: If they aren't, or it is gone.
        """
        try:
            now = Snapshot.of(self.path.stat())
        except FileNotFoundError:
            raise FileChangedError(self.path, "was removed") from None
        if now == self.snapshot:
            return
        if (now.device, now.inode) != (self.snapshot.device, self.snapshot.inode):
            raise FileChangedError(self.path, "was replaced")
        if now.size != self.size:
            raise FileChangedError(self.path, f"went from {self.size} to {now.size} bytes")
        raise FileChangedError(self.path, "was written to")

    def sampled_hash(self) -> str:
        """SHA-256 over up to 16 samples of 64 KiB, spread evenly with the first and the last bytes among them, in hex."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(SAMPLE_SIZE))
        last = max(0, self.size - SAMPLE_SIZE)
        for offset in sorted({last * index // (SAMPLES - 1) for index in range(SAMPLES)}):
            read = self.read_into(buffer, offset)
            digest.update(offset.to_bytes(8, "big"))
            digest.update(buffer[:read])
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """What the server keeps to find an unfinished upload of this very file by: size, time of change and samples, hashed.

        The time of change is part of it, so that a file edited in place between its samples is never taken for the old one.
        """
        text = f"uploadcore-1:{self.size}:{self.snapshot.mtime_ns}:{self.sampled_hash()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def close(self) -> None:
        """Close it. Idempotent."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
