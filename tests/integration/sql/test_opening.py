"""Opening, closing, and what lies between."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from uploadcore.errors import DatabaseUnavailableError
from uploadcore.testing import make_upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.sqlite import SqliteBackend

HOUR = timedelta(hours=1)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("uploadcore-sql")]


async def test_close_leaves_no_thread_and_no_file_but_the_database(url: str) -> None:
    database = SqlDatabase(url, readers=3)
    await database.open()
    assert len(threads()) == 4
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    await database.close()
    assert threads() == []
    assert [path.name for path in database.path.parent.iterdir()] == ["uploads.db"]


async def test_close_finishes_what_is_queued_and_rolls_back_what_is_open(url: str) -> None:
    database = SqlDatabase(url)
    await database.open()
    inside = asyncio.Event()

    async def write_and_wait() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("open"), lifetime=HOUR, lease=None)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await inside.wait()
    await database.close()
    assert threads() == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    again = SqlDatabase(url)
    await again.open()
    async with again.reader() as tx:
        assert await tx.uploads.get("open") is None
    await again.close()


async def test_a_commit_after_close_is_refused(url: str) -> None:
    database = SqlDatabase(url)
    await database.open()

    async def close_inside() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            await database.close()

    with pytest.raises(DatabaseUnavailableError, match="is closed"):
        await close_inside()
    with pytest.raises(DatabaseUnavailableError, match="is closed"):
        async with database.reader() as tx:
            await tx.uploads.get("a")


async def test_a_database_that_is_not_open_says_so(url: str) -> None:
    database = SqlDatabase(url)
    for use in (database.transaction, database.reader):
        with pytest.raises(DatabaseUnavailableError, match="not open"):
            use()
    with pytest.raises(DatabaseUnavailableError, match="not open"):
        await database.installation_id()
    await database.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"not a database" * 1_000)
    database = SqlDatabase(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailableError, match="not an SQLite database"):
        await database.open()
    assert threads() == []
    assert path.read_bytes() == b"not a database" * 1_000


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    database = SqlDatabase(f"sqlite:///{tmp_path}")
    with pytest.raises(DatabaseUnavailableError, match="can't be opened"):
        await database.open()
    assert threads() == []


async def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = SqlDatabase(f"sqlite:///{tmp_path}/file/uploads.db")
    with pytest.raises(DatabaseUnavailableError, match=r"the folder of .*uploads\.db can't be made"):
        await database.open()
    assert threads() == []


async def test_a_file_that_another_process_is_setting_up_is_waited_for(url: str) -> None:
    database = SqlDatabase(url, patience=timedelta(0))
    database.path.parent.mkdir()
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    opening = asyncio.create_task(database.open())
    _, still_waiting = await asyncio.wait({opening}, timeout=0.1)
    assert opening in still_waiting
    other.close()
    await opening
    await database.close()


async def test_cancelled_while_opening_it_leaves_nothing_running(url: str) -> None:
    database = SqlDatabase(url, patience=timedelta(seconds=0.1))
    database.path.parent.mkdir()
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    opening = asyncio.create_task(database.open())
    while not threads():  # noqa: ASYNC110 - a thread that starts tells nobody
        await asyncio.sleep(0)
    opening.cancel()
    other.close()
    await asyncio.gather(opening, return_exceptions=True)
    assert opening.cancelled()
    assert threads() == []


async def test_what_is_committed_is_on_the_disk(database: SqlDatabase) -> None:
    backend = database._backend
    assert isinstance(backend, SqliteBackend)
    assert backend._writing is not None
    assert backend._reading is not None

    def pragmas(connection: object) -> list[object]:
        execute = connection.exec_driver_sql  # type: ignore[attr-defined]
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only", "busy_timeout")
        values = [execute(f"PRAGMA {name}").scalar_one() for name in names]
        connection.rollback()  # type: ignore[attr-defined]
        return values

    for thread in backend._writing.threads:
        assert await thread.submit(pragmas) == ["wal", 2, 1, 0, 5000]
    for thread in backend._reading.threads:
        assert await thread.submit(pragmas) == ["wal", 2, 1, 1, 5000]
