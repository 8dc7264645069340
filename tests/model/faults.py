"""Processes that can be paused, frozen and killed between any two port calls, and ports that lose answers or take effect late.

Every port call passes through `Process.enter` and `Process.leave`; what happens there is decided by the fault of the operation that
makes the call. Between the two the effect takes place at once and whole, so a test knows exactly what has happened, in which order.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from types import TracebackType
from typing import Any, TypeVar

from tests.model.reference import Reference
from uploadcore.errors import DatabaseUnavailableError, StoreUnavailableError, UploadCoreError
from uploadcore.events import Event
from uploadcore.file import Checksum
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.ports import (
    ObjectHeaders,
    OpenMultipart,
    SignedRequest,
    StoreCapabilities,
    StoredObject,
    Transaction,
)
from uploadcore.upload import Address
from uploadcore_memory import ManualClock, MemoryCache, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore

T = TypeVar("T")

STATISTICS: Counter[str] = Counter()
"""Runs, steps, crashes, late effects and faults since the interpreter began."""


class ProcessDiedError(BaseException):
    """The process is gone. No `except Exception` may go on after it, as none would after `kill -9`."""


class Fault(Enum):
    """What happens at one port call of an operation."""

    CRASH_BEFORE = auto()
    CRASH_AFTER = auto()
    FAIL = auto()
    """The port is unavailable, and nothing has happened (a transaction was rolled back)."""
    ANSWER_LOST = auto()
    """The effect happened; the caller is told that the port is unavailable."""
    LATE = auto()
    """The caller is told that the port is unavailable; the effect happens later."""
    LATE_CRASH = auto()
    """The caller dies; the effect happens later."""
    PAUSE_BEFORE = auto()
    """This call takes long to arrive. The rest of the process goes on, and renews its leases."""
    PAUSE_AFTER = auto()
    """This call's answer takes long."""
    FREEZE_BEFORE = auto()
    """The whole process stands still, as a suspended machine does."""
    FREEZE_AFTER = auto()


_COUNTED = {
    Fault.FAIL: "failures",
    Fault.ANSWER_LOST: "answers lost",
    **dict.fromkeys((Fault.PAUSE_BEFORE, Fault.PAUSE_AFTER, Fault.FREEZE_BEFORE, Fault.FREEZE_AFTER), "held back"),
}


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is the model's clock, and that runs until nobody can go on without it.

    Attributes:
        errors: What failed where nobody was told.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.errors: list[BaseException] = []
        super().__init__(_IdleSelector(self.stop))
        self.set_exception_handler(self._failed)

    @staticmethod
    def _failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback has failed, or a task whose outcome nobody asked for; those of a dead process are nobody's concern."""
        error = context.get("exception")
        assert isinstance(loop, SteppedLoop), "it is this loop's handler"
        if error is not None and not isinstance(error, (ProcessDiedError, UploadCoreError)):
            loop.errors.append(error)

    def time(self) -> float:
        """The clock's."""
        return self._clock.monotonic()


class _IdleSelector(selectors.SelectSelector):
    """Asked to wait, it stops the loop instead: everything that could run has run."""

    def __init__(self, idle: Callable[[], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._idle()
        return []


@dataclass(eq=False)
class Operation:
    """One call of a use case, with every task that works for it.

    Attributes:
        calls: The names of its port calls so far.
        fault, fault_at: What happens at the how manieth call; 0: nothing.
        started, started_at: Position in the reference's history, and time.
    """

    process: Process
    kind: str
    started: int
    started_at: datetime
    fault: Fault | None = None
    fault_at: int = 0
    calls: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    main: asyncio.Task[Any] | None = None
    resumed: asyncio.Event | None = None

    @property
    def is_paused(self) -> bool:
        """Whether one of its calls is being held back."""
        return self.resumed is not None and not self.resumed.is_set()

    @property
    def ended(self) -> bool:
        """Whether the caller has its answer."""
        return self.main is not None and self.main.done()

    def arrive(self, name: str) -> Fault | None:
        """Count a port call; the fault that befalls it."""
        self.calls.append(name)
        return self.fault if len(self.calls) == self.fault_at else None

    async def pause(self) -> None:
        """Hold this call back."""
        self.resumed = asyncio.Event()
        await self.resumed.wait()

    def resume(self) -> None:
        """Let it go on."""
        if self.resumed is not None:
            self.resumed.set()


CURRENT: contextvars.ContextVar[Operation] = contextvars.ContextVar("CURRENT")


class Process:
    """One instance of the service: the tasks of its operations live and die with it."""

    def __init__(self, name: str, loop: SteppedLoop) -> None:
        self.name = name
        self.loop = loop
        self.is_alive = True
        self.operations: list[Operation] = []
        self.faults = 0
        self._thawed: asyncio.Event | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self._thawed is not None and not self._thawed.is_set()

    def start(self, operation: Operation, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work`, and every task it makes, as this operation."""
        context = contextvars.copy_context()
        context.run(CURRENT.set, operation)
        self.operations.append(operation)
        operation.main = self.loop.create_task(work, context=context)

    def die(self) -> None:
        """Lose everything: no task gets another port call through."""
        if not self.is_alive:
            return
        self.is_alive = False
        STATISTICS["crashes"] += 1
        current = asyncio.current_task(self.loop)
        for operation in self.operations:
            for task in operation.tasks:
                if task is not current:
                    task.cancel()

    def thaw(self) -> None:
        """Go on, as if no time had passed."""
        if self._thawed is not None:
            self._thawed.set()

    async def enter(self, name: str) -> tuple[Operation, Fault | None]:
        """Before a port call: who makes it, and what befalls it."""
        operation = CURRENT.get()
        await asyncio.sleep(0)
        await self._standing()
        fault = operation.arrive(name)
        if fault is not None:
            self.faults += 1
            STATISTICS[_COUNTED.get(fault, "other faults")] += 1
        if fault is Fault.PAUSE_BEFORE:
            await operation.pause()
        elif fault is Fault.FREEZE_BEFORE:
            self._thawed = asyncio.Event()
        elif fault is Fault.CRASH_BEFORE:
            self.die()
        await self._standing()
        return operation, fault

    async def leave(self, operation: Operation, fault: Fault | None, unavailable: Exception) -> None:
        """After a port call's effect: whether the caller hears of it."""
        if fault is Fault.ANSWER_LOST:
            raise unavailable
        if fault is Fault.PAUSE_AFTER:
            await operation.pause()
        elif fault is Fault.FREEZE_AFTER:
            self._thawed = asyncio.Event()
        elif fault is Fault.CRASH_AFTER:
            self.die()
        await self._standing()

    async def _standing(self) -> None:
        while self.is_alive and self._thawed is not None and not self._thawed.is_set():
            await self._thawed.wait()
        if not self.is_alive:
            raise ProcessDiedError(self.name)


def task_factory(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    """Make a task, and remember whose it is."""
    assert isinstance(work, Coroutine), "nothing else is run here"
    task = asyncio.Task(work, loop=loop, context=context)
    operation = (context or contextvars.copy_context()).get(CURRENT)
    if operation is not None:
        operation.tasks.append(task)
    return task


@dataclass(frozen=True)
class Parked:
    """An effect under way, which nobody waits for any more."""

    name: str
    land: Callable[[], object]


def at_once(work: Awaitable[T]) -> T:
    """Run a memory adapter's coroutine in one go: it only ever yields to let others run."""
    steps = work.__await__()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


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
    async def transaction(self) -> AsyncIterator[Transaction]:
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
    async def reader(self) -> AsyncIterator[Transaction]:
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

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool:
        self._reference.kept(value.decode())
        return False if self._deaf else await super().set_if_newer(key, value, version, ttl=ttl)
