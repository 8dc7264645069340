"""The memory adapters keep every port's contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from uploadcore.file import ChecksumAlgorithm
from uploadcore.ports import Cache, EventPublisher, ObjectStore, SignedRequest, StoreCapabilities
from uploadcore.testing import (
    CacheContract,
    ClockContract,
    DatabaseContract,
    EventPublisherContract,
    HttpAnswer,
    IdFactoryContract,
    ObjectStoreContract,
)
from uploadcore_memory import (
    MEMORY_LIMITS,
    ManualClock,
    MemoryCache,
    MemoryDatabase,
    MemoryEventPublisher,
    MemoryObjectStore,
    SequentialIds,
)


class MemoryHttp:
    def __init__(self, store: MemoryObjectStore) -> None:
        self.store = store

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        signed = SignedRequest(method, url, headers, datetime(2100, 1, 1, tzinfo=UTC))
        put = method == "PUT"
        response = await (self.store.put(signed, body) if put else self.store.get(signed, method=method))
        return HttpAnswer(response.status, response.headers, response.body)


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[MemoryObjectStore]:
        store = MemoryObjectStore(clock=clock)
        self.manual = clock
        await store.open()
        yield store
        await store.close()

    @pytest.fixture
    def http(self, store: MemoryObjectStore) -> MemoryHttp:
        return MemoryHttp(store)

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        self.manual.advance(seconds)

    async def now(self, store: ObjectStore) -> datetime:
        return self.manual.now()


class TestMemoryObjectStoreOfTheLeastCapabilities(TestMemoryObjectStore):
    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[MemoryObjectStore]:
        limits = replace(MEMORY_LIMITS, min_part_size=5, max_parts=1_001, max_object_size=10**9)
        store = MemoryObjectStore(clock=clock, limits=limits, capabilities=StoreCapabilities())
        self.manual = clock
        await store.open()
        yield store
        await store.close()


class TestMemoryObjectStoreOfOtherChecksums(TestMemoryObjectStore):
    part_counts = (10,)
    open_multiparts = 10

    @pytest.fixture
    async def store(self, clock: ManualClock) -> AsyncIterator[MemoryObjectStore]:
        told = frozenset({ChecksumAlgorithm.SHA256, ChecksumAlgorithm.CRC32C})
        store = MemoryObjectStore(clock=clock, capabilities=StoreCapabilities(object_checksums=told))
        self.manual = clock
        await store.open()
        yield store
        await store.close()


class TestMemoryDatabase(DatabaseContract):
    @pytest.fixture
    async def database(self) -> AsyncIterator[MemoryDatabase]:
        database = MemoryDatabase()
        await database.open()
        yield database
        await database.close()


class TestMemoryDatabaseWhoseClockStandsStill(DatabaseContract):
    @pytest.fixture
    async def database(self) -> AsyncIterator[MemoryDatabase]:
        database = MemoryDatabase(clock=ManualClock())
        await database.open()
        yield database
        await database.close()


class TestMemoryCache(CacheContract):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[MemoryCache]:
        self.manual = ManualClock()
        cache = MemoryCache(clock=self.manual)
        await cache.open()
        yield cache
        await cache.close()

    async def advance(self, cache: Cache, seconds: float) -> None:
        self.manual.advance(seconds)


class TestMemoryEventPublisher(EventPublisherContract):
    @pytest.fixture
    def publisher(self) -> MemoryEventPublisher:
        return MemoryEventPublisher()

    async def arrived(self, publisher: EventPublisher) -> list[str]:
        assert isinstance(publisher, MemoryEventPublisher)
        return [event.id for event in publisher.events]


class TestManualClockThatAdvancesItself(ClockContract):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(auto_advance=True)


class TestSequentialIds(IdFactoryContract):
    @pytest.fixture
    def ids(self) -> SequentialIds:
        return SequentialIds()
