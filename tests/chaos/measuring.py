"""What experiments measure: percentiles, and whether instances say they are ready all the while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from tests.chaos.fleet import Fleet, Instance

__all__ = ["Readiness", "beside", "checks", "percentile"]

INTERVAL = 0.1
TIMEOUT = 5.0


def percentile(values: Sequence[float], share: int) -> float:
    """So many per cent of them are not greater."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


async def checks(instance: Instance) -> dict[str, Any]:
    """What the body of `/health/ready` says is wrong."""
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
        body: dict[str, Any] = (await http.get(f"{instance.url}/health/ready")).json()
    found: dict[str, Any] = body["checks"]
    return found


@asynccontextmanager
async def beside(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do it over and over beside what is in the block, each time to its end; what goes wrong there goes wrong here."""
    is_over = False

    async def again_and_again() -> None:
        while not is_over:
            await work()

    task = asyncio.ensure_future(again_and_again())
    try:
        yield
    except BaseException:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    is_over = True
    await task


class Readiness:
    """Asks every instance, ten times a second, whether it is ready.

    Attributes:
        asked: How often.
        failed: How often the answer was another, or none.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.asked = 0
        self.failed = 0
        self._fleet = fleet
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._asking = asyncio.ensure_future(self._ask())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._asking is not None
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
            while True:
                for instance in self._fleet.instances:
                    self.asked += 1
                    try:
                        answer = await http.get(f"{instance.url}/health/ready")
                        self.failed += answer.status_code != 200
                    except httpx.HTTPError:
                        self.failed += 1
                await asyncio.sleep(INTERVAL)
