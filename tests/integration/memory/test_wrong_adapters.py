"""The contracts notice adapters that would break what the core relies on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import uploadcore_memory.cache
from uploadcore.ports import ObjectStore, OpenMultipart, SignedRequest
from uploadcore.testing import CacheContract, ObjectStoreContract
from uploadcore_memory import ManualClock, MemoryCache, MemoryObjectStore

MONTH = timedelta(days=30)


class OnManualClock(ObjectStoreContract):
    def __init__(self) -> None:
        self.manual = ManualClock()

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        self.manual.advance(seconds)

    async def now(self, store: ObjectStore) -> datetime:
        return self.manual.now()


class CacheOnManualClock(CacheContract):
    def __init__(self) -> None:
        self.manual = ManualClock()

    async def advance(self, cache: Any, seconds: float) -> None:
        self.manual.advance(seconds)


class InitiatedLongAgo(MemoryObjectStore):
    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        async for found in super().list_multiparts(prefix):
            yield OpenMultipart(found.key, found.storage_upload_id, datetime(1970, 1, 1, tzinfo=UTC))


class InitiatedWhenListed(MemoryObjectStore):
    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        async for found in super().list_multiparts(prefix):
            yield OpenMultipart(found.key, found.storage_upload_id, self._clock.now())


def later(signed: SignedRequest) -> SignedRequest:
    return signed._replace(expires_at=signed.expires_at + MONTH)


class PartsForAMonth(MemoryObjectStore):
    async def presign_parts(self, *args: Any, **kwargs: Any) -> list[SignedRequest]:
        return [later(signed) for signed in await super().presign_parts(*args, **kwargs)]


class PutsForAMonth(MemoryObjectStore):
    async def presign_put(self, *args: Any, **kwargs: Any) -> SignedRequest:
        return later(await super().presign_put(*args, **kwargs))


class GetsForAMonth(MemoryObjectStore):
    async def presign_get(self, *args: Any, **kwargs: Any) -> SignedRequest:
        return later(await super().presign_get(*args, **kwargs))


@pytest.mark.parametrize("wrong", [InitiatedLongAgo, InitiatedWhenListed])
async def test_a_store_that_tells_another_time_of_initiation_is_noticed(wrong: type[MemoryObjectStore]) -> None:
    contract = OnManualClock()
    with pytest.raises(AssertionError, match="initiated"):
        await contract.test_a_multipart_upload_is_listed_with_the_time_it_was_initiated(wrong(clock=contract.manual))


@pytest.mark.parametrize(("wrong", "what"), [(PartsForAMonth, "part"), (PutsForAMonth, "put"), (GetsForAMonth, "get")])
async def test_a_store_whose_urls_live_longer_than_asked_for_is_noticed(
    wrong: type[MemoryObjectStore], what: str
) -> None:
    contract = OnManualClock()
    with pytest.raises(AssertionError, match=rf"\['{what}'\] == "):
        await contract.test_no_url_says_that_it_lives_longer_than_asked_for(wrong(clock=contract.manual))


async def test_a_cache_that_forgets_versions_and_tombstones_too_soon_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contract = CacheOnManualClock()
    monkeypatch.setattr(uploadcore_memory.cache, "MARKER_LIFE", 0.2)
    with pytest.raises(AssertionError, match=r"\['expired', 'deleted'\] == "):
        await contract.test_versions_and_tombstones_are_remembered_for_ten_seconds(MemoryCache(clock=contract.manual))
