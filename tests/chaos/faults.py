"""What a proxy can do to what passes it: hold it at an edge, cut it, refuse it, delay it, duplicate it. Set and ended from any thread.

Proxies run on an event loop in a thread of their own (`ProxyLoop`), so that an experiment may block without stopping the world.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

__all__ = ["Cut", "Delay", "Duplicate", "Edge", "Fault", "Faults", "Hold", "Lose", "Passing", "ProxyLoop", "Refuse"]

T = TypeVar("T")

Edge = Literal["request", "answer"]
"""Before the far end has seen the request; or after it has answered, before the caller has seen that."""
TIMEOUT = 30.0
"""Seconds for a call into the proxies' loop."""


class ProxyLoop:
    """The event loop that all proxies of a run share."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it here."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT)

    def close(self) -> None:
        """End it, and whatever still passes."""
        self.run(self._cancelled())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT)
        self.loop.close()

    async def _cancelled(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Passing:
    """One request on its way.

    Attributes:
        source: Who listens under this name: the instance it comes from.
        operation: What it is, in the far end's words; of a TCP stream, the bytes that were just sent.
    """

    source: str
    operation: str | bytes


class Cut(Exception):  # noqa: N818 - no error: what a fault asks for
    """Close both connections, at once and without a word."""


@dataclass(kw_only=True)
class Fault:
    """One thing that goes wrong, until `end` is called or the block left.

    Attributes:
        operations: What it befalls; of a TCP stream, markers in what is sent. `None`: everything.
        sources: Whom it befalls; `None`: everybody.
        edge: Where.
        times: How often at most; `None`: until it ends.
        met: How many it has befallen.
    """

    operations: Collection[str | bytes] | None = None
    sources: Collection[str] | None = None
    edge: Edge = "request"
    times: int | None = None
    met: int = 0
    has_ended: bool = False

    def catches(self, passing: Passing, edge: Edge) -> bool:
        """Whether this one is to meet it, here; then it counts."""
        if self.has_ended or edge != self.edge or (self.times is not None and self.met >= self.times):
            return False
        if self.sources is not None and passing.source not in self.sources:
            return False
        if not self._names(passing.operation) or not self.is_chosen():
            return False
        self.met += 1
        return True

    def _names(self, operation: str | bytes) -> bool:
        if self.operations is None:
            return True
        if isinstance(operation, str):
            return operation in self.operations
        return any(isinstance(marker, bytes) and marker in operation for marker in self.operations)

    def is_chosen(self) -> bool:
        """Whether this one of those that could be; by chance, where a fault has a share."""
        return True

    async def befall(self) -> None:
        """What happens there; raises `Cut` where it ends with that."""

    def end(self) -> None:
        """From now on all is well."""
        self.has_ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(kw_only=True)
class _Chance(Fault):
    share: float = 1.0
    chance: random.Random = field(default_factory=random.Random)

    def is_chosen(self) -> bool:
        return self.share >= 1 or self.chance.random() < self.share


@dataclass(kw_only=True)
class Refuse(_Chance):
    """A share of the calls is answered with a status by the proxy; the far end never sees them. HTTP only."""

    status: int = 503
    code: str = "SlowDown"


@dataclass(kw_only=True)
class Lose(_Chance):
    """A share is cut: at edge `request` before the far end sees it, at edge `answer` after it has done its work."""

    async def befall(self) -> None:
        raise Cut


@dataclass(kw_only=True)
class Duplicate(_Chance):
    """A share reaches the far end twice; the second answer is the one that counts. HTTP only."""


@dataclass(kw_only=True)
class Delay(_Chance):
    """A share takes so many seconds longer."""

    seconds: float = 0.1

    async def befall(self) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(kw_only=True)
class Hold(Fault):
    """Everybody waits there, until all are released, or dropped. Ending it releases them.

    Attributes:
        waiting: How many wait there now.
    """

    loop: asyncio.AbstractEventLoop
    waiting: int = 0
    is_dropped: bool = False
    _gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def befall(self) -> None:
        self.waiting += 1
        try:
            await self._gate.wait()
        finally:
            self.waiting -= 1
        if self.is_dropped:
            raise Cut

    def release(self) -> None:
        """Let all of them go on, and catch nobody any more."""
        self.has_ended = True
        self.loop.call_soon_threadsafe(self._gate.set)

    def drop(self) -> None:
        """Cut all of them, and catch nobody any more: what was held never arrives."""
        self.is_dropped = True
        self.release()

    def end(self) -> None:
        self.release()


class Faults:
    """Those of one proxy."""

    def __init__(self, proxies: ProxyLoop, chance: random.Random | None = None) -> None:
        self._proxies = proxies
        self._chance = chance or random.Random()
        self._all: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """From now on this goes wrong too."""
        self._all = [one for one in self._all if not one.has_ended] + [fault]

    def catching(self, passing: Passing, edge: Edge, kinds: Callable[[Fault], bool] = lambda _: True) -> list[Fault]:
        """Those that meet it there, in the order they were added; each counts it."""
        return [fault for fault in self._all if kinds(fault) and fault.catches(passing, edge)]

    def clear(self) -> None:
        """End all."""
        for fault in self._all:
            fault.end()
        self._all = []

    def hold(
        self,
        *operations: str | bytes,
        edge: Edge = "request",
        sources: Collection[str] | None = None,
        times: int | None = None,
    ) -> Hold:
        """Hold these; without a name, everything: a far end that hangs."""
        hold = Hold(operations=operations or None, edge=edge, sources=sources, times=times, loop=self._proxies.loop)
        self.add(hold)
        return hold

    def refuse(self, *operations: str | bytes, share: float = 1.0, status: int = 503, code: str = "SlowDown") -> Refuse:
        """Answer a share of these by ourselves, with a code of S3's."""
        fault = Refuse(operations=operations or None, share=share, status=status, code=code, chance=self._chance)
        self.add(fault)
        return fault

    def lose(
        self, *operations: str | bytes, share: float = 1.0, edge: Edge = "request", times: int | None = None
    ) -> Lose:
        """Cut a share of these."""
        fault = Lose(operations=operations or None, share=share, edge=edge, times=times, chance=self._chance)
        self.add(fault)
        return fault

    def duplicate(self, *operations: str | bytes, share: float = 1.0) -> Duplicate:
        """Send a share of these twice."""
        fault = Duplicate(operations=operations or None, share=share, chance=self._chance)
        self.add(fault)
        return fault

    def delay(self, *operations: str | bytes, seconds: float, share: float = 1.0, edge: Edge = "request") -> Delay:
        """Make a share of these take longer."""
        fault = Delay(operations=operations or None, seconds=seconds, share=share, edge=edge, chance=self._chance)
        self.add(fault)
        return fault
