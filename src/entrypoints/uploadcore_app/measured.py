"""The ports, measured: how often each is called, how it ends and how long it takes; and a span of each call, where traces are made.

Each class here is a port around another. What is asked once per signed URL or cached read goes past it, to the port itself.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType

from uploadcore.address import Address
from uploadcore.clocks import clock_offset
from uploadcore.file import Checksum
from uploadcore.plan import StoredPart, StoreLimits
from uploadcore.ports import (
    Cache,
    Database,
    ObjectHeaders,
    ObjectStore,
    OpenMultipart,
    StoreCapabilities,
    StoredObject,
    Transaction,
)
from uploadcore_app.outcomes import outcome_of
from uploadcore_app.tracing import Span, Tracing

__all__ = ["BUCKETS", "Durations", "MeasuredCache", "MeasuredDatabase", "MeasuredStore", "Measurements"]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
"""Seconds. The last is what a request in flight has left after SIGTERM."""
_KINDS = frozenset({"upload", "file"})
"""Of cached records, as the first part of their keys names them. Whatever else is put there (a probe of its health) is `other`."""


class Durations:
    """How long things took, by their labels, in `BUCKETS`. Plain lists: to count one takes less than a microsecond."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._counted: dict[tuple[str, ...], list[float]] = {}

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        """Count one."""
        counted = self._counted.get(labels)
        if counted is None:
            counted = self._counted[labels] = [0.0] * (len(BUCKETS) + 2)
        counted[bisect_left(BUCKETS, seconds)] += 1
        counted[-1] += seconds

    @property
    def counted(self) -> dict[tuple[str, ...], list[float]]:
        """By labels: how many fell in each bucket and beyond the last; last of all, the sum of their seconds."""
        return self._counted.copy()


class Measurements:
    """What was measured of the ports of one application.

    Attributes:
        store: Calls to the store, by call and outcome.
        database: Transactions, by access (`read` or `write`) and outcome.
        cache: What was put there, by kind of record and result: `stored`; `overtaken`, where a newer one stood; `dropped`, the copy a
            change has overtaken; `unavailable`.
        tracing: Makes the spans; `None`: there are none.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        """Start at nothing."""
        self.store = Durations()
        self.database = Durations()
        self.cache: Counter[tuple[str, str]] = Counter()
        self.tracing = tracing


class _Call:
    """One call, measured from entering to leaving, and its span."""

    __slots__ = ("_began", "_into", "_name", "_span")

    def __init__(self, into: Durations, name: str, span: Span | None) -> None:
        self._into = into
        self._name = name
        self._span = span

    def __enter__(self) -> None:
        if self._span is not None:
            self._span.begin()
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = outcome_of(error)
        self._into.observe((self._name, outcome), time.perf_counter() - self._began)
        if self._span is not None:
            self._span.end(outcome)


class MeasuredStore:
    """An object store, measured. Signing is no call to the store: it goes to it directly."""

    def __init__(self, store: ObjectStore, measurements: Measurements) -> None:
        """Measure `store`."""
        self._store = store
        self._measurements = measurements
        self.presign_parts = store.presign_parts
        self.presign_put = store.presign_put
        self.presign_get = store.presign_get

    @property
    def within(self) -> ObjectStore:
        """The store that is measured."""
        return self._store

    @property
    def bucket(self) -> str:
        """The store's."""
        return self._store.bucket

    @property
    def limits(self) -> StoreLimits:
        """The store's."""
        return self._store.limits

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's."""
        return self._store.capabilities

    @property
    def clock_offset(self) -> timedelta | None:
        """How far the store's clock is ahead of this process's; `None` where it does not say."""
        return clock_offset(self._store)

    async def open(self) -> None:
        """Open the store."""
        await self._store.open()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """As the store does."""
        with self._call("create_multipart"):
            return await self._store.create_multipart(address, headers)

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """As the store does; however many pages it takes, it counts once."""
        with self._call("list_parts"):
            return await self._store.list_parts(address)

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """As the store does."""
        with self._call("complete_multipart"):
            await self._store.complete_multipart(address, parts, size=size, checksum=checksum)

    async def abort_multipart(self, address: Address) -> None:
        """As the store does."""
        with self._call("abort_multipart"):
            await self._store.abort_multipart(address)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """As the store does; a whole listing counts once, with the time that it was waited for. It has no span."""
        waited, outcome = 0.0, "ok"
        listing = aiter(self._store.list_multiparts(prefix))
        try:
            while True:
                began = time.perf_counter()
                try:
                    multipart = await anext(listing)
                except StopAsyncIteration:
                    return
                except BaseException as exc:
                    outcome = outcome_of(exc)
                    raise
                finally:
                    waited += time.perf_counter() - began
                yield multipart
        finally:
            self._measurements.store.observe(("list_multiparts", outcome), waited)

    async def head(self, address: Address) -> StoredObject | None:
        """As the store does."""
        with self._call("head"):
            return await self._store.head(address)

    async def delete(self, address: Address) -> None:
        """As the store does."""
        with self._call("delete"):
            await self._store.delete(address)

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """As the store does."""
        with self._call("put_marker"):
            await self._store.put_marker(address, headers)

    def _call(self, name: str) -> _Call:
        tracing = self._measurements.tracing
        span = None if tracing is None else tracing.call(f"store {name}")
        return _Call(self._measurements.store, name, span)


class MeasuredDatabase:
    """A database, measured: each transaction from asking for it to the answer to its commit."""

    def __init__(self, database: Database, measurements: Measurements) -> None:
        """Measure `database`."""
        self._database = database
        self._measurements = measurements
        self.installation_id = database.installation_id

    @property
    def clock_offset(self) -> timedelta | None:
        """How far the database's clock is ahead of this process's; `None` where it does not say."""
        return clock_offset(self._database)

    async def open(self) -> None:
        """Open the database."""
        await self._database.open()

    async def close(self) -> None:
        """Close the database."""
        await self._database.close()

    def transaction(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """As the database does."""
        return _MeasuredTransaction(self._database.transaction(single=single), self._call("write"))

    def reader(self, *, single: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """As the database does."""
        return _MeasuredTransaction(self._database.reader(single=single), self._call("read"))

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as in the port
        """As the database does."""
        await self._database.events_written(timeout)

    def _call(self, access: str) -> _Call:
        tracing = self._measurements.tracing
        span = None if tracing is None else tracing.call(f"database {access}")
        return _Call(self._measurements.database, access, span)


class _MeasuredTransaction:
    __slots__ = ("_call", "_within")

    def __init__(self, within: AbstractAsyncContextManager[Transaction], call: _Call) -> None:
        self._within = within
        self._call = call

    async def __aenter__(self) -> Transaction:
        self._call.__enter__()
        try:
            return await self._within.__aenter__()
        except BaseException as exc:
            self._call.__exit__(type(exc), exc, exc.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        ended = error
        try:
            return await self._within.__aexit__(kind, error, traceback)
        except BaseException as exc:
            ended = exc
            raise
        finally:
            self._call.__exit__(None if ended is None else type(ended), ended, None)


class MeasuredCache:
    """A cache, measured: what became of what was put there. What reads have found, the core counts, and reading goes to the cache directly."""

    def __init__(self, cache: Cache, measurements: Measurements) -> None:
        """Measure `cache`."""
        self._cache = cache
        self._counted = measurements.cache
        self.get = cache.get

    async def open(self) -> None:
        """Open the cache."""
        await self._cache.open()

    async def close(self) -> None:
        """Close the cache."""
        await self._cache.close()

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        """As the cache does."""
        stored = await self._cache.set_if_newer(key, value, version, ttl=ttl)
        self._count(key, "unavailable" if stored is None else "stored" if stored else "overtaken")
        return stored

    async def delete(self, key: str, version: int) -> bool | None:
        """As the cache does."""
        deleted = await self._cache.delete(key, version)
        self._count(key, "unavailable" if deleted is None else "dropped")
        return deleted

    def _count(self, key: str, result: str) -> None:
        kind = key.partition(":")[0]
        self._counted[kind if kind in _KINDS else "other", result] += 1
