"""PostgreSQL: a bounded pool of connections, transactions side by side."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakSet

try:
    import asyncpg
except ImportError as exc:
    raise ImportError("PostgreSQL needs packages that are not installed: pip install 'uploadcore[postgres]'") from exc
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from uploadcore.errors import DatabaseUnavailableError
from uploadcore.ports import Transaction
from uploadcore_sql.postgres_errors import DRIVER_ERRORS, MIGRATE, map_exceptions
from uploadcore_sql.postgres_pulse import QUESTION, Pulse
from uploadcore_sql.postgres_session import PostgresSession, SingleCall, Underway
from uploadcore_sql.postgres_url import PostgresUrl
from uploadcore_sql.postgres_wake import CHANNEL, PostgresWake
from uploadcore_sql.schema import SchemaState, installation_of, migrate, schema_state
from uploadcore_sql.text import refuse_nul

__all__ = ["PostgresBackend"]

RECYCLED_AFTER = 1_800
"""Seconds after which a connection is replaced: so that load balancers, rotated credentials and memory of old sessions get their turn."""
IDLE_BEFORE_PING = 5.0
"""Seconds a connection may have lain idle to be used without a question. One whose end was told is never used, however short that is ago."""
PING_TIMEOUT = 1.0
MIGRATION_LOCK = 0x75706C6F6164636F
"""Key of the advisory lock that lets one process migrate at a time: 'uploadco'."""
MIGRATION_PATIENCE = 60.0
"""Seconds to wait for another process that migrates the same database."""
MIGRATION_LOCK_TIMEOUT = "5s"
"""How long a change of a table waits for whoever uses it: everybody else waits behind it meanwhile."""


class PostgresBackend:
    """One database on a server.

    Args:
        url: `postgresql://user:password@host:port/name?option=value`.

    Raises:
        InvalidRequestError: It can't be used.
    """

    def __init__(self, url: str) -> None:
        self.url = PostgresUrl.read(url)
        self.write_transactions = 0
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        self._pulse = Pulse(self._connect_for_pulse, self._cut)
        self._installation_id: str | None = None
        self._writing: AsyncEngine | None = None
        self._reading: AsyncEngine | None = None
        self._alone: Engine | None = None
        self._underway = Underway()
        self._wake = PostgresWake(self._connect, self._notify, listens=self.url.keeps_sessions)

    def __str__(self) -> str:
        """Name the server and the database, and nobody's password."""
        return self.url.shown

    async def open(self) -> None:
        """Connect, and see whether the schema is one this code can work on."""
        engine = self._engine()
        try:
            with map_exceptions():
                async with engine.connect() as connection:
                    self._installation_id = await connection.run_sync(_usable)
                    asked_at = datetime.now(UTC)
                    self._pulse.heard((await connection.execute(text(QUESTION))).scalar_one(), asked_at=asked_at)
        except BaseException:
            await engine.dispose()
            raise
        self._writing = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        if self.url.keeps_sessions:
            self._alone = engine.sync_engine.execution_options(isolation_level="AUTOCOMMIT")
        self._underway = Underway()
        self._wake.open()
        self._pulse.start()

    async def close(self) -> None:
        """Cut what is open, close all connections. Idempotent."""
        await self._underway.stop()
        await self._wake.close()  # only now: what was being committed has told it of events
        if self._writing is not None:
            await self._writing.dispose()
        await self._pulse.stop()

    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """`READ COMMITTED`: what decides is decided inside one statement, on the row as it is then."""
        engine = self._opened(self._writing)
        if single and self._alone is not None:
            return SingleCall(self._alone, engine, self._underway, on_commit=self._count, on_events=self._wake.written)
        return PostgresSession(engine, self._underway, on_commit=self._count, on_events=self._wake.written)

    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """`REPEATABLE READ, READ ONLY`: one snapshot."""
        engine = self._opened(self._reading)
        if single and self._alone is not None:
            return SingleCall(self._alone, engine, self._underway, on_commit=None, on_events=self._wake.written)
        return PostgresSession(engine, self._underway, on_commit=None, on_events=self._wake.written)

    async def installation_id(self) -> str:
        """Made once, by the first migration."""
        if self._installation_id is None:
            raise DatabaseUnavailableError("the database is not open")
        return self._installation_id

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        """Wait until this process or another has written events since this last returned, or so long."""
        await self._wake.wait(timeout)

    async def schema(self) -> SchemaState:
        """How far the schema is."""
        engine = self._engine()
        try:
            with map_exceptions():
                async with engine.connect() as connection:
                    return await connection.run_sync(schema_state)
        finally:
            await engine.dispose()

    async def migrate(self) -> SchemaState:
        """Bring the schema up to date; return how far it was before. One process at a time: others wait, up to a minute."""
        # However long an index of a large table takes: it is the server that limits what others wait for (see `_lock_migrations`).
        engine = self._engine(command_timeout=None)
        try:
            with map_exceptions():
                async with engine.connect() as connection:
                    await _lock_migrations(connection)
                    state = await connection.run_sync(schema_state)
                    await connection.commit()
                    if state.missing:
                        await connection.run_sync(migrate)
                    return state
        finally:
            await engine.dispose()  # and with its connection goes the lock

    @property
    def clock_offset(self) -> timedelta | None:
        """How far the server's clock is ahead of this process's; `None`: not known yet."""
        return self._pulse.clock_offset

    def _engine(self, **driver_options: Any) -> AsyncEngine:
        url = self.url
        keeps = url.keeps_sessions

        async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
            return await self._connect(**driver_options)

        engine = create_async_engine(
            "postgresql+asyncpg://",
            hide_parameters=True,  # values, addresses among them, stay out of error messages
            pool_size=url.pool_size,
            max_overflow=0,
            pool_timeout=url.pool_timeout,
            pool_recycle=RECYCLED_AFTER,
            connect_args={
                "async_creator_fn": connect,
                "prepared_statement_cache_size": 100 if keeps else 0,
                "prepared_statement_name_func": None if keeps else _unique_name,
            },
        )
        refuse_nul(engine.sync_engine)
        event.listen(engine.sync_engine, "checkout", _refuse_if_dead)
        event.listen(engine.sync_engine, "checkin", _note_time)
        return engine

    async def _connect(self, **driver_options: Any) -> asyncpg.Connection:
        if self._pulse.is_away:
            raise ConnectionRefusedError(None, "it does not answer")
        connection = await self._new_connection(**driver_options)
        self._connections.add(connection)
        return connection

    async def _connect_for_pulse(self) -> asyncpg.Connection:
        return await self._new_connection()

    def _cut(self) -> None:
        """End every connection: whoever waits for an answer is told that there will be none."""
        for connection in list(self._connections):
            connection.terminate()

    async def _new_connection(self, **driver_options: Any) -> asyncpg.Connection:
        url = self.url
        options = {
            "timeout": url.connect_timeout,
            "command_timeout": url.command_timeout,
            "server_settings": dict(url.settings),
            "statement_cache_size": 100 if url.keeps_sessions else 0,
            **driver_options,
        }
        return await asyncpg.connect(url.dsn, **options)

    async def _notify(self) -> None:
        """Tell other processes. In a transaction of its own: one that notifies holds a lock of the whole server's while it commits."""
        with map_exceptions():
            async with self._opened(self._writing).connect() as connection:
                await connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})
                await connection.commit()

    def _count(self) -> None:
        self.write_transactions += 1

    @staticmethod
    def _opened(engine: AsyncEngine | None) -> AsyncEngine:
        if engine is None:
            raise DatabaseUnavailableError("the database is not open")
        return engine


def _usable(connection: Connection) -> str:
    """The installation id, if this code can work on the schema."""
    state = schema_state(connection)
    if state.missing:
        found = "has no schema yet" if state.current is None else f"has its schema at revision {state.current!r}"
        raise DatabaseUnavailableError(
            f"the database {found}, and this version of uploadcore needs {state.newest!r}: {MIGRATE}"
        )
    return installation_of(connection)


async def _lock_migrations(connection: AsyncConnection) -> None:
    """Wait for our turn. By asking again, not inside the server: who waits there would be waited for by a concurrent index."""
    give_up_at = time.monotonic() + MIGRATION_PATIENCE
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        await connection.commit()
        if time.monotonic() >= give_up_at:
            raise DatabaseUnavailableError("another process is still migrating the database: try again")
        await asyncio.sleep(0.1)
    await connection.execute(text(f"SET lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'"))
    await connection.execute(text("SET statement_timeout = 0"))
    await connection.commit()


def _unique_name() -> str:
    """Of a prepared statement, where several clients share the server's sessions."""
    return f"__uploadcore_{uuid.uuid4()}__"


def _note_time(connection: Any, record: Any) -> None:
    del connection
    record.info["idle_since"] = time.monotonic()


def _refuse_if_dead(connection: Any, record: Any, proxy: Any) -> None:
    """Pre-ping, at the cost of a round trip only where the connection was idle: the end of one is otherwise known already."""
    del proxy
    if connection.driver_connection.is_closed():
        raise DisconnectionError
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) > IDLE_BEFORE_PING:
        try:
            connection.run_async(lambda driver: driver.execute("SELECT 1", timeout=PING_TIMEOUT))
        except TimeoutError as exc:  # and so with all others that are as old: they are not asked one by one
            raise InvalidatePoolError from exc
        except (*DRIVER_ERRORS, OSError) as exc:
            raise DisconnectionError from exc
