"""The store's own threads: a slow disk uses them up, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from uploadcore.errors import StoreOverloadedError, StoreUnavailableError

__all__ = ["DiskThreads"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DiskThreads:
    """Runs disk work for coroutines: so many calls at a time, so many waiting, and no more.

    A call that was begun ends by itself, whatever becomes of its caller: there is no taking back what is half on disk.

    Args:
        threads: Calls at a time. Threads are made as they are needed.
        waiting: Calls that may wait for a thread, or for their turn; who comes then is told so at once.
    """

    def __init__(self, *, threads: int, waiting: int) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="uploadcore-filesystem")
        """For those who bound by themselves what they give it."""
        self._room = threads + waiting
        self._is_closed = False
        self._turns: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `work` returns.

        Raises:
            StoreOverloadedError: As many calls wait as may.
            StoreUnavailableError: The store was closed.
            Exception: Whatever `work` raises.
        """
        self._enter()
        return await asyncio.wrap_future(self._submit(self._leave, work, *args, **kwargs))

    async def in_turn(self, name: str, work: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Do it while nobody else does anything of that name. Who waits for that holds no thread.

        Raises:
            StoreOverloadedError: As many calls wait as may.
            StoreUnavailableError: The store was closed.
            Exception: Whatever `work` raises.
        """
        self._enter()
        turn: Future[None] = Future()
        try:
            while (before := self._turn_of(name, turn)) is not turn:
                await asyncio.shield(asyncio.wrap_future(before))
        except BaseException:
            self._leave()
            raise

        def pass_on() -> None:
            self._leave()
            with self._lock:
                del self._turns[name]
            turn.set_result(None)

        # Not in a `finally` here: a caller that goes away does not stop the thread.
        await asyncio.wrap_future(self._submit(pass_on, work, *args, **kwargs))

    def close(self) -> None:
        """Begin nothing more, and wait for what was begun; blocks. Who waits for a thread or for a turn is told that the store was closed."""
        self._is_closed = True
        self.pool.shutdown()

    def _turn_of(self, name: str, turn: Future[None]) -> Future[None]:
        """Whose turn it is: ours, if it was nobody's."""
        with self._lock:
            return self._turns.setdefault(name, turn)

    def _submit(
        self, then: Callable[[], None], work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        def begin() -> _T:
            # Not `shutdown(cancel_futures=True)`: callers could not tell it from being cancelled, and bodies would not be discarded.
            if self._is_closed:
                raise StoreUnavailableError("the store was closed")
            return work(*args, **kwargs)

        try:
            running = self.pool.submit(begin)
        except RuntimeError as exc:
            then()
            raise StoreUnavailableError("the store was closed") from exc
        running.add_done_callback(lambda _: then())
        return running

    def _enter(self) -> None:
        with self._lock:
            if self._room <= 0:
                raise StoreOverloadedError("too many calls wait for the disk already: try again in a moment")
            self._room -= 1

    def _leave(self) -> None:
        with self._lock:
            self._room += 1
