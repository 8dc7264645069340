"""A database of one's own: in a file, and on a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.servers.postgres import PostgresServer
from uploadcore_sql import SqlDatabase
from uploadcore_sql.tables import METADATA


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Names a file that is not there yet, in a folder that is not there either."""
    return f"sqlite:///{tmp_path}/data/uploads.db"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Names a database without a single table."""
    return postgres_server.new_database()


def patient(url: str) -> str:
    """With time for a server that the rest of the suite leaves no processor for seconds."""
    return f"{url}{'&' if '?' in url else '?'}pool_timeout=30&connect_timeout=30"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlDatabase]:
    """A database with a schema, open."""
    database = SqlDatabase(url if url.startswith("sqlite") else patient(url))
    await database.migrate()
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def in_a_file(url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(url) as database:
        yield database


@pytest.fixture
def database(in_a_file: SqlDatabase) -> SqlDatabase:
    """The one meant where nothing else is said."""
    return in_a_file


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[SqlDatabase]:
    async with opened(postgres_url) as database:
        yield database


@pytest.fixture(scope="session")
def emptied_url(postgres_server: PostgresServer) -> str:
    """Names one database for many tests: making one, and its schema, takes longer than most of them."""
    return postgres_server.new_database()


@pytest.fixture
async def emptied(emptied_url: str) -> AsyncIterator[SqlDatabase]:
    """A PostgreSQL database with a schema and no records."""
    async with opened(emptied_url) as database:
        connection = await asyncpg.connect(emptied_url)
        kept = {"uploadcore_installation"}
        await connection.execute(f"TRUNCATE {', '.join(METADATA.tables.keys() - kept)} RESTART IDENTITY")
        await connection.close()
        yield database
