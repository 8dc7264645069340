"""Closing while Redis hangs: nothing goes on afterwards, whatever was under way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.integration.redis.conftest import SHORT
from tests.servers.redis import RedisServer
from uploadcore_redis import RedisCache

MANY = 5
"""More than fail in a row until no more calls are made."""


def others() -> set[str]:
    """What else goes on in this process."""
    return {repr(task.get_coro()) for task in asyncio.all_tasks() - {asyncio.current_task()}}


@pytest.mark.parametrize("near_entries", [0, 1_000])
async def test_calls_that_fail_after_it_was_closed_leave_nothing_going_on(
    own_redis: RedisServer, near_entries: int
) -> None:
    before = others()
    cache = RedisCache(own_redis.url, timeout=SHORT, near_entries=near_entries)
    await cache.open()
    own_redis.pause()
    reads = [asyncio.create_task(cache.get(str(number))) for number in range(MANY)]
    deletions = [asyncio.create_task(cache.delete(str(number), 1)) for number in range(MANY)]
    await asyncio.sleep(0.01)

    await cache.close()
    answers = [*await asyncio.gather(*reads), *await asyncio.gather(*deletions)]
    own_redis.resume()

    assert answers == [None] * (2 * MANY)
    assert others() <= before


async def test_closing_while_it_opens_leaves_nothing_going_on(own_redis: RedisServer) -> None:
    before = others()
    cache = RedisCache(own_redis.url, timeout=SHORT)
    own_redis.pause()
    opening = asyncio.create_task(cache.open())
    await asyncio.sleep(0.01)

    await cache.close()
    await opening
    own_redis.resume()

    assert others() <= before


def test_opened_again_in_another_event_loop_it_serves_as_many_at_once(own_redis: RedisServer) -> None:
    cache = RedisCache(own_redis.url, max_connections=1, near_entries=0)

    async def used() -> list[bytes | None]:
        await cache.open()
        try:
            await cache.set_if_newer("a", b"value", 1, ttl=timedelta(seconds=60))
            return list(await asyncio.gather(*(cache.get("a") for _ in range(MANY))))
        finally:
            await cache.close()

    assert [asyncio.run(used()) for _ in range(2)] == [[b"value"] * MANY] * 2
