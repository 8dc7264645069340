"""PostgreSQL: transactions that meet, end, and are given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.servers.postgres import PostgresServer
from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError, QuotaExceededError, VersionConflictError
from uploadcore.events import EventType
from uploadcore.ports import IdempotencyRecord, Transaction
from uploadcore.testing import make_event, make_upload
from uploadcore.testing.outbox import numbered, relayed, written
from uploadcore.upload import Timer, Transition, Upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.postgres import PostgresBackend

HOUR = timedelta(hours=1)


def backend_of(database: SqlDatabase) -> PostgresBackend:
    assert isinstance(database._backend, PostgresBackend)
    return database._backend


def with_options(url: str, options: str) -> SqlDatabase:
    return SqlDatabase(f"{url}{'&' if '?' in url else '?'}{options}")


@pytest.fixture
async def admin(emptied: SqlDatabase, emptied_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else, to the same database."""
    connection = await asyncpg.connect(emptied_url)
    yield connection
    await connection.close()


@pytest.fixture
async def impatient(emptied: SqlDatabase, emptied_url: str) -> AsyncIterator[SqlDatabase]:
    database = with_options(emptied_url, "pool_size=2&pool_timeout=0.05&lock_timeout=50ms")
    await database.open()
    yield database
    await database.close()


async def add(database: SqlDatabase, *names: str, then: Exception | None = None) -> Upload:
    async with database.transaction() as tx:
        for name in names:
            upload = await tx.uploads.add(make_upload(name), lifetime=HOUR, lease=HOUR)
        if then is not None:
            raise then
    return upload


async def has(database: SqlDatabase, upload_id: str) -> bool:
    async with database.reader(single=True) as tx:
        return await tx.uploads.get(upload_id) is not None


async def until_waiting_for_a_lock(admin: asyncpg.Connection, sessions: int = 1) -> None:
    """Until so many sessions of this database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while await admin.fetchval(waiting) < sessions:  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)


async def sessions(admin: asyncpg.Connection, state: str) -> int:
    found: int = await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'uploadcore' AND state LIKE $1 "
        "AND datname = current_database()",
        state,
    )
    return found


async def until_no_session_is_left(admin: asyncpg.Connection) -> None:
    """Until the server has seen the last of this database's connections end."""
    async with asyncio.timeout(10):
        while await sessions(admin, "%"):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.01)


# --- side by side -------------------------------------------------------------------------------------------------


async def test_two_that_change_one_record_wait_for_each_other_and_one_wins(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    upload = await add(emptied, "a")
    async with emptied.transaction() as tx:
        await tx.uploads.save(Transition(upload).setting(Timer.LEASE, HOUR))

        async def late() -> None:
            async with emptied.transaction() as other:
                await other.uploads.save(
                    Transition(upload).setting(Timer.LEASE, HOUR).announcing(EventType.UPLOAD_ABORTED)
                )

        second = asyncio.create_task(late())
        await until_waiting_for_a_lock(admin)
    with pytest.raises(VersionConflictError):
        await second
    assert await admin.fetchval("SELECT count(*) FROM uploadcore_events") == 0


async def test_an_event_written_first_is_delivered_first_whoever_commits_first(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    await add(emptied, "a")
    async with emptied.transaction() as tx:
        await tx.outbox.add(make_event("first", upload_id="a"))

        async def write_the_second() -> None:
            async with emptied.transaction() as other:
                await other.outbox.add(make_event("second", upload_id="a"))

        second = asyncio.create_task(write_the_second())
        await until_waiting_for_a_lock(admin)
        assert await relayed(emptied) == []
    await second
    assert await relayed(emptied) == ["first", "second"]


async def test_events_another_relay_is_just_claiming_are_passed_over(emptied: SqlDatabase) -> None:
    async with emptied.transaction() as tx:
        for name in ("a", "b"):
            await tx.outbox.add(make_event(name, upload_id=name))
    await numbered(emptied, "here")
    async with emptied.transaction() as one, emptied.transaction() as other:
        assert [claimed.event.id for claimed in await one.outbox.claim("here", 1, lease=HOUR)] == ["a"]
        assert [claimed.event.id for claimed in await other.outbox.claim("here", 10, lease=HOUR)] == ["b"]


async def test_purges_at_once_pass_each_other_over(emptied: SqlDatabase) -> None:
    async with emptied.transaction() as tx:
        await tx.outbox.add(make_event("a"))
        await tx.outbox.number([], 10)
        await tx.idempotency.claim(IdempotencyRecord("u_1", "key", "print", "a"), kept=HOUR)
    async with emptied.transaction() as one, emptied.transaction() as other:
        old = {"older_than": -HOUR, "dead_older_than": HOUR}
        assert (await one.outbox.purge(**old), await one.idempotency.purge(older_than=-HOUR)) == (1, 1)
        assert (await other.outbox.purge(**old), await other.idempotency.purge(older_than=-HOUR)) == (0, 0)


@pytest.mark.parametrize("committed", [True, False])
async def test_of_two_claims_of_one_key_the_second_waits_for_the_first(
    emptied: SqlDatabase, admin: asyncpg.Connection, committed: bool
) -> None:
    first, second = (IdempotencyRecord("u_1", "key", "print", upload) for upload in ("a", "b"))

    async def claim(record: IdempotencyRecord) -> IdempotencyRecord:
        async with emptied.transaction() as tx:
            return await tx.idempotency.claim(record, kept=HOUR)

    async def claim_and_wait() -> asyncio.Task[IdempotencyRecord]:
        async with emptied.transaction() as tx:
            assert await tx.idempotency.claim(first, kept=HOUR) == first
            waiting = asyncio.create_task(claim(second))
            await until_waiting_for_a_lock(admin)
            if not committed:
                await tx.quotas.reserve("u_1", size=1, max_uploads=0, max_bytes=None)
        return waiting

    if committed:
        assert await (await claim_and_wait()) == first
    else:
        with pytest.raises(QuotaExceededError):
            await claim_and_wait()
        async with emptied.transaction() as tx:
            assert await tx.idempotency.claim(IdempotencyRecord("u_1", "key", "print", "c"), kept=HOUR) == second


async def test_a_deadlock_is_a_conflict_for_one_of_them(emptied: SqlDatabase) -> None:
    one, other = await add(emptied, "a"), await add(emptied, "b")
    has_one, has_other = asyncio.Event(), asyncio.Event()

    async def save(first: Upload, second: Upload, mine: asyncio.Event, theirs: asyncio.Event) -> None:
        async with emptied.transaction() as tx:
            await tx.uploads.save(Transition(first))
            mine.set()
            await theirs.wait()
            await tx.uploads.save(Transition(second))

    outcomes = await asyncio.gather(
        save(one, other, has_one, has_other), save(other, one, has_other, has_one), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "VersionConflictError"]


async def test_a_lock_is_not_waited_for_for_ever(impatient: SqlDatabase) -> None:
    upload = await add(impatient, "a")
    async with impatient.transaction() as tx:
        await tx.uploads.save(Transition(upload))
        with pytest.raises(DatabaseUnavailableError, match="kept a lock for too long"):
            async with impatient.transaction(single=True) as other:
                await other.uploads.save(Transition(upload))


async def test_a_conflict_leaves_its_transaction_usable(emptied: SqlDatabase) -> None:
    await add(emptied, "a")
    async with emptied.transaction() as tx:
        with pytest.raises(VersionConflictError):
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        await tx.uploads.add(make_upload("b"), lifetime=HOUR, lease=None)
    assert await has(emptied, "b")


@pytest.mark.parametrize("single", [False, True])
async def test_a_save_whose_event_is_there_already_saves_nothing(emptied: SqlDatabase, single: bool) -> None:
    before = await add(emptied, "a")
    twice = Transition(before).announcing(EventType.UPLOAD_FAILED).announcing(EventType.UPLOAD_FAILED)
    with pytest.raises(VersionConflictError):
        async with emptied.transaction(single=single) as tx:
            await tx.uploads.save(twice)
    async with emptied.transaction() as tx:
        assert await tx.uploads.get("a") == before
        assert await tx.outbox.number(["anywhere"], 10) == 0


async def test_after_a_failed_statement_a_transaction_takes_no_more_and_saves_nothing(emptied: SqlDatabase) -> None:
    async with emptied.transaction() as tx:
        await tx.outbox.add(make_event("there"))

    async def go_on_regardless() -> None:
        async with emptied.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            with pytest.raises(VersionConflictError):
                await tx.outbox.add(make_event("there"))
            with pytest.raises(DatabaseUnavailableError, match="a statement before this one failed"):
                await tx.uploads.get("a")

    with pytest.raises(DatabaseUnavailableError, match="nothing was saved"):
        await go_on_regardless()
    assert not await has(emptied, "a")


async def test_a_reader_can_not_write(emptied: SqlDatabase) -> None:
    with pytest.raises(DatabaseUnavailableError, match="it takes no writes"):
        async with emptied.reader() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)


async def test_one_statement_sees_one_moment(emptied: SqlDatabase) -> None:
    async with emptied.transaction() as tx:
        first = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=2 * HOUR)
        second = await tx.uploads.add(make_upload("b"), lifetime=HOUR, lease=None)
    assert first.created_at is not None
    assert second.created_at is not None
    assert first.expires_at == first.created_at + HOUR
    assert first.lease_until == first.created_at + 2 * HOUR
    assert second.created_at > first.created_at, "the statement's moment, not the transaction's"


# --- single calls -------------------------------------------------------------------------------------------------


async def test_a_single_call_needs_no_round_trips_to_begin_and_end(
    emptied: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_now() -> None:
        """Others are told of events by a transaction of its own, at any moment after."""

    monkeypatch.setattr(backend_of(emptied)._wake, "_notify", not_now)
    upload = await add(emptied, "a")
    said: list[str] = []  # what is sent without being prepared
    engine = backend_of(emptied)._writing
    assert engine is not None

    def listen(connection: Any, record: Any, proxy: Any) -> None:
        connection.driver_connection.add_query_logger(lambda query: said.append(query.query))

    event.listen(engine.sync_engine, "checkout", listen)
    async with emptied.transaction(single=True) as tx:
        upload = await tx.uploads.save(Transition(upload).announcing(EventType.UPLOAD_ABORTED))
    async with emptied.reader(single=True) as tx:
        assert await tx.uploads.get("a") == upload
    assert said == []
    async with emptied.transaction() as tx:
        await tx.uploads.get("a")
    assert {statement.strip(";").split()[0] for statement in said} == {"BEGIN", "COMMIT"}


async def test_a_single_call_takes_no_second(emptied: SqlDatabase) -> None:
    async with emptied.transaction(single=True) as tx:
        await tx.uploads.get("a")
        with pytest.raises(RuntimeError, match="takes no other"):
            await tx.uploads.get("a")


async def test_a_single_call_that_needs_several_statements_is_done_wholly_or_not_at_all(emptied: SqlDatabase) -> None:
    async with emptied.transaction() as tx:
        await tx.outbox.add(make_event("there", upload_id="a"))
    with pytest.raises(VersionConflictError):
        async with emptied.transaction(single=True) as tx:
            await tx.outbox.add(make_event("there", upload_id="a"))
    committed = emptied.write_transactions
    async with emptied.transaction(single=True) as tx:
        await tx.outbox.add(make_event("another", upload_id="a"))
    assert emptied.write_transactions == committed + 1


# --- being cancelled ----------------------------------------------------------------------------------------------


async def test_cancelled_while_a_statement_waits_it_is_rolled_back_and_the_pool_stays_whole(
    impatient: SqlDatabase, admin: asyncpg.Connection
) -> None:
    upload = await add(impatient, "a")
    for _ in range(5):
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM uploadcore_uploads FOR UPDATE")
            saving = asyncio.create_task(save_slowly(impatient, upload))
            await asyncio.sleep(0.005)
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
    async with impatient.transaction(), impatient.transaction() as tx:
        assert await tx.uploads.get("a") == upload


async def save_slowly(database: SqlDatabase, upload: Upload) -> None:
    async with database.transaction() as tx:
        await tx.uploads.save(Transition(upload))


async def test_cancelled_between_statements_it_is_rolled_back(emptied: SqlDatabase, admin: asyncpg.Connection) -> None:
    inside = asyncio.Event()

    async def write_and_wait() -> None:
        async with emptied.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    while await sessions(admin, "idle in transaction%"):  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)
    assert not await has(emptied, "a")


async def test_cancelled_while_it_commits_it_is_committed(emptied: SqlDatabase) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with emptied.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            inside.set()
            await leave.wait()

    task = asyncio.create_task(write())
    await inside.wait()
    leave.set()
    await asyncio.sleep(0)  # it has left the block, and the commit is about to be sent
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await emptied.close()
    async with opened_again(emptied) as again:
        assert await has(again, "a")


def opened_again(database: SqlDatabase) -> Any:
    from tests.integration.sql.conftest import opened

    return opened(backend_of(database).url.dsn)


# --- the pool, and what it costs ----------------------------------------------------------------------------------


async def test_who_waits_too_long_for_a_connection_is_told(impatient: SqlDatabase) -> None:
    async with impatient.transaction(), impatient.reader():
        for single in (False, True):
            with pytest.raises(DatabaseUnavailableError, match="no connection came free"):
                async with impatient.transaction(single=single) as tx:
                    await tx.uploads.get("a")
    assert not await has(impatient, "a")


@pytest.mark.parametrize("is_reader", [False, True])
async def test_who_was_still_connecting_when_it_was_closed_is_refused(
    emptied: SqlDatabase, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, is_reader: bool
) -> None:
    connecting, let_go = asyncio.Event(), asyncio.Event()
    begin = AsyncEngine.connect

    async def slowly(engine: AsyncEngine) -> AsyncConnection:
        connection = await begin(engine)
        connecting.set()
        await let_go.wait()
        return connection

    monkeypatch.setattr(AsyncEngine, "connect", slowly)

    async def enter() -> None:
        async with emptied.reader() if is_reader else emptied.transaction():
            pytest.fail("it was let in")

    entering = asyncio.create_task(enter())
    await connecting.wait()
    await emptied.close()
    let_go.set()
    with pytest.raises(DatabaseUnavailableError, match="is closed"):
        await entering
    while await sessions(admin, "%"):  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)


async def test_close_cuts_what_is_open_and_leaves_no_connection(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    inside = asyncio.Event()
    kept: list[Transaction] = []

    async def write_and_wait() -> None:
        async with emptied.transaction() as tx:
            kept.append(tx)
            await tx.uploads.add(make_upload("open"), lifetime=HOUR, lease=None)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await inside.wait()
    await emptied.close()
    with pytest.raises(DatabaseUnavailableError, match="is closed"):
        await kept[0].uploads.get("open")
    with pytest.raises(DatabaseUnavailableError, match="is closed"):
        await has(emptied, "open")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    while await sessions(admin, "%"):  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)
    assert await admin.fetchval("SELECT count(*) FROM uploadcore_uploads") == 0


@pytest.fixture
def held_commits(monkeypatch: pytest.MonkeyPatch) -> HeldCommits:
    held = HeldCommits()
    commit = AsyncConnection.commit

    async def slowly(connection: AsyncConnection) -> None:
        held.begun.set()
        await held.let_go.wait()
        await commit(connection)

    monkeypatch.setattr(AsyncConnection, "commit", slowly)
    return held


class HeldCommits:
    """Each commit waits to be let go, as for a synchronous standby."""

    def __init__(self) -> None:
        self.begun, self.let_go = asyncio.Event(), asyncio.Event()


async def test_events_committed_while_it_is_closed_make_no_new_connection(
    emptied: SqlDatabase, admin: asyncpg.Connection, held_commits: HeldCommits
) -> None:
    writing = asyncio.create_task(written(emptied, [make_event("a")]))
    await held_commits.begun.wait()
    closing = asyncio.create_task(emptied.close())
    await asyncio.sleep(0)
    held_commits.let_go.set()
    await asyncio.gather(writing, closing)

    await until_no_session_is_left(admin)
    assert await admin.fetchval("SELECT count(*) FROM uploadcore_events") == 1


async def test_once_closed_nobody_listens_or_tells_of_events(emptied: SqlDatabase, admin: asyncpg.Connection) -> None:
    await emptied.close()
    backend_of(emptied)._wake.written()
    await emptied.events_written(timedelta(milliseconds=1))
    await emptied.events_written(timedelta(milliseconds=100))
    await until_no_session_is_left(admin)


async def test_who_gives_up_closing_undoes_nobody_elses_commit(
    emptied: SqlDatabase, admin: asyncpg.Connection, held_commits: HeldCommits
) -> None:
    writing = asyncio.create_task(add(emptied, "a"))
    await held_commits.begun.wait()
    closing = asyncio.create_task(emptied.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    held_commits.let_go.set()
    await writing

    assert closing.cancelled()
    assert await admin.fetchval("SELECT count(*) FROM uploadcore_uploads") == 1


async def test_a_url_says_which_schema(postgres_url: str) -> None:
    admin = await asyncpg.connect(postgres_url)
    await admin.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    for schema in ("one", "two"):
        database = with_options(postgres_url, f"search_path={schema}")
        await database.migrate()
        await database.open()
        await add(database, schema)
        await database.close()
    for schema in ("one", "two"):
        assert [row[0] for row in await admin.fetch(f"SELECT id FROM {schema}.uploadcore_uploads")] == [schema]
    await admin.close()
    with pytest.raises(DatabaseUnavailableError, match="search_path is not there"):
        await with_options(postgres_url, "search_path=three").migrate()


async def test_behind_a_pooler_nothing_outlives_a_transaction(postgres_url: str) -> None:
    """That a statement is prepared anew each time is what a pooler needs that gives each transaction another session."""
    database = with_options(postgres_url, "pooler=transaction")
    await database.migrate()
    await database.open()
    await add(database, "a")
    assert await has(database, "a")
    engine = backend_of(database)._writing
    assert engine is not None
    async with engine.connect() as connection:
        kept = await connection.execute(
            text("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT uploadcore%'")
        )
        assert kept.all() == []
        assert await connection.scalar(text("SHOW statement_timeout")) == "0"
    await database.close()


async def test_the_server_is_asked_for_every_limit(emptied: SqlDatabase) -> None:
    def limits(connection: Connection) -> list[str]:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
        return [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    engine = backend_of(emptied)._writing
    assert engine is not None
    async with engine.connect() as connection:
        assert await connection.run_sync(limits) == ["10s", "5s", "1min", "uploadcore"]


async def test_a_role_with_the_rights_the_documentation_names_can_do_everything(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    owner = SqlDatabase(postgres_url)
    await owner.migrate()
    admin = await asyncpg.connect(postgres_url)
    role = f"service_{postgres_url.rpartition('_')[2].partition('?')[0]}"
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    await admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    service = (
        with_options(postgres_url, f"user={role}&password=p")
        if "postgres@" not in postgres_url
        else SqlDatabase(postgres_url.replace("postgres@", f"{role}:p@"))
    )
    await service.open()
    upload = await add(service, "a")
    async with service.transaction() as tx:
        await tx.uploads.save(Transition(upload).announcing(EventType.UPLOAD_ABORTED))
        await tx.quotas.reserve("u_1", size=1, max_uploads=1, max_bytes=1)
        assert await tx.outbox.number(["anywhere"], 1) == 1
    await service.close()
    await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await admin.close()


@pytest.mark.parametrize("name", ["a\0b", "\0"])
async def test_u_0000_is_refused_and_the_transaction_goes_on(emptied: SqlDatabase, name: str) -> None:
    async with emptied.transaction() as tx:
        with pytest.raises(InvalidRequestError, match=r"U\+0000"):
            await tx.uploads.get(name)
        await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    assert await has(emptied, "a")
