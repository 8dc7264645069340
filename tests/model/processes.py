"""Processes that can be paused, frozen and killed between any two port calls.

Every port call passes through `Process.enter` and `Process.leave`; what happens there is decided by the fault of the operation that
makes the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any, TypeVar

from uploadcore.errors import UploadCoreError
from uploadcore_memory import ManualClock

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

    @property
    def has_frozen(self) -> bool:
        """Whether it ever stood still."""
        return self._thawed is not None

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
