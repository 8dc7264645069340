"""The contract of `Transaction.quotas`."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from uploadcore.errors import QuotaExceededError
from uploadcore.ports import Database
from uploadcore.testing.builders import make_upload

__all__ = ["QuotaContract"]

HOUR = timedelta(hours=1)


class QuotaContract:
    """What every `QuotaRecords` does. Part of `DatabaseContract`."""

    async def reserve(
        self,
        database: Database,
        size: int,
        *,
        owner: str = "u_1",
        uploads: int | None = None,
        size_limit: int | None = None,
    ) -> None:
        """Reserve in a transaction of its own."""
        async with database.transaction() as tx:
            await tx.quotas.reserve(owner, size=size, max_uploads=uploads, max_bytes=size_limit)

    async def release(self, database: Database, size: int) -> None:
        """Release in a transaction of its own."""
        async with database.transaction() as tx:
            await tx.quotas.release("u_1", size=size)

    async def test_uploads_are_counted_up_to_the_limit(self, database: Database) -> None:
        await self.reserve(database, 0, uploads=2)
        await self.reserve(database, 0, uploads=2)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=2)
        await self.release(database, 0)
        await self.reserve(database, 0, uploads=2)

    async def test_bytes_are_counted_up_to_the_limit(self, database: Database) -> None:
        await self.reserve(database, 60, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 41, size_limit=100)
        await self.reserve(database, 40, size_limit=100)
        await self.release(database, 60)
        await self.reserve(database, 60, size_limit=100)

    async def test_a_first_reservation_can_be_refused(self, database: Database) -> None:
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=0)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 11, size_limit=10)
        await self.reserve(database, 10, uploads=1, size_limit=10)

    async def test_a_refused_reservation_counts_nothing(self, database: Database) -> None:
        await self.reserve(database, 60, uploads=2, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 41, uploads=2, size_limit=100)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, uploads=1, size_limit=100)
        await self.reserve(database, 40, uploads=2, size_limit=100)

    async def test_a_refused_reservation_leaves_its_transaction_usable(self, database: Database) -> None:
        async with database.transaction() as tx:
            with pytest.raises(QuotaExceededError):
                await tx.quotas.reserve("u_1", size=11, max_uploads=None, max_bytes=10)
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        async with database.reader() as tx:
            assert await tx.uploads.get("a") is not None

    async def test_without_limits_there_are_none(self, database: Database) -> None:
        for _ in range(3):
            await self.reserve(database, 53_687_091_200_000)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, size_limit=3 * 53_687_091_200_000)

    async def test_owners_do_not_share(self, database: Database) -> None:
        await self.reserve(database, 10, owner="u_1", uploads=1, size_limit=10)
        await self.reserve(database, 10, owner="u_2", uploads=1, size_limit=10)
        await self.reserve(database, 10, owner="U_1", uploads=1, size_limit=10)

    async def test_a_quota_never_falls_below_zero(self, database: Database) -> None:
        await self.release(database, 1_000)
        await self.reserve(database, 10)
        await self.release(database, 1_000)
        await self.release(database, 1_000)
        await self.reserve(database, 10, uploads=1, size_limit=10)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 0, uploads=1)
        with pytest.raises(QuotaExceededError):
            await self.reserve(database, 1, size_limit=10)

    async def test_concurrent_reservations_never_pass_the_limit(self, database: Database) -> None:
        attempts = (self.reserve(database, 10, uploads=20, size_limit=30) for _ in range(12))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert outcomes.count(None) == 3
        assert sum(isinstance(outcome, QuotaExceededError) for outcome in outcomes) == 9
