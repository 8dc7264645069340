"""What an upload costs the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from uploadcore import UploadCore
from uploadcore.ports import FailedDelivery, IdempotencyRecord
from uploadcore.states import UploadState
from uploadcore.testing import make_event, make_file, make_upload
from uploadcore.upload import Timer, Transition
from uploadcore_memory import MEMORY_LIMITS, MemoryObjectStore
from uploadcore_sql import SqlDatabase
from uploadcore_sql.tables import METADATA

HOUR = timedelta(hours=1)
PART = MEMORY_LIMITS.min_part_size


async def upload_and_complete(database: SqlDatabase, *, parts: int) -> tuple[int, dict[str, int]]:
    """The write transactions of one whole upload, and the rows it leaves."""
    store = MemoryObjectStore()
    async with UploadCore(store=store, database=database) as core:
        upload = await core.uploads.initiate(owner="u_1", filename="trip.mp4", size=parts * PART, part_size=PART)
        for part in await core.uploads.sign_parts(upload.id, owner="u_1", part_numbers=range(1, parts + 1)):
            await store.put(part.request, bytes(PART))
        await core.uploads.list_parts(upload.id, owner="u_1")
        await core.uploads.complete(upload.id, owner="u_1")
    connection = sqlite3.connect(database.path)
    rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in METADATA.tables}
    connection.close()
    return database.write_transactions, rows


@pytest.mark.parametrize(("parts", "transactions"), [(1, 3), (2, 4), (40, 4)])
async def test_an_upload_costs_a_constant_number_of_write_transactions_and_rows(
    url: str, parts: int, transactions: int
) -> None:
    """docs/database.md names these numbers."""
    written, rows = await upload_and_complete(SqlDatabase(url), parts=parts)
    assert written == transactions
    assert rows == {
        "uploadcore_installation": 1,  # of the database
        "uploadcore_quotas": 1,  # of the owner
        "uploadcore_uploads": 1,
        "uploadcore_files": 1,
        "uploadcore_file_labels": 0,
        "uploadcore_events": 1,
        "uploadcore_deliveries": 0,  # until the event is relayed
        "uploadcore_idempotency_keys": 0,
    }


@pytest.fixture
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Every statement that goes to a database, with its values."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Connection, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, values))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


WHAT_IS_READ_WHOLE = ("SCAN uploadcore_installation", "INDEX ix_uploadcore_events_unnumbered")
"""One row; and the index of what nobody has taken up yet."""


async def test_no_statement_scans_or_sorts_a_table(database: SqlDatabase, statements: list[tuple[str, Any]]) -> None:
    statements.clear()
    await use_every_statement(database)
    seen = dict(statements)
    connection = sqlite3.connect(database.path)
    plans = {
        statement: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        for statement, values in seen.items()
    }
    connection.close()
    assert len(plans) > 20
    slow = {
        statement: step
        for statement, plan in plans.items()
        for step in plan
        if (step.startswith("SCAN uploadcore") and not step.endswith(WHAT_IS_READ_WHOLE)) or "TEMP B-TREE" in step
    }
    assert slow == {}


async def test_uploads_are_found_by_the_index_that_leaves_the_fewest(
    database: SqlDatabase, statements: list[tuple[str, Any]]
) -> None:
    statements.clear()
    async with database.reader() as tx:
        for fingerprint in (None, "f"):
            for state in (None, UploadState.UPLOADING):
                await tx.uploads.find(owner="u_1", state=state, fingerprint=fingerprint, before=None, limit=10)
    connection = sqlite3.connect(database.path)
    plans = [
        connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchone()[3] for statement, values in statements
    ]
    connection.close()
    indexes = [plan.partition("uploadcore_uploads_")[2] for plan in plans]
    by_fingerprint = "fingerprint (owner=? AND fingerprint=?)"
    assert indexes == ["owner (owner=?)", "state (owner=? AND state=?)", by_fingerprint, by_fingerprint]


async def use_every_statement(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        upload = await tx.uploads.add(make_upload("a", fingerprint="f"), lifetime=HOUR, lease=HOUR)
        await tx.uploads.save(Transition(upload).setting(Timer.LEASE, HOUR))
        file = await tx.files.add(make_file("f", labels=("x", "y")))
        file = await tx.files.save(replace(file, labels=("y", "z")), lease=-HOUR)
        await tx.files.save(file, lease=HOUR, lease_passed=True)
        await tx.outbox.add(make_event("e"))
        await tx.outbox.number(["here", "there"], 10)
        claimed = await tx.outbox.claim("here", 10, lease=HOUR)
        await tx.outbox.failed([FailedDelivery(delivery, HOUR, "no") for delivery in claimed])
        await tx.outbox.failed([FailedDelivery(delivery, None, "no") for delivery in claimed])
        for destination in (None, "here"):
            await tx.outbox.dead_letters(destination=destination, after=None, limit=10)
        for event_id in ("e", None):
            await tx.outbox.replay("here", event_id=event_id, limit=10)
            await tx.outbox.discard("here", event_id=event_id, limit=10)
        await tx.outbox.delivered(await tx.outbox.claim("there", 10, lease=HOUR))
        await tx.outbox.purge(older_than=HOUR, dead_older_than=HOUR)
        await tx.outbox.number([], 10)
        for record in ("a", "b"):
            await tx.idempotency.claim(IdempotencyRecord("u_1", "key", "print", record), kept=HOUR)
        await tx.idempotency.purge(older_than=HOUR)
        await tx.quotas.reserve("u_1", size=1, max_uploads=5, max_bytes=5)
        await tx.quotas.release("u_1", size=1)
    async with database.reader() as tx:
        await tx.uploads.get("a")
        await tx.uploads.due(10)
        await tx.uploads.by_keys(["up/a", "up/b"])
        await tx.files.get("f")
        await tx.files.due(10)
        for status in (None, file.status):
            for label in (None, "y"):
                for before in (None, (file.created_at or pytest.fail("not set"), "f")):
                    await tx.files.find(owner="u_1", status=status, label=label, before=before, limit=10)
        for state in (None, upload.state):
            for fingerprint in (None, "f"):
                for before in (None, (upload.created_at or pytest.fail("not set"), "a")):
                    await tx.uploads.find(owner="u_1", state=state, fingerprint=fingerprint, before=before, limit=10)
