"""What a call costs, counted at the server: a read is one GET, a fill one EVALSHA, a viral key one GET a second."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.redis.conftest import HOUR, CacheFactory, Server, until
from tests.servers.redis import RedisServer
from uploadcore_memory import ManualClock


async def test_a_read_is_one_get_and_a_fill_or_deletion_one_evalsha(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    await cache.delete("a", 1)
    look.calls()
    await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
    script = look.calls()
    assert script.pop("evalsha") == 1
    for _ in range(10):
        assert await cache.get("a") == b"2"
    assert await cache.get("unknown") is None
    assert look.calls() == {"get": 11}
    await cache.delete("a", 2)
    assert look.calls() == {"evalsha": 1, **script}


async def test_a_viral_key_is_asked_for_once_a_second(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    clock = ManualClock()
    await (await opened(own_redis.url)).set_if_newer("viral", b"1", 1, ttl=HOUR)
    cache = await opened(own_redis.url, clock=clock)
    look.calls()
    for _ in range(3):
        for _ in range(20):
            assert await asyncio.gather(*(cache.get("viral") for _ in range(50))) == [b"1"] * 50
            clock.advance(0.05)
        assert look.calls() == {"get": 1}


async def test_concurrent_reads_of_one_key_share_one_round_trip(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    cache = await opened(own_redis.url)
    look.calls()
    assert await asyncio.gather(*(cache.get("unknown") for _ in range(100))) == [None] * 100
    assert look.calls() == {"get": 1}


async def test_whoever_gives_up_does_not_take_the_others_along(own_redis: RedisServer, opened: CacheFactory) -> None:
    await (await opened(own_redis.url)).set_if_newer("a", b"1", 1, ttl=HOUR)
    cache = await opened(own_redis.url)
    first, second = asyncio.create_task(cache.get("a")), asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"1"


async def test_what_was_stored_or_deleted_here_is_read_here_at_once(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    cache = await opened(own_redis.url, clock=ManualClock())
    for version in range(1, 10):
        assert await cache.set_if_newer("a", str(version).encode(), version, ttl=HOUR) is True
        assert await cache.get("a") == str(version).encode()
    await cache.delete("a", 10)
    assert await cache.get("a") is None


async def test_what_another_process_changed_is_seen_within_the_second(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    clock = ManualClock()
    here, there = await opened(own_redis.url, clock=clock), await opened(own_redis.url)
    await here.set_if_newer("a", b"1", 1, ttl=HOUR)
    await there.set_if_newer("a", b"2", 2, ttl=HOUR)
    assert await here.get("a") == b"1"
    clock.advance(1)
    assert await here.get("a") == b"2"
    await there.delete("a", 3)
    clock.advance(1)
    assert await here.get("a") is None


async def test_a_refused_fill_tells_this_process_what_stands(own_redis: RedisServer, opened: CacheFactory) -> None:
    here, there = await opened(own_redis.url, clock=ManualClock()), await opened(own_redis.url)
    await here.set_if_newer("a", b"1", 1, ttl=HOUR)
    await there.set_if_newer("a", b"5", 5, ttl=HOUR)
    assert await here.set_if_newer("a", b"2", 2, ttl=HOUR) is False
    assert await here.get("a") == b"5", "the version it held is known to be old"
    await there.delete("a", 6)
    assert await here.set_if_newer("a", b"6", 6, ttl=HOUR) is False
    assert await here.get("a") is None
    own_redis.kill()
    assert await here.set_if_newer("a", b"6", 6, ttl=HOUR) is False, "it remembers"


async def test_a_read_under_way_does_not_bring_back_what_is_deleted_meanwhile(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    await (await opened(own_redis.url)).set_if_newer("a", b"1", 1, ttl=HOUR)
    cache = await opened(own_redis.url, clock=ManualClock())
    reading = asyncio.create_task(cache.get("a"))
    deleting = asyncio.create_task(cache.delete("a", 2))
    await asyncio.gather(reading, deleting)
    assert await cache.get("a") is None


@pytest.mark.parametrize("ttl", [timedelta(seconds=60), timedelta(seconds=1)])
async def test_no_value_is_older_anywhere_than_its_time_to_live(
    own_redis: RedisServer, opened: CacheFactory, look: Server, ttl: timedelta
) -> None:
    """What another process may read at the last moment, and keep for `near`, is dead when the time is over."""
    near = min(timedelta(seconds=1), ttl / 2)
    cache = await opened(own_redis.url)
    found: list[Any] = []

    async def is_seen() -> bool:
        """Before it is gone; all in one moment of the server's."""
        await cache.set_if_newer("a", b"1", 1, ttl=ttl)
        with look.client() as client:
            moment = client.pipeline()
            moment.get("uploadcore:{a}")
            moment.pttl("uploadcore:{a}")
            moment.pttl("uploadcore:{a}:version")
            found[:] = moment.execute()
        return found[0] is not None

    await until(is_seen)
    kept_for, life, marker_life = (timedelta(milliseconds=int(ms)) for ms in (found[0].split()[1], *found[1:]))
    assert timedelta(0) < life <= ttl - near
    assert kept_for == near
    assert marker_life == life + near + timedelta(seconds=10), "the version outlives the value by ten seconds"


async def test_an_eviction_that_leaves_the_value_leaves_its_version(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"5", 5, ttl=HOUR)
    with look.client() as client:
        client.delete("uploadcore:{a}:version")
    assert await cache.set_if_newer("a", b"4", 4, ttl=HOUR) is False
    assert await cache.get("a") == b"5"


async def test_a_late_deletion_of_an_older_version_leaves_the_value(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"5", 5, ttl=HOUR)
    assert await cache.delete("a", 3) is True
    assert await cache.get("a") == b"5"


async def test_every_key_has_the_prefix_and_an_end(own_redis: RedisServer, opened: CacheFactory, look: Server) -> None:
    cache = await opened(own_redis.url, key_prefix="tenant-7:")
    await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    await cache.delete("b", 1)
    with look.client() as client:
        keys = set(client.keys())
        assert keys == {b"tenant-7:{a}", b"tenant-7:{a}:version", b"tenant-7:{b}:version"}
        assert all(client.pttl(key) > 0 for key in keys)


async def test_what_somebody_else_stored_under_our_key_is_no_value(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    with look.client() as client:
        client.set("uploadcore:{a}", b"not ours")
        assert await cache.get("a") is None
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        assert await cache.get("a") == b"1"
        client.delete("uploadcore:{b}")
        client.lpush("uploadcore:{b}", b"a list")
        assert await cache.get("b") is None
        assert await cache.set_if_newer("b", b"1", 1, ttl=HOUR) is None
