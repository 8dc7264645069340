"""The store's own threads: a slow store may use them up, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from uploadcore_s3.errors import NoRoomError, TransportError
from uploadcore_s3.transport import call_within

__all__ = ["BoundedThreads"]

T = TypeVar("T")


class BoundedThreads:
    """Runs blocking calls for coroutines: so many at a time, so many waiting, and no more.

    Args:
        name: Of the threads.
        threads: Calls at a time. Threads are made as they are needed.
        waiting: Calls that may wait for a thread; who comes then is told so at once.
    """

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = threads + waiting
        self._is_closed = False
        self._lock = threading.Lock()

    async def run(self, call: Callable[..., T], *args: Any, within: float, **options: Any) -> T:
        """What `call` returns, given up after `within` seconds, those of waiting included. A call that was begun ends by itself.

        Raises:
            NoRoomError: As many calls wait as may.
            TransportError: There is no answer in time.
        """
        deadline = time.monotonic() + within

        def work() -> T:
            # Not `shutdown(cancel_futures=True)`: callers could not tell it from being cancelled.
            if self._is_closed:
                raise TransportError("the store was closed", is_retryable=False)
            with call_within(deadline):
                return call(*args, **options)

        with self._lock:
            if self._room <= 0:
                raise NoRoomError
            self._room -= 1
        try:
            future = self._pool.submit(work)
        except RuntimeError as exc:
            self._leave()
            raise TransportError("the store was closed", is_retryable=False) from exc
        future.add_done_callback(self._leave)
        try:
            # Not `wait_for`: until Python 3.12 it loses a cancellation that comes with the result, and who calls in a loop is not stopped.
            async with asyncio.timeout(within):
                return await asyncio.wrap_future(future)
        except TimeoutError as exc:
            raise TransportError("the store did not answer in time", is_retryable=False) from exc

    def _leave(self, _: Future[Any] | None = None) -> None:
        with self._lock:
            self._room += 1

    async def close(self) -> None:
        """Begin nothing more, and wait for what was begun. Who waits for a thread is told that the store was closed."""
        self._is_closed = True
        await asyncio.to_thread(self._pool.shutdown)
