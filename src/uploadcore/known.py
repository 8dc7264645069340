"""What this process knows of uploads from before, for as long as the database does not answer: signing goes on with it.

A URL signed for an upload that was aborted meanwhile is dead with its multipart upload, or what it brings is removed at the recheck. So what
was read less than a URL's life ago will do, unless it is known to be overtaken. Bounded, and held by the process itself: a cache may be
away at the same time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from uploadcore.errors import DatabaseUnavailableError
from uploadcore.ports import Clock

__all__ = ["LastKnown", "Record", "Versioned"]

MOST = 10_000
"""Records kept; beyond that the one read longest ago goes. Of 1 to 3 KB each, the upload's metadata included."""
PATIENCE = 1.0
"""Seconds a database may take to answer before it counts as away, where there is something to go on with."""
PATIENCE_WHILE_AWAY = 0.05
"""Seconds it may take once it does: enough for one that is back, little for each request while it is not."""
LONGEST_WAIT = 1.5
"""Seconds after which a caller is told that it does not answer, where there is nothing to go on with."""


class Versioned(Protocol):
    """What every record has."""

    @property
    def id(self) -> str:
        """Its name, which stays."""

    @property
    def version(self) -> int:
        """Grows with each change."""


Record = TypeVar("Record", bound=Versioned)


class LastKnown(Generic[Record]):
    """The newest version of each record that this process has seen, `life` old at most.

    Args:
        clock: Whose `monotonic()` the ages are measured by.
        life: How old a record may be that is gone on with; `None`: none is.
    """

    def __init__(self, clock: Clock, life: timedelta | None) -> None:
        """Know nothing."""
        self._clock = clock
        self._life = 0.0 if life is None else life.total_seconds()
        self._known: OrderedDict[str, tuple[Record, float]] = OrderedDict()
        self._is_away = False

    def keep(self, record: Record, *, as_of: float) -> None:
        """Remember a record, unless a newer version of it is known.

        Args:
            record: As the database had it.
            as_of: The clock's monotonic seconds when it was asked.
        """
        known = self._known.get(record.id)
        if not self._life or (known is not None and (known[0].version, known[1]) > (record.version, as_of)):
            return
        self._known[record.id] = (record, as_of)
        self._known.move_to_end(record.id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def is_known(self, record: Record) -> bool:
        """Whether this very copy is the one that is kept."""
        known = self._known.get(record.id)
        return known is not None and known[0] is record

    def forget(self, record_id: str) -> None:
        """It may be overtaken."""
        self._known.pop(record_id, None)

    def answered(self) -> None:
        """The database has answered, however late: it is slow perhaps, and not away."""
        self._is_away = False

    async def unless_answered(self, record_id: str, reading: asyncio.Task[Record | None]) -> Record | None:
        """What the database answers, or what is known where it does not.

        Args:
            record_id: Of which record.
            reading: The question under way, which goes on whatever becomes of the caller.

        Raises:
            DatabaseUnavailableError: It does not answer, and nothing is known that will do.
        """
        patience = LONGEST_WAIT
        if self._fresh(record_id) is not None:
            patience = PATIENCE_WHILE_AWAY if self._is_away else PATIENCE
        waiting = asyncio.ensure_future(self._clock.sleep(patience))
        try:
            await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        failure = DatabaseUnavailableError(f"the database did not answer within {patience:g} s")
        if reading.done():
            try:
                return reading.result()
            except DatabaseUnavailableError as exc:
                failure = exc
        self._is_away = True
        known = self._fresh(record_id)  # asked once more: it may have been overtaken meanwhile
        if known is None:
            raise failure
        return known

    def _fresh(self, record_id: str) -> Record | None:
        known = self._known.get(record_id)
        return known[0] if known is not None and self._clock.monotonic() - known[1] < self._life else None
