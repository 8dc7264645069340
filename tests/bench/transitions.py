"""One transition (a conditional UPDATE, and the INSERT of an event, in one transaction) against the same statements on the bare driver.

    python -m tests.bench.transitions

At 1, 16 and 64 clients, each with an upload of its own: PostgreSQL against asyncpg with a pool as large as ours, SQLite against `sqlite3`
in one thread. Durable on both sides. They run in turns; the ratio is the median over the turns.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Protocol

import asyncpg
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from tests.servers.postgres import PostgresServer
from uploadcore.events import EventType
from uploadcore.testing import make_upload
from uploadcore.upload import Timer, Transition, Upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.events import _INSERT, event_values
from uploadcore_sql.uploads import _update, _values

TURNS = 5
SECONDS = 1.5
CLIENTS = (1, 16, 64)
POOL = 16
HOUR = timedelta(hours=1)

Transit = Callable[[int], Awaitable[None]]
"""Carries out one transition of a client's upload."""
_numbers = itertools.count()


class Bare(Protocol):
    """The bare driver."""

    async def transit(self, update: list[Any], insert: list[Any]) -> bool:
        """Begin, update, insert, commit; whether there was a row to update."""


class Statements:
    """What SQLAlchemy makes of ours, for the bare driver, and the values of a client's next transition."""

    def __init__(self, dialect: Dialect, uploads: list[Upload]) -> None:
        self._update = _update((Timer.LEASE,), ()).compile(dialect=dialect)
        self._insert = _INSERT.compile(dialect=dialect, column_keys=list(self._told(uploads[0])))
        self.update, self.insert = str(self._update), str(self._insert)
        self._version = [upload.version for upload in uploads]
        self._updating = [self._arguments(self._update, self._changes(upload)) for upload in uploads]
        self._inserting = [self._arguments(self._insert, self._told(upload)) for upload in uploads]
        self._version_at = (self._update.positiontup or []).index("version_")
        self._id_at = (self._insert.positiontup or []).index("id")

    def next(self, client: int) -> tuple[list[Any], list[Any]]:
        """The values of both."""
        update, insert = list(self._updating[client]), list(self._inserting[client])
        update[self._version_at] = self._version[client]
        insert[self._id_at] = f"bare-{next(_numbers)}"
        self._version[client] += 1
        return update, insert

    @staticmethod
    def _arguments(compiled: Any, values: dict[str, Any]) -> list[Any]:
        found = compiled.construct_params(values)
        return [found[name] for name in compiled.positiontup]

    @staticmethod
    def _changes(upload: Upload) -> dict[str, Any]:
        values = {f"new_{name}": value for name, value in _values(upload).items()}
        held = {"held_by": upload.lease_owner, "new_lease_owner": upload.lease_owner}
        return values | held | {"id_": upload.id, "version_": upload.version, "lease_until_after": 3_600_000_000}

    @staticmethod
    def _told(upload: Upload) -> dict[str, Any]:
        return event_values(Transition(upload).announcing(EventType.UPLOAD_ABORTED).events[0])


class BareAsyncpg:
    """asyncpg, and its pool."""

    def __init__(self, pool: asyncpg.Pool, statements: Statements) -> None:
        self._pool = pool
        self._statements = statements

    async def transit(self, update: list[Any], insert: list[Any]) -> bool:
        """As its documentation shows it."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(self._statements.update, *update)
            await connection.execute(self._statements.insert, *insert)
            return row is not None


class BareSqlite:
    """sqlite3, in one thread with a queue."""

    def __init__(self, path: str, statements: Statements) -> None:
        self._path = path
        self._statements = statements
        self._jobs: queue.SimpleQueue[tuple[list[Any], list[Any], asyncio.Future[bool]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    async def transit(self, update: list[Any], insert: list[Any]) -> bool:
        """Queue it."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._jobs.put((update, insert, future))
        return await future

    def stop(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        while (job := self._jobs.get()) is not None:
            update, insert, future = job
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute(self._statements.update, update).fetchone()
            connection.execute(self._statements.insert, insert)
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(future.set_result, row is not None)
        connection.close()


def ours(database: SqlDatabase, uploads: list[Upload]) -> Transit:
    """What the core does."""
    latest = list(uploads)

    async def transit(client: int) -> None:
        upload = latest[client]
        transition = Transition(upload).setting(Timer.LEASE, HOUR).announcing(EventType.UPLOAD_ABORTED)
        async with database.transaction(single=True) as tx:
            latest[client] = await tx.uploads.save(transition)

    return transit


def bare(driver: Bare, statements: Statements) -> Transit:
    """What the driver alone does."""

    async def transit(client: int) -> None:
        assert await driver.transit(*statements.next(client)), "nothing was updated"

    return transit


async def rate(transit: Transit, clients: int, seconds: float) -> float:
    """Transitions a second."""
    begun = time.perf_counter()
    end = begun + seconds
    done = 0

    async def work(client: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await transit(client)
            done += 1

    await asyncio.gather(*(work(client) for client in range(clients)))
    return done / (time.perf_counter() - begun)


async def added(database: SqlDatabase, prefix: str) -> list[Upload]:
    """An upload for each client."""
    async with database.transaction() as tx:
        return [
            await tx.uploads.add(make_upload(f"{prefix}{number}"), lifetime=HOUR, lease=HOUR)
            for number in range(max(CLIENTS))
        ]


async def compare(name: str, target: float, first: Transit, second: Transit, turns: int) -> list[str]:
    """The lines to print."""
    lines = []
    for clients in CLIENTS:
        for transit in (first, second):
            await rate(transit, clients, SECONDS / 3)
        rates = [[await rate(transit, clients, SECONDS) for transit in (first, second)] for _ in range(turns)]
        ratios = [a / b for a, b in rates]
        lines.append(
            f"transition_{name}_{clients}_clients {statistics.median(ratios):.2f} (target {target}; min {min(ratios):.2f} "
            f"max {max(ratios):.2f}; {statistics.median(a for a, _ in rates):.0f} against "
            f"{statistics.median(b for _, b in rates):.0f} a second)"
        )
    return lines


async def postgres(turns: int) -> list[str]:
    """On a server of our own, durable."""
    server = PostgresServer(durable=True)
    await asyncio.to_thread(server.start)
    try:
        async with AsyncExitStack() as stack:
            url = await asyncio.to_thread(server.new_database)
            database = SqlDatabase(f"{url}&pool_size={POOL}")
            await database.migrate()
            await database.open()
            stack.push_async_callback(database.close)
            dialect: Dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
            statements = Statements(dialect, await added(database, "bare-"))
            pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=POOL, max_size=POOL))
            transits = ours(database, await added(database, "ours-")), bare(BareAsyncpg(pool, statements), statements)
            return await compare("postgres", 0.5, *transits, turns)
    finally:
        await asyncio.to_thread(server.stop)


async def sqlite(turns: int) -> list[str]:
    """In a file each: one would wait for the other's lock."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            databases = [SqlDatabase(f"sqlite:///{folder}/{name}.db") for name in ("ours", "bare")]
            for database in databases:
                await database.open()
                stack.push_async_callback(database.close)
            statements = Statements(SQLiteDialect_pysqlite(), await added(databases[1], "bare-"))
            driver = BareSqlite(str(databases[1].path), statements)
            stack.callback(driver.stop)
            transits = ours(databases[0], await added(databases[0], "ours-")), bare(driver, statements)
            return await compare("sqlite", 0.45, *transits, turns)


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    return [*asyncio.run(postgres(turns)), *asyncio.run(sqlite(turns))]


if __name__ == "__main__":
    print("\n".join(main()))
