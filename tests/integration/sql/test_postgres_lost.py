"""PostgreSQL that goes away, hangs, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta

import asyncpg
import pytest

from tests.servers.postgres import ExternalPostgres, PostgresServer
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.testing import make_upload
from uploadcore_sql import SqlDatabase

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A server of our own: others would miss it."""
    server = PostgresServer(durable=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def database(frail: PostgresServer) -> AsyncIterator[SqlDatabase]:
    url = await asyncio.to_thread(frail.new_database)
    await SqlDatabase(url).migrate()
    database = SqlDatabase(f"{url}&command_timeout=1&pool_size=4")
    await database.open()
    yield database
    await database.close()


async def add(database: SqlDatabase, name: str) -> None:
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload(name), lifetime=HOUR, lease=None)


async def has(database: SqlDatabase, name: str) -> bool:
    async with database.reader(single=True) as tx:
        return await tx.uploads.get(name) is not None


async def backends(server: ExternalPostgres) -> list[int]:
    """The processes that serve us."""
    admin = await asyncpg.connect(server._admin_url)
    rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'uploadcore'")
    await admin.close()
    return [row[0] for row in rows]


async def cut(server: ExternalPostgres) -> None:
    """As an administrator would, and wait until they are gone."""
    admin = await asyncpg.connect(server._admin_url)
    ours = "pg_stat_activity WHERE application_name = 'uploadcore'"
    await admin.execute(f"SELECT pg_terminate_backend(pid) FROM {ours}")
    while await admin.fetchval(f"SELECT count(*) FROM {ours}"):  # noqa: ASYNC110 - a server tells nobody
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
    assert [await has(database, name) for name in "abcd"] == [True] * 4
    await add(database, "e")


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


async def test_a_server_that_hangs_is_not_waited_for_for_ever(database: SqlDatabase, frail: PostgresServer) -> None:
    await add(database, "a")
    with hanging(await backends(frail)):
        with pytest.raises(DatabaseUnavailableError, match=r"did not answer in time|connection was lost"):
            await add(database, "b")
        await add(database, "c")  # on a new connection
    assert await has(database, "c")
