"""A measured port keeps the contract of its port, and what was measured is what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.memory.test_contracts import MemoryHttp
from uploadcore.address import Address
from uploadcore.errors import NoSuchMultipartError, StoreUnavailableError, VersionConflictError
from uploadcore.ports import Cache, Database, ObjectHeaders, ObjectStore
from uploadcore.testing import CacheContract, DatabaseContract, ObjectStoreContract
from uploadcore_app.measured import MeasuredCache, MeasuredDatabase, MeasuredStore, Measurements
from uploadcore_memory import ManualClock, MemoryCache, MemoryDatabase, MemoryObjectStore

ADDRESS = Address("memory", "key")


class TestMeasuredStore(ObjectStoreContract):
    part_counts = (10,)
    open_multiparts = 10

    @pytest.fixture
    async def store(self) -> AsyncIterator[ObjectStore]:
        self.manual = ManualClock()
        self.within = MemoryObjectStore(clock=self.manual)
        store = MeasuredStore(self.within, Measurements())
        await store.open()
        yield store
        await store.close()

    @pytest.fixture
    def http(self, store: ObjectStore) -> MemoryHttp:
        return MemoryHttp(self.within)

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        self.manual.advance(seconds)

    async def now(self, store: ObjectStore) -> datetime:
        return self.manual.now()


class TestMeasuredDatabase(DatabaseContract):
    @pytest.fixture
    async def database(self) -> AsyncIterator[Database]:
        database = MeasuredDatabase(MemoryDatabase(), Measurements())
        await database.open()
        yield database
        await database.close()


class TestMeasuredCache(CacheContract):
    @pytest.fixture
    async def cache(self) -> AsyncIterator[Cache]:
        self.manual = ManualClock()
        cache = MeasuredCache(MemoryCache(clock=self.manual), Measurements())
        await cache.open()
        yield cache
        await cache.close()

    async def advance(self, cache: Cache, seconds: float) -> None:
        self.manual.advance(seconds)


class Away(MemoryObjectStore):
    async def head(self, *_: Any) -> None:
        raise StoreUnavailableError("away")

    async def delete(self, *_: Any) -> None:
        raise ZeroDivisionError


class Hanging(MemoryObjectStore):
    async def head(self, *_: Any) -> None:
        await asyncio.Event().wait()


def counts(counted: dict[tuple[str, ...], list[float]]) -> dict[tuple[str, ...], float]:
    return {labels: sum(buckets[:-1]) for labels, buckets in counted.items()}


async def test_calls_are_counted_by_how_they_ended() -> None:
    measurements = Measurements()
    store, away = MeasuredStore(MemoryObjectStore(), measurements), MeasuredStore(Away(), measurements)
    await store.create_multipart(ADDRESS, ObjectHeaders("text/plain"))
    await store.head(ADDRESS)
    assert [found async for found in store.list_multiparts("")]
    with pytest.raises(NoSuchMultipartError):
        await store.list_parts(Address("memory", "key", "unknown"))
    with pytest.raises(StoreUnavailableError):
        await away.head(ADDRESS)
    with pytest.raises(ZeroDivisionError):
        await away.delete(ADDRESS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(MeasuredStore(Hanging(), measurements).head(ADDRESS), 0.001)

    assert counts(measurements.store.counted) == {
        ("create_multipart", "ok"): 1,
        ("head", "ok"): 1,
        ("list_multiparts", "ok"): 1,
        ("list_parts", "no_such_multipart"): 1,
        ("head", "store_unavailable"): 1,
        ("delete", "unexpected"): 1,
        ("head", "cancelled"): 1,
    }


async def test_a_listing_is_measured_without_what_is_done_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    monkeypatch.setattr("uploadcore_app.measured.time", SimpleNamespace(perf_counter=lambda: passed))

    class Slow(MemoryObjectStore):
        async def list_multiparts(self, prefix: str) -> AsyncIterator[Any]:
            nonlocal passed
            async for multipart in super().list_multiparts(prefix):
                passed += 1
                yield multipart

    measurements = Measurements()
    store = MeasuredStore(Slow(), measurements)
    for key in "ab":
        await store.create_multipart(Address("memory", key), ObjectHeaders("text/plain"))

    async for _ in store.list_multiparts(""):
        passed += 60

    assert measurements.store.counted["list_multiparts", "ok"][-1] == 2


async def test_a_listing_that_breaks_is_counted_as_one() -> None:
    class Broken(MemoryObjectStore):
        async def list_multiparts(self, prefix: str) -> AsyncIterator[Any]:
            if not prefix:
                raise StoreUnavailableError("away")
            yield

    measurements = Measurements()
    listing = MeasuredStore(Broken(), measurements).list_multiparts("")
    with pytest.raises(StoreUnavailableError):
        await anext(aiter(listing))

    assert counts(measurements.store.counted) == {("list_multiparts", "store_unavailable"): 1}


async def test_transactions_are_counted_by_how_they_ended() -> None:
    class Refusing(MemoryDatabase):
        def transaction(self, *, single: bool = False) -> Any:
            return Unanswered()

    class Unanswered:
        async def __aenter__(self) -> None:
            raise ConnectionError

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError("never entered")

    measurements = Measurements()
    database = MeasuredDatabase(MemoryDatabase(), measurements)
    async with database.transaction(), database.reader():
        pass
    with pytest.raises(VersionConflictError):
        async with database.transaction():
            raise VersionConflictError("somebody was faster")
    with pytest.raises(ConnectionError):
        async with MeasuredDatabase(Refusing(), measurements).transaction():
            raise AssertionError("it was entered")

    assert counts(measurements.database.counted) == {
        ("write", "ok"): 1,
        ("read", "ok"): 1,
        ("write", "version_conflict"): 1,
        ("write", "unexpected"): 1,
    }


async def test_a_commit_that_fails_is_what_the_transaction_ended_with() -> None:
    class Uncommitted:
        async def __aenter__(self) -> None:
            return None

        async def __aexit__(self, *_: object) -> None:
            raise ConnectionError

    class Failing(MemoryDatabase):
        def transaction(self, *, single: bool = False) -> Any:
            return Uncommitted()

    measurements = Measurements()
    with pytest.raises(ConnectionError):
        async with MeasuredDatabase(Failing(), measurements).transaction():
            pass

    assert counts(measurements.database.counted) == {("write", "unexpected"): 1}


async def test_what_becomes_of_copies_is_counted_by_kind() -> None:
    class Unreachable(MemoryCache):
        async def set_if_newer(self, *_: Any, **__: Any) -> None:
            return None

        async def delete(self, *_: Any) -> None:
            return None

    measurements, ttl = Measurements(), timedelta(seconds=5)
    cache, away = MeasuredCache(MemoryCache(), measurements), MeasuredCache(Unreachable(), measurements)
    await cache.set_if_newer("upload:1", b"2", 2, ttl=ttl)
    await cache.set_if_newer("upload:1", b"1", 1, ttl=ttl)
    await cache.delete("file:1", 1)
    await away.set_if_newer("file:1", b"1", 1, ttl=ttl)
    await away.delete("file:1", 1)
    await cache.set_if_newer("whatever-this-is", b"1", 1, ttl=ttl)

    assert measurements.cache == {
        ("upload", "stored"): 1,
        ("upload", "overtaken"): 1,
        ("file", "dropped"): 1,
        ("file", "unavailable"): 2,
        ("other", "stored"): 1,
    }


def test_what_signs_and_what_reads_the_cache_costs_nothing_more() -> None:
    store, cache = MemoryObjectStore(), MemoryCache()

    assert MeasuredStore(store, Measurements()).presign_parts == store.presign_parts
    assert MeasuredCache(cache, Measurements()).get == cache.get


def test_the_offset_of_the_stores_clock_is_told_through() -> None:
    class Ahead(MemoryObjectStore):
        clock_offset = timedelta(minutes=14)

    assert MeasuredStore(Ahead(), Measurements()).clock_offset == timedelta(minutes=14)
    assert MeasuredStore(MemoryObjectStore(), Measurements()).clock_offset is None
