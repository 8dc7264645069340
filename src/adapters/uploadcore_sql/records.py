"""What the core's code sees of a transaction: its records, all run in the same one."""

from __future__ import annotations

from collections.abc import Callable

from uploadcore_sql.files import SqlFiles
from uploadcore_sql.idempotency import SqlIdempotency
from uploadcore_sql.outbox import SqlOutbox
from uploadcore_sql.quotas import SqlQuotas
from uploadcore_sql.running import Run
from uploadcore_sql.uploads import SqlUploads

__all__ = ["SqlTransaction"]


class SqlTransaction:
    """The records, within one transaction.

    Args:
        run: Runs their queries in it.
        wrote_events: Called when one has written an event.
    """

    __slots__ = ("files", "idempotency", "outbox", "quotas", "uploads")

    def __init__(self, run: Run, wrote_events: Callable[[], None]) -> None:
        self.uploads = SqlUploads(run, wrote_events)
        self.files = SqlFiles(run)
        self.outbox = SqlOutbox(run, wrote_events)
        self.idempotency = SqlIdempotency(run)
        self.quotas = SqlQuotas(run)
