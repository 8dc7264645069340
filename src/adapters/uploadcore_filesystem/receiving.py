"""Bodies from the event loop to the disk: received here, written by threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from uploadcore.errors import StoreUnavailableError
from uploadcore_filesystem.errors import SupersededError
from uploadcore_filesystem.writing import BodyWriter

__all__ = ["BLOCK_SIZE", "BodyReceiver", "ReadBody"]

BLOCK_SIZE = 1024 * 1024
"""Bytes handed to a thread at a time: a hop costs about 50 µs, as much as writing 100 KB. Two blocks per request are in memory at most."""
_BLOCK_CHUNKS = 256
"""Chunks to a block at most: pwritev(2) takes 1,024, and a client that sends byte by byte costs no more memory than another."""
_CLOSE_TIMEOUT = 10.0
"""Seconds that requests get to notice that they were cut."""

_T = TypeVar("_T")
_Record = TypeVar("_Record")

ReadBody = Callable[[], Awaitable[bytes]]
"""Gives the next bytes of a body, none at its end. What it raises ends the request, and leaves nothing of it."""


class BodyReceiver:
    """Takes bodies in, any number at a time, each by a writer of its own.

    Args:
        pool: Runs the writers.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._writers: set[BodyWriter[object]] = set()
        self._changed = threading.Condition()
        self._is_closed = False

    @property
    def writers(self) -> frozenset[BodyWriter[object]]:
        """Those at work."""
        with self._changed:
            return frozenset(self._writers)

    async def receive(self, writer: BodyWriter[_Record], read: ReadBody) -> _Record:
        """Give a body to a writer, from its beginning to its end; return what the writer made of it.

        Raises:
            SupersededError: The writer was cut.
            StoreUnavailableError: `close` was called before.
            Exception: Whatever the writer or `read` raises. Nothing is left of the body then.
        """
        with self._changed:
            if self._is_closed:
                raise StoreUnavailableError("the store is not open")
            # Before it begins: who closes must be able to cut it at any time after that.
            self._writers.add(writer)
        try:
            await self._begin(writer)
            try:
                return await self._pump(writer, read)
            except BaseException:
                # Also when the request was cancelled: then this await still runs, and the thread ends in any case. A pool that was
                # shut down meanwhile belongs to a store that is closed: what is left is removed when it is next opened.
                with suppress(RuntimeError):
                    await asyncio.shield(self._thread(writer.discard))
                raise
        finally:
            with self._changed:
                self._writers.discard(writer)
                self._changed.notify_all()

    def close(self) -> None:
        """Cut all writers, let none in, and wait until the requests have noticed. None writes after this returns."""
        with self._changed:
            self._is_closed = True
            for writer in self._writers:
                writer.cut()
            self._changed.wait_for(lambda: not self._writers, _CLOSE_TIMEOUT)

    async def _begin(self, writer: BodyWriter[_Record]) -> None:
        begun = self._thread(writer.begin)
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(lambda done: done.exception() or self._thread(writer.discard))
            raise

    async def _pump(self, writer: BodyWriter[_Record], read: ReadBody) -> _Record:
        """Body to disk: while one block is written by a thread, the next is received."""
        writing: asyncio.Future[None] | None = None
        block: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(None) as interrupt:
                with _interrupts(writer, interrupt):
                    while chunk := await read():
                        block.append(chunk)
                        size += len(chunk)
                        if size >= BLOCK_SIZE or len(block) >= _BLOCK_CHUNKS:
                            if writing is not None:
                                await writing
                            writing = self._thread(writer.write, block)
                            block, size = [], 0
                    if writing is not None:
                        await writing
            return await self._thread(_finish, writer, block)
        except TimeoutError:
            if writer.is_cut:
                raise SupersededError("a newer request took this part, or the upload ended") from None
            raise

    def _thread(self, work: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        # Not everybody stays to hear how it ended.
        running.add_done_callback(_heard)
        return running


def _finish(writer: BodyWriter[_Record], block: Sequence[bytes]) -> _Record:
    """The last block and what comes after it, in one hop: a small body costs no third."""
    if block:
        writer.write(block)
    return writer.commit()


def _heard(done: asyncio.Future[_T]) -> None:
    if not done.cancelled():
        done.exception()


@contextmanager
def _interrupts(writer: BodyWriter[_Record], interrupt: asyncio.Timeout) -> Iterator[None]:
    """While this is entered, cutting the writer ends `interrupt`, and so whatever the request waits for."""
    loop = asyncio.get_running_loop()
    is_armed = True

    def end() -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            interrupt.reschedule(loop.time())

    def on_cut() -> None:
        # A loop that is closed has no request left to end.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(end)

    writer.on_cut = on_cut
    if writer.is_cut:
        end()
    try:
        yield
    finally:
        is_armed = False
        writer.on_cut = None
