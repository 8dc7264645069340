"""PostgreSQL that is silent: whoever needs it is told soon, and goes on soon after it is back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from tests.integration.sql.test_postgres_lost import HOUR, add, has
from tests.servers.postgres import PostgresServer
from uploadcore.diagnosis import Verdict
from uploadcore.errors import DatabaseUnavailableError
from uploadcore.testing import make_upload
from uploadcore_app import examine, load_settings
from uploadcore_sql import SqlDatabase, postgres_pulse
from uploadcore_sql.postgres import PostgresBackend

SILENCE = postgres_pulse.SILENCE
"""As it is: other tests' servers are given more time."""
SOON = 5.0
"""Seconds. Promised are 2 for an answer, and 5 until it goes on; on a machine where eight others test as well, more."""

SLACK = timedelta(seconds=30)
"""How far a clock may be misjudged: by half the time the answer took, which is as long as this process stands still."""


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    server = PostgresServer("-c", "synchronous_commit=on")  # what it acknowledges outlives it
    server.start()
    yield server
    server.stop()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pulse, "SILENCE", SILENCE)


@pytest.fixture
async def database(frail: PostgresServer) -> AsyncIterator[SqlDatabase]:
    url = await asyncio.to_thread(frail.new_database)
    await SqlDatabase(url).migrate()
    database = SqlDatabase(f"{url}&pool_size=4")
    await database.open()
    yield database
    await database.close()


@contextmanager
def silent(server: PostgresServer) -> Iterator[None]:
    """All of its processes do nothing within the block, and its socket takes whatever comes."""
    server.pause()  # the postmaster first: it begets no more
    sessions = children(server.process.pid)
    for session in sessions:
        os.kill(session, signal.SIGSTOP)
    try:
        yield
    finally:
        for session in sessions:
            os.kill(session, signal.SIGCONT)
        server.resume()


def children(parent: int) -> list[int]:
    """Each session is a process group of its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" ")
            if int(rest.rpartition(")")[2].split()[1]) == parent:
                found.append(int(pid))
    return found


async def until_it_works(database: SqlDatabase, name: str) -> float:
    """Add an upload as soon as that works; the seconds it took."""
    began = time.monotonic()
    while True:
        try:
            await add(database, name)
        except DatabaseUnavailableError:
            assert time.monotonic() - began < 30
            await asyncio.sleep(0.01)
        else:
            return time.monotonic() - began


async def write(database: SqlDatabase, name: str) -> None:
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload(name), lifetime=HOUR, lease=None)
        await tx.uploads.get(name)


@pytest.mark.usefixtures("_impatient")
async def test_a_server_that_falls_silent_keeps_nobody_waiting(database: SqlDatabase, frail: PostgresServer) -> None:
    await until_it_works(database, "before")
    with silent(frail):
        began = time.monotonic()
        # More than there are connections: those that wait for one are told as well.
        outcomes = await asyncio.gather(
            *(write(database, f"w{number}") for number in range(20)),
            *(has(database, "before") for _ in range(20)),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailableError}
        assert time.monotonic() - began < SOON

        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(DatabaseUnavailableError, match="does not answer") as caught:
                await has(database, "before")
            assert caught.value.is_away
        assert time.monotonic() - began < SOON, "known to be away: nobody waits at all"

    assert await until_it_works(database, "after") < SOON
    assert await has(database, "before")


async def test_it_goes_on_with_a_server_that_was_killed_and_started_again(
    database: SqlDatabase, frail: PostgresServer
) -> None:
    await until_it_works(database, "before")
    frail.kill()
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailableError):
        await has(database, "before")
    assert time.monotonic() - began < SOON
    await asyncio.to_thread(frail.restart)

    assert await until_it_works(database, "after") < SOON


async def test_a_database_that_was_away_when_it_was_to_be_opened_is_opened_later(
    frail: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await asyncio.to_thread(frail.new_database)
    await SqlDatabase(url).migrate()
    database = SqlDatabase(f"{url}&connect_timeout=0.2")
    backend = database._backend
    assert isinstance(backend, PostgresBackend)
    with silent(frail):
        with pytest.raises(DatabaseUnavailableError) as caught:
            await database.open()
        assert caught.value.is_away
        await database.close()

    monkeypatch.setattr(backend, "url", replace(backend.url, connect_timeout=30.0))
    await database.open()
    await until_it_works(database, "after")
    await database.close()


async def test_what_can_be_put_right_is_not_waited_for(frail: PostgresServer) -> None:
    url = await asyncio.to_thread(frail.new_database)
    with pytest.raises(DatabaseUnavailableError, match="has no schema yet") as caught:
        await SqlDatabase(url).open()
    assert not caught.value.is_away
    with pytest.raises(DatabaseUnavailableError, match="no such database") as caught:
        await SqlDatabase(url.replace("/uploadcore_test_", "/nothing_")).open()
    assert not caught.value.is_away


async def test_its_clock_is_known(database: SqlDatabase) -> None:
    async with asyncio.timeout(10):
        while database.clock_offset is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert abs(database.clock_offset) < SLACK


@pytest.mark.parametrize(("minutes", "verdict"), [(0, Verdict.OK), (14, Verdict.WARNING), (-14, Verdict.WARNING)])
async def test_the_doctor_tells_a_clock_that_is_wrong(
    frail: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, verdict: Verdict
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(minutes=minutes)

    url = await asyncio.to_thread(frail.new_database)
    await SqlDatabase(url).migrate()
    monkeypatch.setattr("uploadcore_sql.postgres.datetime", Wrong)
    monkeypatch.setattr("uploadcore_sql.postgres_pulse.datetime", Wrong)

    settings = load_settings(database=url, storage="memory://", cache="none", data_dir=tmp_path)
    found = {finding.check: finding async for finding in examine(settings)}

    assert found["database.clock"].verdict is verdict
    if minutes:
        told = re.search(r"off by ([+-]\d+) s", found["database.clock"].message)
        assert told is not None
        assert abs(timedelta(seconds=int(told[1])) - timedelta(minutes=minutes)) < SLACK
