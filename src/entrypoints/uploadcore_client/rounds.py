"""What one round of a transfer is made of: the parts its threads share, and the body of each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from uploadcore.plan import Part
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.checksums import crc64nvme
from uploadcore_client.errors import FileChangedError, FileUnreadableError
from uploadcore_client.progress import Meter
from uploadcore_client.source import SourceFile

__all__ = ["PartBody", "Round"]


class Round:
    """The parts still to be dealt with in one round, and how it ended."""

    def __init__(self, part_numbers: Iterable[int]) -> None:
        self._queue = deque(part_numbers)
        self._lock = threading.Lock()
        self.is_over = threading.Event()
        self.is_cut = False
        self.error: BaseException | None = None
        self.threads: set[threading.Thread] = set()

    def take(self) -> int | None:
        """The next part; `None` when there is none, or there is no sense in sending more."""
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def stop(self, error: BaseException | None = None) -> None:
        """Begin no more parts. A changed file stops those in flight too: nothing of it is of use."""
        with self._lock:
            self._queue.clear()
            self.error = self.error or error
            self.is_cut = self.is_cut or isinstance(error, FileChangedError)

    def leave(self, *threads: threading.Thread) -> None:
        """These threads are done; the last one ends the round."""
        with self._lock:
            self.threads.difference_update(threads)
            if not self.threads:
                self.is_over.set()


class PartBody:
    """One reading of one part: views of one buffer, read at their offset, hashed, and handed on while nothing has been copied."""

    def __init__(
        self,
        source: SourceFile,
        part: Part,
        view: memoryview,
        *,
        meter: Meter,
        stage: Round,
        cancellation: Cancellation,
    ) -> None:
        self._source = source
        self._part = part
        self._view = view
        self._meter = meter
        self._round = stage
        self._cancellation = cancellation
        self.crc = 0
        self.sent = 0

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self.pieces():
            yield piece
            self.sent += len(piece)
            self._meter.moves(self._part.part_number, len(piece))

    def pieces(self) -> Iterator[memoryview]:
        """What the part holds, without counting it as sent."""
        length, done = self._part.length or 0, 0
        while done < length:
            self._cancellation.check()
            if self._round.is_cut:
                raise FileChangedError(self._source.path, "changed")
            try:
                read = self._source.read_into(self._view[: length - done], self._part.offset + done)
            except OSError as exc:
                raise FileUnreadableError(self._source.path, f"can't be read: {exc.strerror or exc}") from exc
            if read == 0:
                raise FileChangedError(self._source.path, "became shorter")
            piece = self._view[:read]
            self.crc = crc64nvme(piece, self.crc)
            done += read
            yield piece
