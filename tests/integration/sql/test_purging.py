"""Old records go in portions: a purge that has much to do is ended by no timeout."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from uploadcore.ports import IdempotencyRecord
from uploadcore.testing import make_event
from uploadcore_sql import SqlDatabase, dead_letters, idempotency

HOUR = timedelta(hours=1)


@pytest.fixture(params=["database", "emptied"], ids=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> SqlDatabase:
    return cast("SqlDatabase", request.getfixturevalue(request.param))


async def test_a_purge_drops_a_bounded_number_and_the_next_one_goes_on(
    either: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dead_letters, idempotency):
        monkeypatch.setattr(module, "PURGED_AT_ONCE", 2)
    async with either.transaction() as tx:
        for key in ("a", "b", "c"):
            await tx.outbox.add(make_event(key, upload_id=key))
            await tx.idempotency.claim(IdempotencyRecord("u_1", key, "print", key), kept=HOUR)

        await tx.outbox.number([], 10)
    for dropped in (2, 1, 0):
        async with either.transaction() as tx:
            assert await tx.outbox.purge(older_than=-HOUR, dead_older_than=HOUR) == dropped
            assert await tx.idempotency.purge(older_than=-HOUR) == dropped
