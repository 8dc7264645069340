"""The ports as one process reaches them: they lose answers, take effect late, and tell the reference all they do.

An effect takes place at once and whole, so the reference knows exactly what has happened, in which order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from tests.model.processes import CURRENT, Fault, Operation, Parked, Process, ProcessDiedError, at_once
from tests.model.reference import Reference
from uploadcore.errors import DatabaseUnavailableError, StoreUnavailableError
from uploadcore.events import Event
from uploadcore.file import Checksum
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.ports import ObjectHeaders, OpenMultipart, SignedRequest, StoreCapabilities, StoredObject, Transaction
from uploadcore.upload import Address
from uploadcore_memory import ManualClock, MemoryCache, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore

T = TypeVar("T")


class FaultyStore:
    """The object store as one process reaches it."""

    def __init__(self, inner: MemoryObjectStore, process: Process, reference: Reference, parked: list[Parked]) -> None:
        self._inner = inner
        self._process = process
        self._reference = reference
        self._parked = parked

    @property
    def bucket(self) -> str:
        return self._inner.bucket

    @property
    def limits(self) -> StoreLimits:
        return self._inner.limits

    @property
    def capabilities(self) -> StoreCapabilities:
        return self._inner.capabilities

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        def effect(operation: Operation | None) -> str:
            made = at_once(self._inner.create_multipart(address, headers))
            self._reference.created(operation, address, made)
            return made

        return await self._change("create_multipart", address, effect)

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        self._reference.store_called(CURRENT.get(), "presign_parts", address)
        return at_once(self._inner.presign_parts(address, parts, checksums=checksums, expires_in=expires_in))

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        self._reference.store_called(CURRENT.get(), "presign_put", address)
        return at_once(self._inner.presign_put(address, part, headers, checksum=checksum, expires_in=expires_in))

    async def list_parts(self, address: Address) -> list[StoredPart]:
        return await self._look("list_parts", address, lambda _: at_once(self._inner.list_parts(address)))

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        def effect(operation: Operation | None) -> None:
            at_once(self._inner.complete_multipart(address, parts, size=size, checksum=checksum))
            self._reference.assembled(address, [part.part_number for part in parts])

        await self._change("complete_multipart", address, effect)

    async def abort_multipart(self, address: Address) -> None:
        def effect(operation: Operation | None) -> None:
            at_once(self._inner.abort_multipart(address))
            self._reference.aborted(operation, address)

        await self._change("abort_multipart", address, effect)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        async def listed() -> list[OpenMultipart]:
            return [multipart async for multipart in self._inner.list_multiparts(prefix)]

        def effect(operation: Operation) -> list[OpenMultipart]:
            found = at_once(listed())
            self._reference.looked_for_multiparts(operation, prefix, found)
            return found

        for multipart in await self._look("list_multiparts", None, effect):
            yield multipart

    async def head(self, address: Address) -> StoredObject | None:
        def effect(operation: Operation) -> StoredObject | None:
            found = at_once(self._inner.head(address))
            self._reference.looked_for_object(operation, address, found)
            return found

        return await self._look("head", address, effect)

    async def delete(self, address: Address) -> None:
        def effect(operation: Operation | None) -> None:
            at_once(self._inner.delete(address))
            self._reference.deleted(operation, address)

        await self._change("delete", address, effect)

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        await self._change("put_marker", address, lambda _: at_once(self._inner.put_marker(address, headers)))

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        self._reference.store_called(CURRENT.get(), "presign_get", address)
        return at_once(
            self._inner.presign_get(address, filename=filename, content_type=content_type, expires_in=expires_in)
        )

    async def _look(self, name: str, address: Address | None, effect: Callable[[Operation], T]) -> T:
        operation, fault = await self._process.enter(name)
        self._reference.store_called(operation, name, address)
        if fault in {Fault.FAIL, Fault.LATE}:
            raise _store_unavailable(name)
        if fault is Fault.LATE_CRASH:
            self._process.die()
        return await self._answered(operation, fault, name, lambda: effect(operation))

    async def _change(self, name: str, address: Address, effect: Callable[[Operation | None], T]) -> T:
        operation, fault = await self._process.enter(name)
        self._reference.store_called(operation, name, address)
        if fault is Fault.FAIL:
            raise _store_unavailable(name)
        if fault in {Fault.LATE, Fault.LATE_CRASH}:
            self._parked.append(Parked(name, lambda: effect(None)))
            if fault is Fault.LATE_CRASH:
                self._process.die()
                raise ProcessDiedError(self._process.name)
            raise _store_unavailable(name)
        return await self._answered(operation, fault, name, lambda: effect(operation))

    async def _answered(self, operation: Operation, fault: Fault | None, name: str, effect: Callable[[], T]) -> T:
        try:
            answer = effect()
        finally:
            await self._process.leave(operation, fault, _store_unavailable(name))
        return answer


def _store_unavailable(name: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the store did not answer {name}")


class FaultyDatabase:
    """The database as one process reaches it. A transaction is one call: it happens whole or not at all."""

    def __init__(self, inner: MemoryDatabase, process: Process, reference: Reference) -> None:
        self._inner = inner
        self._process = process
        self._reference = reference

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        operation, fault = await self._process.enter("transaction")
        async with _AtOnce(self._inner.transaction()) as tx:
            seen = self.transaction_of(tx)
            yield seen
            if fault in {Fault.FAIL, Fault.LATE}:
                raise DatabaseUnavailableError("the database did not answer the commit, and rolled back")
            if fault is Fault.LATE_CRASH:
                self._process.die()
                raise ProcessDiedError(self._process.name)
        self._reference.committed(operation, self._inner)
        await self._process.leave(operation, fault, DatabaseUnavailableError("the database did not answer the commit"))
        await self.after_commit(seen)

    @asynccontextmanager
    async def reader(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        operation, fault = await self._process.enter("reader")
        if fault in {Fault.FAIL, Fault.LATE}:
            raise DatabaseUnavailableError("the database did not answer")
        if fault is Fault.LATE_CRASH:
            self._process.die()
        async with _AtOnce(self._inner.reader()) as tx:
            yield tx
        await self._process.leave(operation, fault, DatabaseUnavailableError("the database did not answer"))

    async def installation_id(self) -> str:
        operation, fault = await self._process.enter("installation_id")
        if fault in {Fault.FAIL, Fault.LATE}:
            raise DatabaseUnavailableError("the database did not answer")
        await self._process.leave(operation, fault, DatabaseUnavailableError("the database did not answer"))
        return at_once(self._inner.installation_id())

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        raise AssertionError("nothing runs in the background here")

    # --- for planted bugs -----------------------------------------------------------------------------------------

    def transaction_of(self, tx: Transaction) -> Transaction:
        """What the core writes through."""
        return tx

    async def after_commit(self, tx: Transaction) -> None:
        """Called when a transaction was committed and its answer has arrived."""


class _AtOnce:
    """A memory database's context manager, entered and left in one go each."""

    def __init__(self, inner: AbstractAsyncContextManager[Transaction]) -> None:
        self._inner = inner

    async def __aenter__(self) -> Transaction:
        return at_once(self._inner.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return at_once(self._inner.__aexit__(kind, error, traceback))


class FaultyPublisher:
    """The event publisher as one process reaches it."""

    def __init__(self, inner: MemoryEventPublisher, process: Process, parked: list[Parked]) -> None:
        self._inner = inner
        self._process = process
        self._parked = parked

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def publish(self, event: Event) -> None:
        operation, fault = await self._process.enter("publish")
        unavailable = ConnectionError("the receiver did not answer")
        if fault is Fault.FAIL:
            raise unavailable
        if fault in {Fault.LATE, Fault.LATE_CRASH}:
            self._parked.append(Parked("publish", lambda: at_once(self._inner.publish(event))))
            if fault is Fault.LATE_CRASH:
                self._process.die()
                raise ProcessDiedError(self._process.name)
            raise unavailable
        at_once(self._inner.publish(event))
        await self._process.leave(operation, fault, unavailable)


class WatchedCache(MemoryCache):
    """A cache in which the reference looks for secrets; a deaf one keeps nothing and tells nobody."""

    def __init__(self, clock: ManualClock, reference: Reference, *, deaf: bool) -> None:
        super().__init__(clock=clock)
        self._reference = reference
        self._deaf = deaf

    async def close(self) -> None:
        """Keep everything: a process that goes does not empty a shared cache."""

    async def get(self, key: str) -> bytes | None:
        return None if self._deaf else await super().get(key)

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        self._reference.kept(value.decode())
        return None if self._deaf else await super().set_if_newer(key, value, version, ttl=ttl)

    async def delete(self, key: str, version: int) -> bool | None:
        return None if self._deaf else await super().delete(key, version)
