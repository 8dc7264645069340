"""How the schema comes to be, and what it is refused for."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from uploadcore.errors import DatabaseUnavailableError
from uploadcore_sql import SqlDatabase
from uploadcore_sql.schema import VERSION_TABLE, current_revision, migrate, scripts
from uploadcore_sql.tables import METADATA

OPEN_AND_TELL = """
import asyncio, sys
from uploadcore_sql import SqlDatabase

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    database = SqlDatabase(sys.argv[1])
    await database.open()
    print(await database.installation_id())
    await database.close()

asyncio.run(main())
"""


async def test_the_migrations_make_the_tables_the_code_sees(database: SqlDatabase) -> None:
    engine = create_engine(f"sqlite:///{database.path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []
        migrated = {name: sql for name, sql in _definitions(database.path).items() if name != VERSION_TABLE}
    engine.dispose()
    assert migrated == _definitions(_made_from_the_model(database.path.parent / "model.db"))


def _made_from_the_model(path: Path) -> Path:
    engine = create_engine(f"sqlite:///{path}")
    METADATA.create_all(engine)
    engine.dispose()
    return path


def _definitions(path: Path) -> dict[str, list[str]]:
    """The text of every table and index, without spaces: what comparing by reflection can't see is in it."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: sorted("".join(sql.split()).replace('"', "").split(",")) for name, sql in rows}


async def test_there_is_one_newest_revision_and_the_schema_is_at_it(database: SqlDatabase) -> None:
    (head,) = scripts().get_heads()
    engine = create_engine(f"sqlite:///{database.path}")
    with engine.connect() as connection:
        assert current_revision(connection) == head
    engine.dispose()


async def test_opening_again_changes_nothing(database: SqlDatabase) -> None:
    first = await database.installation_id()
    before = _definitions(database.path)
    await database.close()
    again = SqlDatabase(f"sqlite:///{database.path}")
    await again.open()
    assert await again.installation_id() == first
    await again.close()
    assert _definitions(database.path) == before


async def test_every_database_is_an_installation_of_its_own(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        database = SqlDatabase(f"sqlite:///{tmp_path}/{name}.db")
        await database.open()
        ids.add(await database.installation_id())
        await database.close()
    assert len(ids) == 2


async def test_a_host_s_own_tables_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "host.db"
    host = sqlite3.connect(path)
    host.execute("CREATE TABLE alembic_version (version_num TEXT)")
    host.execute("INSERT INTO alembic_version VALUES ('theirs')")
    host.commit()
    database = SqlDatabase(f"sqlite:///{path}")
    await database.open()
    await database.close()
    assert host.execute("SELECT version_num FROM alembic_version").fetchall() == [("theirs",)]
    host.close()


def _as_if_made_by_a_later_version(path: Path, *, oldest_code: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    connection.execute("UPDATE uploadcore_installation SET oldest_code = ?", (oldest_code,))
    connection.commit()
    connection.close()


async def test_a_schema_newer_than_the_code_is_refused_and_it_is_said_what_to_do(database: SqlDatabase) -> None:
    await database.close()
    _as_if_made_by_a_later_version(database.path, oldest_code="9998")
    newer = SqlDatabase(f"sqlite:///{database.path}")
    with pytest.raises(DatabaseUnavailableError, match=r"'9999'.*does not know: install the version that made it"):
        await newer.open()
    with pytest.raises(DatabaseUnavailableError, match="not open"):
        await newer.installation_id()


async def test_a_newer_schema_that_this_code_can_work_on_is_opened(database: SqlDatabase) -> None:
    """Rule 12: versions N and N-1 of the code run on one schema."""
    first = await database.installation_id()
    await database.close()
    _as_if_made_by_a_later_version(database.path, oldest_code=str(scripts().get_current_head()))
    newer = SqlDatabase(f"sqlite:///{database.path}")
    await newer.open()
    assert await newer.installation_id() == first
    await newer.close()


def test_processes_that_open_one_new_file_at_once_agree(url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPEN_AND_TELL, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:  # all have started by the time the first is let go
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate() for process in processes]
    assert [error for _, error in told] == [""] * 4
    assert len({answer for answer, _ in told}) == 1


async def test_databases_opened_at_once_in_one_process_do_not_mix_their_migrations(tmp_path: Path) -> None:
    databases = [SqlDatabase(f"sqlite:///{tmp_path}/{number}.db", readers=1) for number in range(6)]
    await asyncio.gather(*(database.open() for database in databases))
    assert len({await database.installation_id() for database in databases}) == 6
    for database in databases:
        await database.close()


def test_a_migration_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "half.db"
    setup = sqlite3.connect(path)
    setup.execute("CREATE TABLE uploadcore_quotas (in_the_way TEXT)")  # the last table the first migration makes
    setup.commit()
    setup.close()
    database = SqlDatabase(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailableError, match="uploadcore_quotas already exists"):
        asyncio.run(database.open())
    assert set(_definitions(path)) == {"uploadcore_quotas"}


def test_each_revision_can_be_reached_from_nothing() -> None:
    for revision in scripts().walk_revisions():
        engine = create_engine("sqlite://")
        with engine.begin() as connection:
            migrate(connection, revision.revision)
            assert current_revision(connection) == revision.revision
        engine.dispose()
