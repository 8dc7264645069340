"""Several processes on one file, and processes that die."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from datetime import timedelta
from typing import IO

import pytest

from uploadcore.errors import QuotaExceededError
from uploadcore_sql import SqlDatabase

HOUR = timedelta(hours=1)

HALF_A_TRANSACTION = """
import asyncio, sys
from datetime import timedelta
from uploadcore.testing import make_event, make_upload
from uploadcore_sql import SqlDatabase

async def main():
    database = SqlDatabase(sys.argv[1])
    await database.open()
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("whole"), lifetime=timedelta(hours=1), lease=None)
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("half"), lifetime=timedelta(hours=1), lease=None)
        await tx.outbox.add(make_event("half"))
        print("inside", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

WRITE_FOR_EVER = """
import asyncio, itertools, sys
from datetime import timedelta
from uploadcore.testing import make_event, make_upload
from uploadcore_sql import SqlDatabase

async def main():
    database = SqlDatabase(sys.argv[1])
    await database.open()
    async def write(task):
        for number in itertools.count():
            name = f"{sys.argv[2]}-{task}-{number}"
            async with database.transaction() as tx:
                await tx.uploads.add(make_upload(name), lifetime=timedelta(hours=1), lease=None)
                await tx.outbox.add(make_event(name, upload_id=name))
            print(name, flush=True)
    await asyncio.gather(*(write(task) for task in range(4)))

asyncio.run(main())
"""

RESERVE = """
import asyncio, sys
from datetime import timedelta
from uploadcore_sql import SqlDatabase

async def main():
    database = SqlDatabase(sys.argv[1], patience=timedelta(minutes=1))
    await database.open()
    async def reserve():
        async with database.transaction() as tx:
            await tx.quotas.reserve("u_1", size=1, max_uploads=None, max_bytes=None)
    await asyncio.gather(*(reserve() for _ in range(int(sys.argv[2]))))
    await database.close()

asyncio.run(main())
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


async def kill(process: subprocess.Popen[str]) -> str:
    """What it said before it died."""
    process.send_signal(signal.SIGKILL)
    said, _ = await asyncio.to_thread(process.communicate)
    return said


async def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it(url: str) -> None:
    process = start(HALF_A_TRANSACTION, url)
    assert await asyncio.to_thread(output_of(process).readline) == "inside\n"
    await kill(process)
    database = SqlDatabase(url)
    await database.open()
    async with database.transaction() as tx:
        assert await tx.uploads.get("whole") is not None
        assert await tx.uploads.get("half") is None
        assert await tx.outbox.number(["anywhere"], 10) == 0
    await database.close()


async def test_killed_at_any_moment_what_was_acknowledged_is_there_and_whole(url: str) -> None:
    acknowledged: set[str] = set()
    for run in range(3):
        process = start(WRITE_FOR_EVER, url, str(run))
        for _ in range(40 + run):
            acknowledged.add((await asyncio.to_thread(output_of(process).readline)).strip())
        whole_lines = (await kill(process)).split("\n")[:-1]
        acknowledged.update(whole_lines)
    database = SqlDatabase(url)
    await database.open()
    async with database.transaction() as tx:
        found = await tx.uploads.find(owner="u_1", state=None, fingerprint=None, before=None, limit=100_000)
        assert await tx.outbox.number(["anywhere"], 100_000) > 0
        events = await tx.outbox.claim("anywhere", 100_000, lease=HOUR)
    uploads = {upload.id for upload in found}
    assert acknowledged <= uploads
    assert {pending.event.id for pending in events} == uploads, "each came with its event, or not at all"
    await database.close()


async def test_processes_that_write_at_once_lose_nothing(url: str) -> None:
    database = SqlDatabase(url, patience=timedelta(minutes=1))  # the disk may be slow, and each waits for all before it
    await database.open()
    processes = [start(RESERVE, f"sqlite:///{database.path}", "100") for _ in range(2)]

    async def reserve() -> None:
        async with database.transaction() as tx:
            await tx.quotas.reserve("u_1", size=1, max_uploads=None, max_bytes=None)

    for _ in range(10):
        await asyncio.gather(*(reserve() for _ in range(10)))
    for process in processes:
        _, error = await asyncio.to_thread(process.communicate)
        assert (process.returncode, error) == (0, "")
    async with database.transaction() as tx:
        with pytest.raises(QuotaExceededError):
            await tx.quotas.reserve("u_1", size=1, max_uploads=300, max_bytes=None)
        await tx.quotas.reserve("u_1", size=1, max_uploads=301, max_bytes=301)
    await database.close()
