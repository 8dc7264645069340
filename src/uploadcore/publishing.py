"""Event publishers that need nothing but the host's own code."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from uploadcore.errors import DeliveryError
from uploadcore.events import Event

__all__ = ["CallbackPublisher"]

THREADS = 32
"""At most, and no more than are at work: as many as a relay makes deliveries to one destination at a time."""


class CallbackPublisher:
    """Calls a function of the host's with each event: how an embedding application hears of its uploads.

    Of all processes that relay, one calls it for each event. It may be called again with the same event (by its `id`), after a failure or a crash.

    Args:
        function: Called with the event, in the event loop if it is `async`, else in a thread of the publisher's own. If it raises, the event comes
            again later; if it raises `UndeliverableError`, it does not, and is kept as a dead letter.

    Example:
        >>> import asyncio
        >>> from uploadcore import UploadCore
        >>> from uploadcore.publishing import CallbackPublisher
        >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
        >>> async def main():
        ...     heard = []
        ...     publishers = {"app": CallbackPublisher(lambda event: heard.append(str(event.type)))}
        ...     async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase(), publishers=publishers) as core:
        ...         upload = await core.uploads.initiate(owner="u_1", filename="a.txt", size=3)
        ...         await core.uploads.abort(upload.id, owner="u_1")
        ...         await core.relay()  # run_background() does it by itself
        ...     return heard
        >>> asyncio.run(main())
        ['upload.aborted']
    """

    def __init__(self, function: Callable[[Event], Awaitable[object] | object]) -> None:
        self._function = function
        call = getattr(function, "__call__", None)  # noqa: B004 - what is called, should it be an object with an async __call__
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[str] = set()
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

    async def open(self) -> None:
        """Nothing to get ready."""

    async def publish(self, event: Event) -> None:
        """Call the function; whatever it raises means: not delivered.

        Raises:
            DeliveryError: Its last call with this event, which was given up, still runs: a thread can't be stopped.
        """
        result = self._function(event) if self._is_async else await self._called(event)
        if inspect.isawaitable(result):
            await result

    async def close(self) -> None:
        """Call nothing more. A call that still runs ends by itself. Idempotent."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _called(self, event: Event) -> Awaitable[object] | object:
        if event.id in self._running:
            raise DeliveryError("the last call with this event still runs")
        if self._threads is None:
            # Not asyncio's pool: what hangs here would keep name look-ups, and whatever else the host runs there, from their threads.
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="uploadcore-callback")
        call = self._threads.submit(copy_context().run, self._function, event)
        self._running.add(event.id)
        call.add_done_callback(lambda _: self._running.discard(event.id))  # also if it was taken back before it began
        return await asyncio.wrap_future(call)
