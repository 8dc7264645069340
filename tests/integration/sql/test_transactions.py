"""How transactions take turns, end, and are given up."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import coroutine
from typing import Any

import pytest

from uploadcore.errors import DatabaseUnavailableError, VersionConflictError
from uploadcore.events import EventType
from uploadcore.ports import Transaction
from uploadcore.testing import make_event, make_upload
from uploadcore.testing.outbox import relayed
from uploadcore.upload import Timer, Transition, Upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.connection_thread import ConnectionThread
from uploadcore_sql.sqlite import SqliteBackend

HOUR = timedelta(hours=1)


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase(url, readers=2, patience=timedelta(seconds=0.05))
    await database.open()
    yield database
    await database.close()


async def add(database: SqlDatabase, *uploads: str | Upload, then: Exception | None = None) -> None:
    async with database.transaction() as tx:
        for upload in uploads:
            added = make_upload(upload) if isinstance(upload, str) else upload
            await tx.uploads.add(added, lifetime=HOUR, lease=None)
        if then is not None:
            raise then


async def has(database: SqlDatabase, upload_id: str) -> bool:
    async with database.reader() as tx:
        return await tx.uploads.get(upload_id) is not None


def writer_of(database: SqlDatabase) -> ConnectionThread:
    backend = database._backend
    assert isinstance(backend, SqliteBackend)
    assert backend._writing is not None
    return backend._writing.threads[0]


async def until_taken_up(thread: ConnectionThread) -> None:
    """Until the thread works on what was queued last."""
    while not thread._jobs.empty():  # noqa: ASYNC110 - a queue of the standard library tells nobody
        await asyncio.sleep(0)


@contextmanager
def held_up(thread: ConnectionThread) -> Iterator[None]:
    """The thread does nothing within the block."""
    go_on = threading.Event()
    thread.post(lambda _: go_on.wait())
    try:
        yield
    finally:
        go_on.set()


@contextmanager
def locked_by_another(database: SqlDatabase) -> Iterator[sqlite3.Connection]:
    """Somebody else's transaction holds the file's write lock within the block."""
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield other
    finally:
        other.close()


# --- taking turns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [16, 64])
async def test_many_tasks_that_write_one_record_lose_no_change(database: SqlDatabase, tasks: int) -> None:
    await add(database, "a")

    async def change() -> None:
        while True:
            async with database.reader() as tx:
                upload = await tx.uploads.get("a")
            assert upload is not None
            try:
                async with database.transaction() as tx:
                    await tx.uploads.save(Transition(upload).setting(Timer.LEASE, HOUR))
                    await tx.outbox.add(make_event(f"e{upload.version}", upload_id="a"))
            except VersionConflictError:
                continue
            return

    await asyncio.gather(*(change() for _ in range(tasks)))
    async with database.transaction() as tx:
        upload = await tx.uploads.get("a")
        assert upload is not None
        assert upload.version == tasks + 1
    assert await relayed(database) == [f"e{number}" for number in range(1, tasks + 1)]


async def test_transactions_take_turns_in_the_order_they_came(database: SqlDatabase) -> None:
    order: list[int] = []

    async def write(number: int) -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload(f"u{number}"), lifetime=HOUR, lease=None)
            order.append(number)

    await asyncio.gather(*(write(number) for number in range(20)))
    assert order == list(range(20))


async def test_who_waits_too_long_for_a_turn_is_told(impatient: SqlDatabase) -> None:
    async with impatient.transaction() as tx:
        await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        with pytest.raises(DatabaseUnavailableError, match="no turn to write came free"):
            await add(impatient, "b")
    await add(impatient, "c")
    assert [await has(impatient, name) for name in "abc"] == [True, False, True]


async def test_who_waits_too_long_for_a_reader_is_told(impatient: SqlDatabase) -> None:
    async with impatient.reader(), impatient.reader():
        with pytest.raises(DatabaseUnavailableError, match="no reader came free"):
            await has(impatient, "a")
    assert not await has(impatient, "a")


async def test_readers_do_not_wait_for_a_writer_nor_a_writer_for_readers(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        assert not await has(database, "a")
    async with database.reader() as view:
        assert await view.uploads.get("a") is not None
        await add(database, "b")
        assert await view.uploads.get("b") is None


async def test_a_lock_of_another_process_is_waited_for(database: SqlDatabase) -> None:
    with locked_by_another(database) as other:
        adding = asyncio.create_task(add(database, "a"))
        await asyncio.sleep(0)
        await until_taken_up(writer_of(database))
        other.rollback()
        await adding
    assert await has(database, "a")


async def test_a_lock_of_another_process_is_not_waited_for_for_ever(impatient: SqlDatabase) -> None:
    with locked_by_another(impatient):
        with pytest.raises(DatabaseUnavailableError, match="another process kept its write lock"):
            await add(impatient, "a")
        assert not await has(impatient, "a")
    await add(impatient, "a")


async def test_a_transaction_that_has_only_read_so_far_can_not_be_overtaken(database: SqlDatabase) -> None:
    other = sqlite3.connect(database.path, timeout=0, isolation_level=None)
    async with database.transaction() as tx:
        await tx.uploads.get("a")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()


async def test_times_are_those_of_the_clock_on_the_wall(database: SqlDatabase) -> None:
    tick = timedelta(milliseconds=1)
    before = datetime.now(UTC)
    async with database.transaction() as tx:
        added = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    assert added.created_at is not None
    assert before - tick <= added.created_at <= datetime.now(UTC) + tick


async def test_only_transactions_that_wrote_are_counted(database: SqlDatabase) -> None:
    await add(database, "a")
    assert await has(database, "a")
    async with database.transaction():
        pass
    with pytest.raises(RuntimeError, match="boom"):
        await add(database, "b", then=RuntimeError("boom"))
    assert database.write_transactions == 1


# --- being cancelled ----------------------------------------------------------------------------------------------


async def test_cancelled_while_waiting_for_a_turn_it_blocks_nobody(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        waiting = [asyncio.create_task(add(database, name)) for name in "bcd"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[2].cancel()
        await asyncio.sleep(0)
    assert isinstance((await asyncio.gather(*waiting, return_exceptions=True))[0], asyncio.CancelledError)
    assert [await has(database, name) for name in "abcd"] == [True, False, True, False]


async def test_cancelled_in_the_moment_its_turn_comes_it_passes_the_turn_on(database: SqlDatabase) -> None:
    waiting: list[asyncio.Task[None]] = []

    async def give_the_turn_away() -> None:
        async with database.transaction():
            waiting.append(asyncio.create_task(add(database, "a")))
            await asyncio.sleep(0)
        waiting[0].cancel()  # it has been given its turn, and has not run since

    await give_the_turn_away()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[0].cancelled()
    await add(database, "b")
    assert [await has(database, name) for name in "ab"] == [False, True]


async def test_cancelled_while_a_statement_runs_it_is_rolled_back(database: SqlDatabase) -> None:
    with locked_by_another(database) as other:
        adding = asyncio.create_task(add(database, "a"))
        await asyncio.sleep(0)
        await until_taken_up(writer_of(database))
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        other.rollback()
    await add(database, "b")
    assert not await has(database, "a")


async def test_cancelled_between_statements_it_is_rolled_back(database: SqlDatabase) -> None:
    inside = asyncio.Event()

    async def write_and_wait() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with locked_by_another(database) as other:  # the lock is free at once, for other processes too
        other.rollback()
    assert not await has(database, "a")


async def test_a_statement_cancelled_before_its_turn_is_never_run(database: SqlDatabase) -> None:
    ran: list[str] = []
    with held_up(writer_of(database)):
        cancelled = writer_of(database).submit(lambda _: ran.append("cancelled"))
        last = writer_of(database).submit(lambda _: ran.append("last"))
        cancelled.cancel()
    await last
    assert ran == ["last"]


async def test_cancelled_while_it_commits_it_is_committed(database: SqlDatabase) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            inside.set()
            await leave.wait()

    task = asyncio.create_task(write())
    await inside.wait()
    with held_up(writer_of(database)):
        leave.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await add(database, "b")
    assert await has(database, "a")


@coroutine
def _step(running: Any) -> Any:
    """Run a coroutine without a task, up to the next future it awaits."""
    future = running.send(None)
    future._asyncio_future_blocking = False
    yield from future.__await__()


async def test_a_coroutine_destroyed_inside_a_transaction_holds_no_lock(database: SqlDatabase) -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write_and_wait() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            await never

    running = write_and_wait()
    await _step(running)
    running.send(None)  # the statement is done; it waits for what never comes
    running.close()
    await add(database, "b")
    assert not await has(database, "a")


# --- failing ------------------------------------------------------------------------------------------------------


async def _limit_pages(database: SqlDatabase, spare: int | None) -> None:
    """As if the disk had room for so many pages more."""

    def limit(connection: Any) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        most = 2**30 if spare is None else pages + spare
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most}").close()
        connection.rollback()

    await writer_of(database).submit(limit)


async def test_a_full_disk_is_told_loses_nothing_and_passes(database: SqlDatabase) -> None:
    await add(database, "before")
    await _limit_pages(database, 2)
    large = make_upload("large", metadata={"blob": "x" * 100_000})
    with pytest.raises(DatabaseUnavailableError, match="disk that holds it is full") as raised:
        await add(database, "small", large)
    assert "xxx" not in str(raised.value.__cause__), "values, addresses among them, stay out of messages"
    assert [await has(database, name) for name in ("before", "small", "large")] == [True, False, False]
    await _limit_pages(database, None)
    await add(database, large)
    assert await has(database, "large")


async def test_after_a_failed_statement_a_transaction_takes_no_more_and_saves_nothing(database: SqlDatabase) -> None:
    await _limit_pages(database, 2)
    large = make_upload("b", metadata={"blob": "x" * 100_000})

    async def go_on_regardless() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            with pytest.raises(DatabaseUnavailableError, match="disk"):
                await tx.uploads.add(large, lifetime=HOUR, lease=None)
            with pytest.raises(DatabaseUnavailableError, match="a statement before this one failed"):
                await tx.uploads.add(make_upload("c"), lifetime=HOUR, lease=None)

    with pytest.raises(DatabaseUnavailableError, match="nothing was saved"):
        await go_on_regardless()
    assert [await has(database, name) for name in "abc"] == [False, False, False]


async def test_a_conflict_leaves_its_transaction_usable(database: SqlDatabase) -> None:
    await add(database, "a")
    async with database.transaction() as tx:
        with pytest.raises(VersionConflictError):
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        await tx.uploads.add(make_upload("b"), lifetime=HOUR, lease=None)
    assert await has(database, "b")


async def test_a_conflict_half_way_through_a_save_can_not_be_committed(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        before = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    twice_the_same_event = Transition(before).announcing(EventType.UPLOAD_FAILED).announcing(EventType.UPLOAD_FAILED)

    async def go_on_regardless() -> None:
        async with database.transaction() as tx:
            with pytest.raises(VersionConflictError):
                await tx.uploads.save(twice_the_same_event)

    with pytest.raises(DatabaseUnavailableError, match="nothing was saved"):
        await go_on_regardless()
    async with database.transaction() as tx:
        assert await tx.uploads.get("a") == before
        assert await tx.outbox.number(["anywhere"], 10) == 0


async def test_a_connection_that_broke_is_made_anew(database: SqlDatabase) -> None:
    def break_it(connection: Any) -> None:
        connection.connection.dbapi_connection.close()

    await writer_of(database).submit(break_it)
    with pytest.raises(Exception, match="closed database"):
        await add(database, "a")
    await add(database, "b")
    assert [await has(database, name) for name in "ab"] == [False, True]


@pytest.mark.parametrize("refused", ["COMMIT", "ROLLBACK"])
async def test_a_connection_that_can_not_end_a_transaction_is_made_anew(database: SqlDatabase, refused: str) -> None:
    def authorize(action: int, what: str | None, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if (action, what) == (sqlite3.SQLITE_TRANSACTION, refused) else sqlite3.SQLITE_OK

    def refuse(connection: Any) -> None:
        connection.connection.dbapi_connection.set_authorizer(authorize)

    await writer_of(database).submit(refuse)
    with pytest.raises((DatabaseUnavailableError, ZeroDivisionError)):
        await add(database, "a", then=ZeroDivisionError() if refused == "ROLLBACK" else None)
    await add(database, "b")
    assert [await has(database, name) for name in "ab"] == [False, True]
    assert database.write_transactions == 1


async def test_a_transaction_that_has_ended_can_not_be_used(database: SqlDatabase) -> None:
    kept: list[Transaction] = []
    for entered in (database.transaction(), database.reader()):
        async with entered as tx:
            kept.append(tx)
    for tx in kept:
        with pytest.raises(RuntimeError, match="has ended"):
            await tx.uploads.get("a")


async def test_a_reader_can_not_write(database: SqlDatabase) -> None:
    with pytest.raises(DatabaseUnavailableError, match="readonly"):
        async with database.reader() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    assert not await has(database, "a")
