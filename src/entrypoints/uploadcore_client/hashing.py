"""SHA-256 of the file, read beside the transfer: unlike a CRC it can't be put together from parts."""

from __future__ import annotations

import base64
import hashlib
import threading

from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.errors import FileUnreadableError
from uploadcore_client.source import SourceFile

__all__ = ["Sha256Reading"]

READ_SIZE = 1024 * 1024


class Sha256Reading:
    """Reads a file from its beginning to its end in a thread of its own.

    Args:
        source: The file. It must stay open until `close` has returned.
        cancellation: Makes `result` give up.
    """

    def __init__(self, source: SourceFile, cancellation: Cancellation) -> None:
        self._source = source
        self._cancellation = cancellation
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._read, name="uploadcore-sha256", daemon=True)
        self._thread.start()

    def result(self) -> Checksum:
        """The SHA-256; waits for it.

        Raises:
            TransferCancelledError: It was cut.
            FileUnreadableError: The file could not be read to its end.
        """
        while self._thread.is_alive():
            self._thread.join(0.1)
            self._cancellation.check()
        self._cancellation.check()
        if self._error is not None:
            raise FileUnreadableError(self._source.path, f"can't be read: {self._error.strerror}") from self._error
        return Checksum(ChecksumAlgorithm.SHA256, base64.b64encode(self._digest.digest()).decode())

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._is_closed = True
        self._thread.join()

    def _read(self) -> None:
        view = memoryview(bytearray(READ_SIZE))
        offset = 0
        try:
            while not self._is_closed and (read := self._source.read_into(view, offset)):
                self._digest.update(view[:read])
                offset += read
        except OSError as exc:
            self._error = exc
