"""The S3 store's threads: who calls through them can be stopped at any moment."""

from __future__ import annotations

import asyncio
import threading

import pytest

from uploadcore_s3.errors import TransportError
from uploadcore_s3.threads import BoundedThreads

PATIENCE = 30.0


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_as_the_answer_arrives_is_cancelled(turns: int) -> None:
    threads = BoundedThreads("test", threads=1, waiting=1)
    answers, answered = threading.Event(), threading.Event()

    async def one_call_after_the_other() -> None:
        await threads.run(answers.wait, PATIENCE, within=PATIENCE)
        await asyncio.Event().wait()

    caller = asyncio.create_task(one_call_after_the_other())
    next_one = asyncio.create_task(threads.run(answered.set, within=PATIENCE))
    await asyncio.sleep(0)
    answers.set()
    assert answered.wait(PATIENCE)  # the loop stands still until the only thread has passed the answer on
    for _ in range(turns):
        await asyncio.sleep(0)

    caller.cancel()

    await asyncio.wait([caller], timeout=10)  # as long only if it was lost
    was_cancelled = caller.cancelled()
    caller.cancel()
    await asyncio.gather(next_one, caller, return_exceptions=True)
    await threads.close()
    assert was_cancelled


async def test_who_waits_for_a_thread_of_what_is_closed_is_told_and_not_cancelled() -> None:
    threads = BoundedThreads("test", threads=1, waiting=1)
    begun, ends = threading.Event(), threading.Event()

    def hang() -> str:
        begun.set()
        ends.wait(PATIENCE)
        return "done"

    running = asyncio.create_task(threads.run(hang, within=PATIENCE))
    waiting = asyncio.create_task(threads.run(hang, within=PATIENCE))
    await asyncio.to_thread(begun.wait, PATIENCE)
    closing = asyncio.create_task(threads.close())
    await asyncio.sleep(0)
    ends.set()

    assert await running == "done"
    with pytest.raises(TransportError, match="closed"):
        await waiting
    await closing


async def test_a_call_that_takes_too_long_is_given_up_and_keeps_its_place_until_it_ends() -> None:
    threads = BoundedThreads("test", threads=1, waiting=0)
    begun, ends = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        ends.wait(PATIENCE)

    given_up = asyncio.create_task(threads.run(hang, within=0.01))
    await asyncio.sleep(0)
    assert begun.wait(PATIENCE)  # the loop stands still: nothing is given up before it has begun
    with pytest.raises(TransportError, match="did not answer in time"):
        await given_up
    with pytest.raises(TransportError, match="too many"):
        await threads.run(ends.wait, PATIENCE, within=0.01)

    ends.set()
    await threads.close()
