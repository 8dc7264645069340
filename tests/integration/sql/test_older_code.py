"""Rule 12: the code before this one runs on this schema, at the same time, and each reads what the other has written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import Connection, MetaData, Table, create_engine, insert, select, update

from uploadcore.address import Address
from uploadcore.events import EventType
from uploadcore.file import File, FileStatus, Visibility
from uploadcore.states import UploadState
from uploadcore.testing import make_event, make_file, make_upload
from uploadcore.testing.outbox import backlog, claimed, claimed_ids, numbered, purged, relayed, written
from uploadcore.testing.uploads import added_upload
from uploadcore.testing.uploads import saved as saved_upload
from uploadcore.upload import Expected, Transition, Upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.schema import migrate
from uploadcore_sql.tables import files, uploads

HOUR = timedelta(hours=1)
PRIVATE = Visibility.PRIVATE


@pytest.fixture(params=["database", "emptied"], ids=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> SqlDatabase:
    return cast("SqlDatabase", request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def older_files() -> Table:
    """The files as revision 0001's code sees them: that names every column, in each of its statements."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        migrate(connection, "0001")
        table = Table("uploadcore_files", MetaData(), autoload_with=connection)
    engine.dispose()
    return table


async def older_code_adds(database: SqlDatabase, table: Table, row: Mapping[str, Any]) -> None:
    def add(connection: Connection) -> None:
        connection.execute(insert(table), {column.name: row[column.name] for column in table.c})

    async with database.transaction() as tx:
        await cast("Any", tx.files)._run(add)


async def older_code_saves(database: SqlDatabase, table: Table, file_id: str, **changed: Any) -> None:
    """As it does: every column it knows, those it has not changed as it has read them."""

    def save(connection: Connection) -> None:
        row = connection.execute(select(table).where(table.c.id == file_id)).mappings().one()
        values = {**row, **changed, "version": row["version"] + 1}
        connection.execute(update(table).where(table.c.id == file_id).values(values))

    async with database.transaction() as tx:
        await cast("Any", tx.files)._run(save)


async def row_of(database: SqlDatabase, file_id: str) -> dict[str, Any]:
    def read(connection: Connection) -> dict[str, Any]:
        return dict(connection.execute(select(files).where(files.c.id == file_id)).mappings().one())

    async with database.reader() as tx:
        return cast("dict[str, Any]", await cast("Any", tx.files)._run(read))


async def two_uploads(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        for name in ("u1", "u2"):
            await tx.uploads.add(
                make_upload(name, file_id="f", address=Address("bucket", f"up/{name}", "m")), lifetime=HOUR, lease=None
            )


async def read_back(database: SqlDatabase, file_id: str = "f") -> File:
    async with database.reader() as tx:
        file = await tx.files.get(file_id)
    assert file is not None
    return file


async def added(database: SqlDatabase, file: File) -> File:
    async with database.transaction() as tx:
        return await tx.files.add(file)


async def saved(database: SqlDatabase, file: File) -> File:
    async with database.transaction() as tx:
        return await tx.files.save(file)


async def found(database: SqlDatabase, **asked: Any) -> list[File]:
    async with database.reader() as tx:
        return await tx.files.find(
            **{"owner": "u_1", "status": None, "label": None, "before": None, "limit": 9} | asked
        )


async def test_a_file_that_the_older_code_has_made_is_private_and_lies_where_its_upload_says(
    either: SqlDatabase, older_files: Table
) -> None:
    await two_uploads(either)
    like = await added(either, make_file("like", upload_id="u1"))
    await older_code_adds(either, older_files, await row_of(either, "like") | {"id": "f", "owner": "u_2"})

    file = await read_back(either)

    assert file == replace(like, id="f", owner="u_2")
    assert (file.visibility, file.address) == (PRIVATE, Address("bucket", "up/u1"))
    assert await found(either, owner="u_2") == [file]
    assert await found(either, owner="u_2", status=FileStatus.UPLOADING) == [file]


async def test_a_file_whose_content_the_older_code_has_replaced_lies_where_that_upload_says(
    either: SqlDatabase, older_files: Table
) -> None:
    await two_uploads(either)
    await added(either, make_file("f", upload_id="u1", visibility=Visibility.PUBLIC, labels=("x",)))

    await older_code_saves(either, older_files, "f", upload_id="u2", status="available")

    file = await read_back(either)
    assert (file.upload_id, file.address) == ("u2", Address("bucket", "up/u2"))
    assert (file.visibility, file.labels, file.version) == (Visibility.PUBLIC, ("x",), 1), (
        "kept, though not known to it"
    )
    assert await found(either, label="x") == [file]


async def test_the_next_change_of_such_a_file_writes_its_address_down(either: SqlDatabase, older_files: Table) -> None:
    await two_uploads(either)
    await added(either, make_file("f", upload_id="u1"))
    await older_code_saves(either, older_files, "f", upload_id="u2")

    await saved(either, replace(await read_back(either), title="new"))

    row = await row_of(either, "f")
    assert (row["bucket"], row["key"], row["address_upload_id"]) == ("bucket", "up/u2", "u2")


async def test_what_was_there_before_the_migration_is_read_and_found(tmp_path: Any, older_files: Table) -> None:
    path = tmp_path / "older.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, "0001")
    engine.dispose()
    database = SqlDatabase(f"sqlite:///{tmp_path}/newer.db")
    await database.open()
    await added(database, make_file("f", upload_id="u1", status=FileStatus.AVAILABLE))
    row = await row_of(database, "f")
    await database.close()
    with engine.begin() as connection:
        connection.execute(insert(older_files), {column.name: row[column.name] for column in older_files.c})
    engine.dispose()

    database = SqlDatabase(f"sqlite:///{path}")
    await database.open()
    await two_uploads(database)
    file = await read_back(database)
    assert (file.visibility, file.address) == (PRIVATE, Address("bucket", "up/u1"))
    assert await found(database, status=FileStatus.AVAILABLE) == [file]
    labelled = await saved(database, replace(file, labels=("x",)))
    assert await found(database, label="x") == [labelled]
    await database.close()


# --- events: revision 0002's relay beside ours --------------------------------------------------------------------

NOW = {
    "sqlite": "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)",
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)",
}
OLDER_CLAIM = """
    UPDATE uploadcore_events SET due_at = {now} + 30000000 WHERE position IN (
        SELECT position FROM uploadcore_events event WHERE delivered_at IS NULL AND due_at <= {now} + {later} AND NOT EXISTS (
            SELECT * FROM uploadcore_events earlier WHERE earlier.upload_id = event.upload_id
            AND earlier.delivered_at IS NULL AND earlier.position < event.position)
        ORDER BY due_at, position LIMIT 10)
    RETURNING id
"""
OLDER_DELIVERED = "UPDATE uploadcore_events SET delivered_at = {now} WHERE id = '{id}' AND delivered_at IS NULL"
OLDER_ADD = """
    INSERT INTO uploadcore_events (id, type, owner, upload_id, file_id, data, occurred_at, attempts, due_at)
    VALUES ('{id}', 'upload.completed', 'u_1', '{id}', 'f', '{{}}', {now}, 0, {now})
"""


async def older_code(database: SqlDatabase, statement: str, **values: object) -> list[str]:
    def run(connection: Connection) -> list[str]:
        filled = statement.format(now=NOW[connection.dialect.name], **values)
        result = connection.exec_driver_sql(filled)
        return [row[0] for row in result] if result.returns_rows else []

    async with database.transaction() as tx:
        return cast("list[str]", await cast("Any", tx.files)._run(run))


async def older_code_claims(database: SqlDatabase, *, later: timedelta = timedelta(0)) -> list[str]:
    """What its relay gets, now or later on."""
    return await older_code(database, OLDER_CLAIM, later=later // timedelta(microseconds=1))


async def test_the_older_relay_leaves_our_events_to_ours_as_long_as_there_is_one(either: SqlDatabase) -> None:
    await written(either, [make_event("a")])
    assert await older_code_claims(either) == []
    assert await relayed(either) == ["a"]
    assert await older_code_claims(either, later=HOUR) == []


@pytest.mark.parametrize("is_numbered", [False, True])
async def test_after_going_back_to_the_older_code_it_delivers_what_ours_has_not(
    either: SqlDatabase, is_numbered: bool
) -> None:
    await written(either, [make_event("a1", upload_id="a"), make_event("a2", upload_id="a")])
    if is_numbered:
        await numbered(either)
    assert await older_code_claims(either, later=timedelta(minutes=1)) == ["a1"]
    await older_code(either, OLDER_DELIVERED, id="a1")
    assert await older_code_claims(either, later=timedelta(minutes=1)) == ["a2"]


async def test_events_that_the_older_code_has_written_are_delivered_by_ours(either: SqlDatabase) -> None:
    await older_code(either, OLDER_ADD, id="a")
    assert await relayed(either) == ["a"]
    assert await older_code_claims(either, later=HOUR) == []


async def test_an_event_that_the_older_relay_has_delivered_gets_a_position_and_goes_nowhere_else(
    either: SqlDatabase,
) -> None:
    await older_code(either, OLDER_ADD, id="a")
    assert await older_code_claims(either) == ["a"]
    await older_code(either, OLDER_DELIVERED, id="a")
    assert await backlog(either, "here") == {"here": (0, 0, False)}
    assert await numbered(either) == 1
    assert await claimed(either) == []
    assert await purged(either) == 1


OLDER_PURGE = """
    DELETE FROM uploadcore_events WHERE position IN (
        SELECT position FROM uploadcore_events WHERE delivered_at <= {now} LIMIT 10)
"""


async def test_an_event_of_a_type_that_the_older_code_does_not_know_is_never_due_for_its_relay(
    either: SqlDatabase,
) -> None:
    upload = await added_upload(either, make_upload("a"))
    damaged = replace(make_event("saved", upload_id=upload.id), type=EventType.FILE_DAMAGED)
    await saved_upload(either, Transition(upload, events=(damaged,)))
    await written(either, [replace(damaged, id="added", upload_id="b"), make_event("known", upload_id="c")])

    assert await older_code_claims(either, later=timedelta(days=3_650)) == ["known"]

    assert sorted(await relayed(either)) == ["added", "known", "saved"]


async def test_a_delivery_whose_event_the_older_code_has_dropped_holds_nothing_up(either: SqlDatabase) -> None:
    await written(either, [make_event("a1", upload_id="a")])
    await numbered(either, "one", "two")
    await older_code(either, OLDER_DELIVERED, id="a1")
    await older_code(either, OLDER_PURGE)
    await written(either, [make_event("a2", upload_id="a"), make_event("b", upload_id="b")])
    await numbered(either, "one", "two")

    for destination in ("one", "two"):
        assert await claimed_ids(either, destination=destination) == ["b"]
        assert await claimed_ids(either, destination=destination) == ["a2"]
    assert await backlog(either) == {"one": (2, 0, True), "two": (2, 0, True)}


async def test_numbering_while_the_older_code_purges_and_delivers_numbers_what_is_left_and_sends_all_of_it(
    emptied: SqlDatabase, emptied_url: str
) -> None:
    for name in ("old1", "old2"):
        await older_code(emptied, OLDER_ADD, id=name)
        await older_code(emptied, OLDER_DELIVERED, id=name)
    await older_code(emptied, OLDER_ADD, id="older")
    await written(emptied, [make_event(name, upload_id=name) for name in ("new1", "new2")])
    purging = await asyncpg.connect(emptied_url)
    looking = await asyncpg.connect(emptied_url)
    async with purging.transaction():
        await purging.execute(OLDER_PURGE.format(now=NOW["postgresql"]))
        await purging.execute(OLDER_DELIVERED.format(now=NOW["postgresql"], id="older"))
        numbering = asyncio.create_task(numbered(emptied))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not await looking.fetchval(waiting):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0)
    assert await numbering == 3
    await purging.close()
    await looking.close()

    await written(emptied, [make_event("next", upload_id="next")])
    assert await relayed(emptied) == ["new1", "new2", "next"]


async def test_a_digest_of_parts_counts_no_more_once_older_code_has_saved_the_upload(either: SqlDatabase) -> None:
    """Revision 0003's code does not name the column: it would leave there what another listing told."""
    expected = Expected(3, 25, parts_digest="0" * 64)
    added = await added_upload(either, make_upload("a", state=UploadState.COMPLETING, expected=expected))
    renewed = await saved_upload(either, Transition(added))
    assert (await upload_of(either, "a")).expected == expected

    def save(connection: Connection) -> None:
        connection.execute(update(uploads).where(uploads.c.id == "a").values(version=renewed.version + 1))

    async with either.transaction() as tx:
        await cast("Any", tx.uploads)._run(save)

    found = await upload_of(either, "a")
    assert found.expected == replace(expected, parts_digest=None)
    assert (await saved_upload(either, Transition(replace(found, expected=expected)))).expected == expected
    assert (await upload_of(either, "a")).expected == expected


async def upload_of(database: SqlDatabase, upload_id: str) -> Upload:
    async with database.reader() as tx:
        found = await tx.uploads.get(upload_id)
    assert found is not None
    return found
