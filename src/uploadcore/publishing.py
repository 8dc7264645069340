"""Event publishers that need nothing but the host's own code."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from uploadcore.events import Event

__all__ = ["CallbackPublisher"]


class CallbackPublisher:
    """Calls a function of the host's with each event: how an embedding application hears of its uploads.

    Of all processes that relay, one calls it for each event. It may be called again with the same event (by its `id`), after a failure or a crash.

    Args:
        function: Called with the event, in the event loop if it is `async`, else in a thread of asyncio's pool. If it raises, the event comes again
            later; if it raises `UndeliverableError`, it does not, and is kept as a dead letter.

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
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

    async def open(self) -> None:
        """Nothing to get ready."""

    async def publish(self, event: Event) -> None:
        """Call the function; whatever it raises means: not delivered."""
        result = self._function(event) if self._is_async else await asyncio.to_thread(self._function, event)
        if inspect.isawaitable(result):
            await result

    async def close(self) -> None:
        """Nothing to let go of."""
