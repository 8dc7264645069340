"""Signed URLs, just in time: a batch when one is needed, the next while it is being used, anew before they run out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime

from uploadcore_client.errors import UnexpectedAnswerError
from uploadcore_client.wire import SignedPart

__all__ = ["Sign", "SignedUrls", "batch_size"]

Sign = Callable[[Sequence[int]], tuple[list[SignedPart], datetime]]
"""Asks the service for URLs of these parts; returns them with the service's time."""

LEEWAY = 60.0
"""Seconds. A URL with less life left is taken as run out: the store looks at the time when the request has arrived, by its own clock."""


def batch_size(parallel: int) -> int:
    """URLs asked for at a time: what the window needs for a while, within 32 to 100.

    A hundred take the service about ten times as long as one; and a batch that waits too long runs out unused.
    """
    return min(100, max(32, 8 * parallel))


class SignedUrls:
    """URLs for the parts of one round, in the order they will be asked for. Safe for use by several threads.

    Args:
        sign: Asks the service.
        batch: How many to ask for at a time.
    """

    def __init__(self, sign: Sign, *, batch: int) -> None:
        self._sign = sign
        self._batch = batch
        self._lock = threading.Lock()
        self._ready: dict[int, tuple[SignedPart, float]] = {}
        self._coming: dict[int, Future[Mapping[int, SignedPart]]] = {}
        self._unsigned: deque[int] = deque()

    def plan(self, part_numbers: Iterable[int]) -> None:
        """The parts that will be asked for, in this order."""
        with self._lock:
            self._unsigned = deque(number for number in part_numbers if number not in self._ready)

    def add(self, parts: Iterable[SignedPart], server_time: datetime) -> None:
        """Keep URLs. Their life is counted from now, by the service's clock: this machine's may be wrong."""
        now = time.monotonic()
        with self._lock:
            for part in parts:
                self._ready[part.part_number] = (part, now + (part.expires_at - server_time).total_seconds())

    def get(self, part_number: int) -> SignedPart:
        """A URL with some life left; waits for it if it must. A part that is tried again gets the same one while it is good.

        Raises:
            UploadCoreError: What the service answered instead.
        """
        numbers: list[int] = []
        with self._lock:
            # In one step: what is on its way at one look and has arrived before the next would be asked for twice.
            signed, coming = self._alive(part_number), self._coming.get(part_number)
            if signed is None and coming is None:
                numbers = self._claimed(part_number)
                coming = self._promised(numbers)
        if signed is None:
            assert coming is not None, "promised above"
            if numbers:
                self._fetch(numbers, coming)
            # Used as it is, however short its life: the service does not give a longer one. Not looked for among what is ready: another part
            # may have had all dropped meanwhile.
            signed = coming.result().get(part_number)
            if signed is None:
                raise UnexpectedAnswerError(f"the service gave no URL for part {part_number}", status=200)
        self._look_ahead()
        return signed

    def drop(self, part_number: int) -> None:
        """This one is no longer good, or no longer needed."""
        with self._lock:
            self._ready.pop(part_number, None)

    def drop_all(self) -> None:
        """None is any good: the credentials they were signed with, or the multipart upload they name, are gone."""
        with self._lock:
            self._ready.clear()

    def _alive(self, part_number: int) -> SignedPart | None:
        """A URL that is ready and lives for a while; the caller holds the lock."""
        signed, until = self._ready.get(part_number, (None, 0.0))
        if signed is not None and until - time.monotonic() > LEEWAY:
            return signed
        self._ready.pop(part_number, None)
        return None

    def _look_ahead(self) -> None:
        """Ask for the next batch once half of one is left and none is on its way."""
        with self._lock:
            if self._coming or not self._unsigned or len(self._ready) > self._batch // 2:
                return
            numbers = self._claimed()
            coming = self._promised(numbers)
        # A daemon: nobody must wait for a call that a cut transfer has no use for.
        threading.Thread(target=self._fetch, args=(numbers, coming), name="uploadcore-sign", daemon=True).start()

    def _claimed(self, *first: int) -> list[int]:
        """A batch of parts nobody has asked a URL for, with these at its head."""
        numbers = list(first)
        while self._unsigned and len(numbers) < self._batch:
            number = self._unsigned.popleft()
            if number not in first:
                numbers.append(number)
        return numbers

    def _promised(self, numbers: list[int]) -> Future[Mapping[int, SignedPart]]:
        coming: Future[Mapping[int, SignedPart]] = Future()
        self._coming.update(dict.fromkeys(numbers, coming))
        return coming

    def _fetch(self, numbers: list[int], coming: Future[Mapping[int, SignedPart]]) -> None:
        """Ask for a batch. Never raises: whoever waits for it does, and what nobody waits for is asked for again."""
        try:
            parts, server_time = self._sign(numbers)
        except BaseException as exc:  # noqa: BLE001
            with self._lock:
                self._unsigned.extendleft(reversed(numbers))
            self._arrived(numbers)
            coming.set_exception(exc)
        else:
            self.add(parts, server_time)
            self._arrived(numbers)
            coming.set_result({part.part_number: part for part in parts})

    def _arrived(self, numbers: list[int]) -> None:
        with self._lock:
            for number in numbers:
                self._coming.pop(number, None)
