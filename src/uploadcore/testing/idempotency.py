"""The contract of `Transaction.idempotency`."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from uploadcore.ports import Database, IdempotencyRecord
from uploadcore.testing.uploads import SENTINELS

__all__ = ["IdempotencyContract"]

HOUR = timedelta(hours=1)


class IdempotencyContract:
    """What every `IdempotencyRecords` does. Part of `DatabaseContract`."""

    async def claim_key(
        self, database: Database, record: IdempotencyRecord, kept: timedelta = HOUR
    ) -> IdempotencyRecord:
        """Claim in a transaction of its own."""
        async with database.transaction() as tx:
            return await tx.idempotency.claim(record, kept=kept)

    async def test_the_first_claim_stands(self, database: Database) -> None:
        first = IdempotencyRecord("u_1", "key", "print 1", "a")
        assert await self.claim_key(database, first) == first
        assert await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 2", "b")) == first
        assert await self.claim_key(database, first) == first

    async def test_another_owners_or_another_key_is_another(self, database: Database) -> None:
        await self.claim_key(database, IdempotencyRecord("u_1", "key", "print", "a"))
        for owner, key in (("u_2", "key"), ("u_1", "Key"), ("u_1", "key "), ("u_1", "ke"), ("U_1", "key")):
            other = IdempotencyRecord(owner, key, "print", "b")
            assert await self.claim_key(database, other) == other

    @pytest.mark.parametrize("text", [*SENTINELS[1:-1], "x" * 255])
    async def test_any_text_is_a_key(self, database: Database, text: str) -> None:
        record = IdempotencyRecord(text, text, "print", "a")
        assert await self.claim_key(database, record) == record
        assert await self.claim_key(database, IdempotencyRecord(text, text, "print", "b")) == record

    async def test_a_record_that_was_kept_long_enough_gives_way(self, database: Database) -> None:
        await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 1", "a"))
        second = IdempotencyRecord("u_1", "key", "print 2", "b")
        assert await self.claim_key(database, second, kept=-HOUR) == second
        assert await self.claim_key(database, IdempotencyRecord("u_1", "key", "print 3", "c")) == second

    async def test_of_many_concurrent_claims_exactly_one_stands(self, database: Database) -> None:
        records = [IdempotencyRecord("u_1", "key", "print", f"upload {number}") for number in range(12)]
        standing = await asyncio.gather(*(self.claim_key(database, record) for record in records))
        assert len(set(standing)) == 1
        assert standing[0] in records

    async def test_old_records_are_purged(self, database: Database) -> None:
        for key in ("a", "b"):
            await self.claim_key(database, IdempotencyRecord("u_1", key, "print", key))
        async with database.transaction() as tx:
            assert await tx.idempotency.purge(older_than=HOUR) == 0
            assert await tx.idempotency.purge(older_than=-HOUR) == 2
            assert await tx.idempotency.purge(older_than=-HOUR) == 0
        again = IdempotencyRecord("u_1", "a", "print", "new")
        assert await self.claim_key(database, again) == again
