"""The breaker: open after so many failures in a row, closed by a probe, and never by a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploadcore_memory import ManualClock
from uploadcore_redis.breaker import Breaker

FAILURES = 3


class Probes:
    """Answers to probes that a test decides."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = 0
        self.answers: asyncio.Queue[bool] = asyncio.Queue()

    async def probe(self) -> bool:
        self.asked += 1
        self.running += 1
        assert self.running == 1, "one probe at a time"
        try:
            return await self.answers.get()
        finally:
            self.running -= 1


async def turn() -> None:
    """Let whoever can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def broken(probe: Callable[[], Awaitable[bool]], clock: ManualClock) -> Breaker:
    breaker = Breaker(probe, clock, failures=FAILURES, probe_every=0.5)
    for _ in range(FAILURES):
        breaker.failed()
    return breaker


async def test_it_opens_with_the_last_of_so_many_failures_in_a_row() -> None:
    breaker = Breaker(Probes().probe, ManualClock(), failures=FAILURES)
    for call in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        call()
    opened = [breaker.is_open]
    breaker.failed()
    opened.append(breaker.is_open)
    assert opened == [False, True]
    await breaker.close()


async def test_the_first_probe_is_made_at_once_and_the_next_after_a_pause() -> None:
    probes, clock = Probes(), ManualClock()
    breaker = broken(probes.probe, clock)
    await turn()
    assert probes.asked == 1
    probes.answers.put_nowait(False)
    await clock.until_asleep()
    clock.advance(0.49)
    await turn()
    assert probes.asked == 1
    clock.advance(0.01)
    await turn()
    assert probes.asked == 2
    probes.answers.put_nowait(True)
    await turn()
    assert not breaker.is_open
    assert clock.sleepers == 0


async def test_a_success_from_before_it_opened_does_not_close_it() -> None:
    breaker = broken(Probes().probe, ManualClock())
    breaker.succeeded()
    assert breaker.is_open
    await breaker.close()


async def test_tripping_twice_probes_once() -> None:
    probes = Probes()
    breaker = Breaker(probes.probe, ManualClock())
    breaker.trip()
    breaker.trip()
    await turn()
    assert probes.asked == 1
    await breaker.close()


async def test_failures_that_arrive_while_it_is_open_do_not_open_it_again() -> None:
    probes = Probes()
    breaker = broken(probes.probe, ManualClock())
    for _ in range(FAILURES):
        breaker.failed()
    await turn()
    probes.answers.put_nowait(True)
    await turn()
    breaker.failed()
    assert not breaker.is_open


async def test_closing_ends_a_probe_that_hangs() -> None:
    probes = Probes()
    breaker = broken(probes.probe, ManualClock())
    await turn()
    await breaker.close()
    await breaker.close()
    assert (probes.running, breaker.is_open) == (0, False)


async def test_closing_ends_probes_that_lose_the_cancellation() -> None:
    async def probe() -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return False

    breaker = broken(probe, ManualClock())
    await turn()
    async with asyncio.timeout(10):
        await breaker.close()
    assert not breaker.is_open


@given(st.lists(st.sampled_from(["failed", "succeeded", "probe fails", "probe succeeds", "time passes"]), max_size=60))
def test_it_is_open_exactly_from_so_many_failures_to_the_next_good_probe(happenings: list[str]) -> None:
    async def run() -> None:
        probes, clock = Probes(), ManualClock()
        breaker = Breaker(probes.probe, clock, failures=FAILURES, probe_every=0.5)
        in_a_row, is_open = 0, False
        for happening in happenings:
            match happening:
                case "failed":
                    breaker.failed()
                    in_a_row += 1
                    is_open = is_open or in_a_row >= FAILURES
                case "succeeded":
                    breaker.succeeded()
                    in_a_row = 0
                case "time passes":
                    clock.advance(0.5)
                case _ if probes.running:
                    probes.answers.put_nowait(happening == "probe succeeds")
                    if happening == "probe succeeds":
                        in_a_row, is_open = 0, False
            await turn()
            assert breaker.is_open == is_open
            assert (probes.running + clock.sleepers == 1) == is_open, (
                "it is being probed as long as it is open, and then only"
            )
        await breaker.close()

    asyncio.run(run())


async def test_who_is_cancelled_while_closing_is_cancelled() -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def stubborn() -> bool:
        begun.set()
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()
        return True

    breaker = Breaker(stubborn, ManualClock())
    breaker.trip()
    await begun.wait()
    closing = asyncio.create_task(breaker.close())
    await turn()

    closing.cancel()
    await turn()
    let_go.set()

    with pytest.raises(asyncio.CancelledError):
        await closing
