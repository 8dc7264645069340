"""PostgreSQL that goes away, hangs, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.integration.sql.conftest import opened
from tests.servers.postgres import ExternalPostgres, PostgresServer
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.testing import make_upload
from uploadcore_sql import SqlDatabase
from uploadcore_sql.postgres import PostgresBackend
from uploadcore_sql.postgres_pulse import Pulse

HOUR = timedelta(hours=1)
TERMINATE = b"X\x00\x00\x00\x04"
"""A client's last message. Source: PostgreSQL documentation, "Message Formats"."""


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A server of our own: others would miss it."""
    server = PostgresServer("-c", "synchronous_commit=on")  # what it acknowledges outlives it
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def url(frail: PostgresServer) -> str:
    """Names a database of its, without a single table."""
    return await asyncio.to_thread(frail.new_database)


@pytest.fixture
async def database(url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(f"{url}&pool_size=4") as database:
        yield database


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(f"{url}&command_timeout=2") as database:
        yield database


class EndlessRelay:
    """Between us and the server, and does not say when the server's end of a connection has ended: as a network that loses it."""

    def __init__(self, socket: str, database: str) -> None:
        self.database = database
        self.has_ended = asyncio.Event()
        self._socket = socket

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._socket)

        async def answer() -> None:
            while piece := await far_reader.read(65536):
                writer.write(piece)
            self.has_ended.set()

        answering = asyncio.create_task(answer())
        while (piece := await reader.read(65536)) not in (b"", TERMINATE):
            far_writer.write(piece)
        answering.cancel()
        for end in (writer, far_writer):
            end.transport.abort()


@pytest.fixture
async def far(url: str) -> EndlessRelay:
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    await SqlDatabase(url).migrate()
    return EndlessRelay(f"{folder}/.s.PGSQL.5432", parts.path)


@pytest.fixture
async def far_database(far: EndlessRelay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqlDatabase]:
    """A database at the other end of it."""
    monkeypatch.setattr(Pulse, "start", lambda self: None)  # it would make connections whenever it likes
    server = await asyncio.start_server(far.converse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = SqlDatabase(
        f"postgresql://postgres@127.0.0.1:{port}{far.database}?sslmode=disable&pool_size=1&command_timeout=5"
    )
    await database.open()
    yield database
    await database.close()
    server.close()
    await server.wait_closed()


async def add(database: SqlDatabase, name: str) -> None:
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload(name), lifetime=HOUR, lease=None)


async def has(database: SqlDatabase, name: str, *, single: bool = True) -> bool:
    async with database.reader(single=single) as tx:
        return await tx.uploads.get(name) is not None


async def backends(server: ExternalPostgres) -> list[int]:
    """The processes that serve us."""
    admin = await asyncpg.connect(server._admin_url)
    rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'uploadcore'")
    await admin.close()
    return [row[0] for row in rows]


async def cut(server: ExternalPostgres) -> None:
    """As an administrator would, and wait until they are gone: they, for the pulse connects anew."""
    ours = await backends(server)
    admin = await asyncpg.connect(server._admin_url)
    await admin.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", ours)
    still_there = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"
    while await admin.fetchval(still_there, ours):  # noqa: ASYNC110 - a server tells nobody
        await asyncio.sleep(0)
    await admin.close()


@contextmanager
def hanging(processes: list[int]) -> Iterator[None]:
    """They do nothing within the block."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


async def test_connections_that_were_cut_while_idle_are_not_noticed(
    database: SqlDatabase, frail: PostgresServer
) -> None:
    await asyncio.gather(*(add(database, name) for name in "abcd"))
    await cut(frail)
    backend = database._backend
    assert isinstance(backend, PostgresBackend)
    while not all(connection.is_closed() for connection in backend._connections):  # noqa: ASYNC110 - nor does the driver
        await asyncio.sleep(0)  # the server has closed them: the news is on its way
    assert [await has(database, name) for name in "abcd"] == [True] * 4
    await add(database, "e")


@pytest.mark.parametrize("single", [True, False])
async def test_a_connection_whose_end_was_announced_and_never_came_is_told_of_once(
    far_database: SqlDatabase, frail: PostgresServer, far: EndlessRelay, *, single: bool
) -> None:
    await add(far_database, "a")
    await cut(frail)
    await far.has_ended.wait()
    with pytest.raises(DatabaseUnavailableError) as caught:
        await has(far_database, "a", single=single)
    assert caught.value.is_away
    assert await has(far_database, "a", single=single)


@pytest.mark.parametrize("single", [True, False])
async def test_one_that_is_asked_first_because_it_was_idle_for_long_is_not_noticed(
    far_database: SqlDatabase,
    frail: PostgresServer,
    far: EndlessRelay,
    monkeypatch: pytest.MonkeyPatch,
    *,
    single: bool,
) -> None:
    monkeypatch.setattr("uploadcore_sql.postgres.IDLE_BEFORE_PING", 0)
    await add(far_database, "a")
    await cut(frail)
    await far.has_ended.wait()
    assert await has(far_database, "a", single=single)


@pytest.mark.parametrize("at", ["statement", "commit"])
async def test_a_connection_cut_inside_a_transaction_is_told_and_nothing_hangs(
    database: SqlDatabase, frail: PostgresServer, at: str
) -> None:
    async def write() -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            await cut(frail)
            if at == "statement":
                await tx.uploads.get("a")

    with pytest.raises(DatabaseUnavailableError):
        await write()
    assert not await has(database, "a")
    assert database.write_transactions == 0


async def test_a_server_killed_and_started_again_loses_nothing_acknowledged(
    database: SqlDatabase, frail: PostgresServer
) -> None:
    await add(database, "before")
    frail.kill()
    for single in (True, False):
        with pytest.raises(DatabaseUnavailableError):
            async with database.reader(single=single) as tx:
                await tx.uploads.get("before")
    await asyncio.to_thread(frail.restart)
    assert await has(database, "before")
    await add(database, "after")


async def test_a_server_that_hangs_is_not_waited_for_for_ever(
    impatient: SqlDatabase, frail: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = impatient._backend
    assert isinstance(backend, PostgresBackend)
    monkeypatch.setattr(backend, "url", replace(backend.url, command_timeout=30.0))  # of new connections
    with hanging(await backends(frail)):
        with pytest.raises(DatabaseUnavailableError, match=r"did not answer in time|connection was lost"):
            await add(impatient, "b")
        await add(impatient, "c")  # on a new connection
    assert await has(impatient, "c")


async def test_no_server_being_what_is_asked_for_is_told_as_the_database_being_away(url: str) -> None:
    await SqlDatabase(url).migrate()
    with pytest.raises(DatabaseUnavailableError, match="target_session_attrs") as caught:
        await SqlDatabase(f"{url}&target_session_attrs=standby").open()
    assert caught.value.is_away
