"""Initiate on real databases, where a commit takes its time: whoever goes away meanwhile leaves nothing open."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from uploadcore import UploadCore, UploadState, UploadView
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase

OWNER = "u_1"


@pytest.fixture(params=["database", "emptied"], ids=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> SqlDatabase:
    return cast("SqlDatabase", request.getfixturevalue(request.param))


@pytest.mark.parametrize("size", [5, 30_000_000], ids=["single", "multipart"])
async def test_a_call_without_a_key_that_is_cancelled_at_any_time_leaves_nothing_open(
    either: SqlDatabase, size: int
) -> None:
    core = UploadCore(store=MemoryObjectStore(), database=either)
    answered: set[str] = set()

    async def begin() -> UploadView:
        upload = await core.uploads.initiate(owner=OWNER, filename="a", size=size, sign=1)
        answered.add(upload.id)
        return upload

    await begin()  # the first one prepares statements
    for after in range(200):
        calls = [asyncio.ensure_future(begin()) for _ in range(4)]
        await asyncio.sleep(after * 0.000_1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await core.uploads.close()

    async with either.reader() as tx:
        found = await tx.uploads.find(owner=OWNER, state=None, fingerprint=None, before=None, limit=1_000)
    assert {upload.state for upload in found if upload.id not in answered} <= {UploadState.ABORTING}
