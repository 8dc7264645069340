"""PostgreSQL: how the schema comes to be, what it is refused for, and whether its indexes serve."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from tests.integration.sql.conftest import patient
from tests.integration.sql.test_cost import use_every_statement
from tests.servers.postgres import PostgresServer
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.states import UploadState
from uploadcore_sql import SqlDatabase
from uploadcore_sql.postgres import MIGRATION_LOCK, PostgresBackend
from uploadcore_sql.schema import VERSION_TABLE, migrate, scripts
from uploadcore_sql.tables import METADATA

NEWEST = scripts().get_current_head()
MIGRATE_AND_TELL = """
import asyncio, sys
from uploadcore_sql import SqlDatabase

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    database = SqlDatabase(sys.argv[1])
    await database.migrate()
    await database.open()
    print(await database.installation_id())
    await database.close()

asyncio.run(main())
"""
CATALOGUE = """
    SELECT 'column', table_name || '.' || column_name,
        concat_ws(' ', data_type, is_nullable, column_default, is_identity, generation_expression, collation_name)
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
"""


async def catalogue(url: str) -> set[tuple[str, str, str]]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(CATALOGUE)
    await connection.close()
    return {tuple(row) for row in rows if VERSION_TABLE not in row[1] + row[2]}


async def test_the_migrations_make_the_tables_the_code_sees(postgres_server: PostgresServer) -> None:
    migrated, modelled = [SqlDatabase(await asyncio.to_thread(postgres_server.new_database)) for _ in range(2)]
    await migrated.migrate()

    def differences(connection: Connection) -> list[Any]:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    backends = []
    for database in (migrated, modelled):
        assert isinstance(database._backend, PostgresBackend)
        backends.append(database._backend)
    engine = backends[1]._engine()
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    await engine.dispose()
    engine = backends[0]._engine()
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()
    assert await catalogue(backends[0].url.dsn) == await catalogue(backends[1].url.dsn)


async def test_open_changes_nothing_and_says_what_to_run(postgres_url: str) -> None:
    with pytest.raises(
        DatabaseUnavailableError, match=f"has no schema yet, .* needs '{NEWEST}': run 'uploadcore migrate'"
    ):
        await SqlDatabase(patient(postgres_url)).open()
    assert await catalogue(postgres_url) == set()


async def test_a_schema_that_is_behind_is_refused(postgres: SqlDatabase, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    with pytest.raises(DatabaseUnavailableError, match=r"has its schema at revision '0001'.*run 'uploadcore migrate'"):
        await SqlDatabase(patient(postgres_url)).open()
    await connection.close()


@pytest.mark.parametrize("oldest", ["9998", NEWEST])
async def test_a_newer_schema_says_whether_this_code_can_work_on_it(
    postgres: SqlDatabase, postgres_url: str, oldest: str
) -> None:
    """Rule 12: versions N and N-1 of the code run on one schema."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    await connection.execute("UPDATE uploadcore_installation SET oldest_code = $1", oldest)
    await connection.close()
    database = SqlDatabase(patient(postgres_url))
    if oldest == NEWEST:
        await database.open()
        assert await database.installation_id() == await postgres.installation_id()
        assert (await database.migrate()).is_newer
        await database.close()
        return
    for use in (database.open, database.migrate, database.schema):
        with pytest.raises(DatabaseUnavailableError, match=r"'9999'.*does not know: install the version that made it"):
            await use()


def test_processes_that_migrate_one_database_at_once_agree(postgres_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MIGRATE_AND_TELL, postgres_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:  # all have started by the time the first is let go
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate() for process in processes]
    assert [error for _, error in told] == [""] * 3
    assert len({answer for answer, _ in told}) == 1


async def test_a_migration_waits_for_another_without_holding_a_snapshot(postgres_url: str) -> None:
    """A concurrent index, which that other one may be making, waits for every snapshot there is."""
    other = await asyncpg.connect(postgres_url)
    await other.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    migrating = asyncio.create_task(SqlDatabase(patient(postgres_url)).migrate())
    at_rest = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'uploadcore' AND datname = current_database()"
        " AND query = 'COMMIT;' AND state = 'idle' AND backend_xmin IS NULL"
    )
    async with asyncio.timeout(30):
        while not await other.fetchval(at_rest):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0)
    assert not migrating.done()
    await other.close()
    assert (await migrating).current is None


async def test_a_migration_that_fails_half_way_leaves_nothing(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "CREATE TABLE uploadcore_quotas (in_the_way TEXT)"
    )  # the last table the first migration makes
    with pytest.raises(DatabaseUnavailableError, match='"uploadcore_quotas" already exists'):
        await SqlDatabase(patient(postgres_url)).migrate()
    assert {row[1].partition(".")[0] for row in await catalogue(postgres_url)} == {"uploadcore_quotas"}
    await connection.close()


async def at_the_first_revision(url: str) -> None:
    backend = SqlDatabase(url)._backend
    assert isinstance(backend, PostgresBackend)
    engine = backend._engine()
    async with engine.connect() as connection:
        await connection.run_sync(migrate, "0001")
    await engine.dispose()


async def add_file(connection: asyncpg.Connection, name: str) -> None:
    await connection.execute(
        "INSERT INTO uploadcore_files (id, version, status, owner, name, upload_id, content_type, title, description,"
        " labels, metadata, created_at, updated_at) VALUES ($1, 1, 'uploading', 'u', 'n', 'u', 't', '', '', '[]', '{}', 1, 1)",
        name,
    )


async def until_it_waits(admin: asyncpg.Connection, migrating: asyncio.Task[Any], time: str) -> None:
    """Until the migration has waited that long for a lock, or has ended."""
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'uploadcore' AND wait_event_type = 'Lock'"
        " AND datname = current_database() AND clock_timestamp() - query_start > $1::text::interval"
    )
    while not await admin.fetchval(waits, time) and not migrating.done():  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)


async def test_files_are_written_while_a_migration_builds_their_indexes_however_long_that_takes(
    postgres_url: str,
) -> None:
    await at_the_first_revision(postgres_url)
    early, late = [await asyncpg.connect(postgres_url) for _ in range(2)]
    transaction = early.transaction()
    await transaction.start()
    await add_file(early, "early")
    migrating = asyncio.create_task(SqlDatabase(f"{patient(postgres_url)}&command_timeout=0.5").migrate())
    await until_it_waits(late, migrating, "0")
    await late.execute("SET lock_timeout = '1s'")

    await add_file(late, "late")

    await until_it_waits(late, migrating, "1s")
    await transaction.commit()
    assert (await migrating).current == "0001"
    assert await late.fetchval("SELECT count(*) FROM uploadcore_files WHERE visibility = 'private'") == 2
    for connection in (early, late):
        await connection.close()


async def test_a_migration_interrupted_while_it_built_indexes_is_gone_on_with(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    await at_the_first_revision(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE INDEX ix_uploadcore_files_owner ON uploadcore_files (owner)")
    broken = "'ix_uploadcore_files_owner'::regclass"
    await connection.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = {broken}")
    await connection.execute(
        "CREATE INDEX ix_uploadcore_files_status ON uploadcore_files (owner, status, created_at, id)"
    )
    await connection.execute("ALTER TABLE uploadcore_events ADD COLUMN sequence BIGINT")
    await connection.execute("CREATE INDEX ix_uploadcore_events_unnumbered ON uploadcore_events (position)")
    others = "'ix_uploadcore_events_unnumbered'::regclass"
    await connection.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = {others}")
    await connection.execute("CREATE INDEX ix_uploadcore_uploads_state ON uploadcore_uploads (owner)")
    uploads = "'ix_uploadcore_uploads_state'::regclass"
    await connection.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = {uploads}")

    await SqlDatabase(patient(postgres_url)).migrate()

    for index in (broken, others, uploads):
        assert await connection.fetchval(f"SELECT indisvalid FROM pg_index WHERE indexrelid = {index}")
    await connection.close()
    undisturbed = await asyncio.to_thread(postgres_server.new_database)
    await SqlDatabase(undisturbed).migrate()
    assert await catalogue(postgres_url) == await catalogue(undisturbed)


async def test_a_migration_cut_off_while_it_builds_an_index_is_told_and_can_be_repeated(postgres_url: str) -> None:
    await at_the_first_revision(postgres_url)
    early, admin = [await asyncpg.connect(postgres_url) for _ in range(2)]
    transaction = early.transaction()
    await transaction.start()
    await add_file(early, "early")
    migrating = asyncio.create_task(SqlDatabase(patient(postgres_url)).migrate())
    await until_it_waits(admin, migrating, "0")
    ours = "pg_stat_activity WHERE application_name = 'uploadcore' AND datname = current_database()"
    await admin.execute(f"SELECT pg_terminate_backend(pid) FROM {ours}")
    with pytest.raises(DatabaseUnavailableError):
        await migrating
    await transaction.commit()
    assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1

    assert (await SqlDatabase(patient(postgres_url)).migrate()).current == "0001"

    assert await admin.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    for connection in (early, admin):
        await connection.close()


MANY_OF_ONE_STATE_AND_FEW_OF_OTHERS = """
    INSERT INTO uploadcore_uploads (id, version, state, owner, file_id, filename, content_type, metadata, strategy,
        part_size, max_parts, bucket, key, reserved_bytes, created_at, expires_at)
    SELECT $1 || number, 1, CASE WHEN number > 20 THEN $1 ELSE ($2::text[])[1 + number % cardinality($2::text[])] END, $1, 'f', 'f', 't', '{}',
        'multipart', 1, 1, 'b', $1 || number, 0, number, 1
    FROM generate_series(1, 3000) number
"""


@pytest.mark.parametrize("most", [UploadState.COMPLETED, UploadState.ABORTED])
async def test_an_owners_uploads_of_a_state_are_found_without_reading_the_others(
    postgres: SqlDatabase, postgres_url: str, most: UploadState
) -> None:
    seen: list[tuple[str, tuple[Any, ...]]] = []

    def note(_connection: Connection, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, tuple(values)))

    connection = await asyncpg.connect(postgres_url)
    for owner in (UploadState.COMPLETED, UploadState.ABORTED):
        await connection.execute(
            MANY_OF_ONE_STATE_AND_FEW_OF_OTHERS, owner.value, [state.value for state in UploadState]
        )
    await connection.execute("ANALYZE uploadcore_uploads")
    event.listen(Engine, "before_cursor_execute", note)
    try:
        async with postgres.reader() as tx:
            for state in UploadState:
                for before in (None, (datetime(2100, 1, 1, tzinfo=UTC), "z")):
                    assert await tx.uploads.find(
                        owner=most.value, state=state, fingerprint=None, before=before, limit=10
                    )
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert len(seen) == 2 * len(UploadState)
    for statement, values in seen:
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN ANALYZE {statement}", *values))
        assert "Rows Removed" not in plan, plan
    await connection.close()


async def test_no_statement_needs_to_scan_a_table(emptied: SqlDatabase, emptied_url: str) -> None:
    seen: dict[str, tuple[Any, ...]] = {}

    def note(_connection: Connection, _cursor: Any, statement: str, values: Any, _context: Any, is_many: bool) -> None:
        seen[statement] = tuple(values[0] if is_many else values)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await use_every_statement(emptied)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    connection = await asyncpg.connect(emptied_url)
    await connection.execute("SET enable_seqscan = off; SET enable_sort = off")
    scans = {}
    for statement, values in seen.items():
        if "uploadcore_" in statement:
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))
            if re.search(r"Seq Scan on uploadcore", plan):
                scans[statement] = plan
    await connection.close()
    assert len(seen) > 20
    assert {statement for statement in scans if "uploadcore_installation" not in statement} == set()
