"""Two instances on one PostgreSQL: equal calls have one effect, quotas hold, and what is due is done once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from tests.integration.sql.conftest import opened
from uploadcore import Admission, StaticPolicy, UploadConfig, UploadCore, UploadState, UploadView
from uploadcore.errors import QuotaExceededError
from uploadcore.ports import ObjectHeaders
from uploadcore.upload import Address
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase

OWNER = "u_1"
LIMIT = 10


class CountingStore(MemoryObjectStore):
    """Counts what is begun there: what is cleaned up afterwards was begun all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.created = 0

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        self.created += 1
        return await super().create_multipart(address, headers)


class Fleet:
    """Instances, and the store and database they share."""

    def __init__(self, store: CountingStore, cores: list[UploadCore], url: str) -> None:
        self.store = store
        self.cores = cores
        self.url = url

    async def values(self, query: str) -> list[tuple[object, ...]]:
        """What the database answers."""
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


@pytest.fixture
async def fleet(emptied: SqlDatabase, emptied_url: str) -> AsyncIterator[Fleet]:
    store = CountingStore()
    async with AsyncExitStack() as stack:
        cores = []
        for number in range(2):
            database = emptied if number == 0 else await stack.enter_async_context(opened(emptied_url))
            cores.append(
                UploadCore(
                    store=store,
                    database=database,
                    policy=StaticPolicy(Admission(max_open_uploads=LIMIT, max_bytes_in_flight=1_000)),
                    config=UploadConfig(upload_lifetime=timedelta(hours=1)),
                )
            )
        yield Fleet(store, cores, emptied_url)
        for core in cores:
            await core.uploads.close()


async def begun(core: UploadCore, key: str | None = None, size: int = 25) -> UploadView:
    return await core.uploads.initiate(
        owner=OWNER, filename="a", size=size, part_size=10, idempotency_key=key, metadata={"a": "b"}
    )


async def test_rule_7_a_hundred_equal_requests_are_one_upload_and_one_answer(fleet: Fleet) -> None:
    answers = await asyncio.gather(*(begun(fleet.cores[number % 2], "k") for number in range(100)))

    assert len(set(map(repr, answers))) == 1
    assert answers[0].state is UploadState.UPLOADING
    assert await fleet.values("SELECT count(*) FROM uploadcore_uploads") == [(1,)]
    assert await fleet.values("SELECT count(*) FROM uploadcore_files") == [(1,)]
    assert await fleet.values("SELECT open_uploads, bytes_in_flight FROM uploadcore_quotas") == [(1, 25)]
    assert len(fleet.store.multiparts) == 1
    assert fleet.store.created == 1
    assert await begun(fleet.cores[1], "k") == answers[0], "a lost answer is given again"


async def test_of_concurrent_requests_no_more_are_admitted_than_the_quota_has_room_for(fleet: Fleet) -> None:
    outcomes = await asyncio.gather(*(begun(fleet.cores[number % 2]) for number in range(40)), return_exceptions=True)

    admitted = [outcome for outcome in outcomes if isinstance(outcome, UploadView)]
    assert len(admitted) == LIMIT
    assert sum(isinstance(outcome, QuotaExceededError) for outcome in outcomes) == 40 - LIMIT
    assert len(fleet.store.multiparts) == LIMIT


async def test_whatever_ends_an_upload_gives_its_quota_back_once(fleet: Fleet) -> None:
    """Completed and aborted several times at once, on both: the counters are the sum over what is open."""
    choose = random.Random(7)

    async def ended(upload: UploadView) -> None:
        for part in await fleet.cores[0].uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1, 2, 3]):
            await fleet.store.put(part.request, b"x" * (part.length or 0))
        calls = [
            core.uploads.complete if choose.random() < 0.5 else core.uploads.abort for core in fleet.cores for _ in "ab"
        ]
        await asyncio.gather(*(call(upload.id, owner=OWNER) for call in calls), return_exceptions=True)

    for _ in range(3):
        uploads = [await begun(fleet.cores[number % 2]) for number in range(6)]
        await asyncio.gather(*(ended(upload) for upload in uploads[:4]), return_exceptions=True)
        open_now = await fleet.values(
            "SELECT count(*), coalesce(sum(reserved_bytes), 0)::bigint FROM uploadcore_uploads "
            "WHERE state NOT IN ('completed', 'aborted', 'expired', 'failed')"
        )
        assert await fleet.values("SELECT open_uploads, bytes_in_flight FROM uploadcore_quotas") == open_now
        for upload in uploads[4:]:
            await fleet.cores[0].uploads.abort(upload.id, owner=OWNER)


async def test_two_sweepers_at_once_expire_everything_once(fleet: Fleet) -> None:
    for _ in range(LIMIT):
        await begun(fleet.cores[0])
    connection = await asyncpg.connect(fleet.url)
    await connection.execute("UPDATE uploadcore_uploads SET expires_at = 0")
    await connection.close()

    reports = await asyncio.gather(*(core.sweep() for core in fleet.cores))

    assert sum(report.expired for report in reports) == LIMIT
    assert sum(report.failed for report in reports) == 0
    assert await fleet.values("SELECT type, count(*) FROM uploadcore_events GROUP BY type") == [
        ("upload.expired", LIMIT)
    ]
    assert await fleet.values("SELECT open_uploads, bytes_in_flight FROM uploadcore_quotas") == [(0, 0)]
    assert fleet.store.multiparts == {}
