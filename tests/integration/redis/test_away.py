"""Redis killed, hung, flushed, restarted: it costs latency and nothing else, and ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.http.service import BASE, PEER
from tests.integration.redis.conftest import HOUR, LONG, SHORT, CacheFactory, Server, until_answered
from tests.servers.redis import RedisServer
from uploadcore import UploadCore
from uploadcore.errors import UploadNotFoundError
from uploadcore_http import LoopbackDeveloper, create_asgi
from uploadcore_memory import ManualClock, MemoryDatabase, MemoryObjectStore
from uploadcore_redis import RedisCache

GENEROUS = 5.0
"""Seconds in which many calls of 0.1 s each at most have ended: far more than they need, far less than one of redis-py's own."""


async def nothing_answers(cache: RedisCache) -> None:
    """Every call ends, raises nothing, and says that nothing is known."""
    async with asyncio.timeout(GENEROUS):
        for number in range(5):
            assert await cache.get(f"unknown {number}") is None
            assert await cache.set_if_newer(f"key {number}", b"1", 1, ttl=HOUR) is None
            assert await cache.delete(f"key {number}", 1) is None


@pytest.mark.parametrize("near_entries", [0, 1_000])
async def test_a_killed_server_is_as_good_as_no_cache_until_it_is_back(
    own_redis: RedisServer, opened: CacheFactory, near_entries: int
) -> None:
    cache = await opened(own_redis.url, near_entries=near_entries)
    await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    own_redis.kill()
    await nothing_answers(cache)
    own_redis.restart()
    await until_answered(cache)


@pytest.mark.parametrize("near_entries", [0, 1_000])
async def test_a_server_that_hangs_is_asked_no_longer_until_it_goes_on(
    own_redis: RedisServer, opened: CacheFactory, near_entries: int
) -> None:
    cache = await opened(own_redis.url, near_entries=near_entries, timeout=SHORT)
    own_redis.pause()
    try:
        await nothing_answers(cache)
    finally:
        own_redis.resume()
    await until_answered(cache)


async def test_many_at_once_wait_no_longer_for_a_server_that_hangs_than_one(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    cache = await opened(own_redis.url, near_entries=0, max_connections=2, timeout=SHORT)
    own_redis.pause()
    try:
        async with asyncio.timeout(GENEROUS):
            answers = await asyncio.gather(*(cache.get(str(number)) for number in range(500)))
    finally:
        own_redis.resume()
    assert answers == [None] * 500
    await until_answered(cache)


async def test_a_flushed_server_has_lost_its_values_and_nothing_else(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
    own_redis.flush()
    assert await cache.get("a") is None
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
    assert await cache.get("a") == b"1"


async def test_a_server_that_was_told_to_forget_its_scripts_gets_them_again(
    own_redis: RedisServer, opened: CacheFactory, look: Server
) -> None:
    cache = await opened(own_redis.url)
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
    with look.client() as client:
        client.script_flush()
    assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR) is True
    assert await cache.delete("a", 3) is True


async def test_a_server_that_restarted_between_two_calls_is_not_even_missed(
    own_redis: RedisServer, opened: CacheFactory, warnings_logged: Callable[[], list[str]]
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    await asyncio.to_thread(own_redis.restart)
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
    assert await cache.get("a") == b"1"
    assert warnings_logged() == []


async def test_a_service_starts_without_its_cache_and_uses_it_once_it_is_there(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    own_redis.kill()
    async with asyncio.timeout(GENEROUS):
        cache = await opened(own_redis.url)
        await nothing_answers(cache)
    own_redis.restart()
    await until_answered(cache)


async def test_a_host_that_is_none_does_not_keep_a_service_from_starting(opened: CacheFactory) -> None:
    async with asyncio.timeout(GENEROUS):
        await nothing_answers(await opened("redis://no-such-host.invalid", timeout=SHORT))


async def test_closing_while_the_server_hangs_ends_soon_and_whoever_waits_is_answered(
    own_redis: RedisServer, opened: CacheFactory
) -> None:
    cache = await opened(own_redis.url, timeout=SHORT)
    own_redis.pause()
    try:
        waiting = asyncio.create_task(cache.get("a"))
        await asyncio.sleep(0)
        async with asyncio.timeout(GENEROUS):
            await cache.close()
            assert await waiting is None
            await nothing_answers(cache)
    finally:
        own_redis.resume()


async def test_it_can_be_opened_again(own_redis: RedisServer, opened: CacheFactory) -> None:
    cache = await opened(own_redis.url)
    own_redis.kill()
    await nothing_answers(cache)
    await cache.close()
    own_redis.restart()
    await cache.open()
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True


async def test_what_is_known_here_counts_while_the_server_is_away(own_redis: RedisServer, opened: CacheFactory) -> None:
    cache = await opened(own_redis.url, clock=ManualClock())
    await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
    own_redis.kill()
    assert await cache.get("a") == b"2", "for a moment it serves by itself"
    assert await cache.set_if_newer("a", b"3", 3, ttl=HOUR) is None
    assert await cache.get("a") == b"3"
    assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR) is False, "a late fill"
    assert await cache.delete("a", 4) is None
    assert await cache.get("a") is None
    assert await cache.set_if_newer("a", b"4", 4, ttl=HOUR) is False, "a fill later than the tombstone"
    assert await cache.get("a") is None


async def test_many_failures_are_one_warning_a_minute(
    own_redis: RedisServer, opened: CacheFactory, warnings_logged: Callable[[], list[str]]
) -> None:
    clock = ManualClock()
    cache = await opened(own_redis.url, near_entries=0, clock=clock)
    own_redis.kill()
    await nothing_answers(cache)
    [warning] = warnings_logged()
    assert warning.startswith(f"the cache redis://127.0.0.1:{own_redis.port} does not answer: ConnectionError")
    for _ in range(3):
        await clock.until_asleep()
        clock.advance(0.5)
    assert len(warnings_logged()) == 1
    await clock.until_asleep()
    clock.advance(60)
    await clock.until_asleep()
    assert len(warnings_logged()) == 2


async def test_a_wrong_password_is_as_good_as_no_cache_and_is_not_shown(
    opened: CacheFactory, warnings_logged: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer()
    server.start()
    try:
        with Server(server).client() as client:
            client.config_set("requirepass", "the-right-one")
            client.config_set("maxmemory", 0)
        url = server.url.replace("redis://", "redis://:{}@")
        cache = await opened(url.format("the-wrong-one"))
        await nothing_answers(cache)
        assert len(warnings_logged()) == 1
        assert "AuthenticationError" in warnings_logged()[0]
        assert "the-wrong-one" not in caplog.text + repr(cache)
        right = await opened(url.format("the-right-one"))
        assert await right.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        assert "the-right-one" not in caplog.text + repr(right)
    finally:
        server.stop()


async def test_a_full_server_that_refuses_writes_says_so_and_stores_nothing(
    own_redis: RedisServer, opened: CacheFactory, look: Server, warnings_logged: Callable[[], list[str]]
) -> None:
    cache = await opened(own_redis.url, near_entries=0)
    await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    with look.client() as client:
        client.config_set("maxmemory", "1")  # an empty server may have less than a megabyte
        client.config_set("maxmemory-policy", "noeviction")
    assert await cache.set_if_newer("b", b"secret content", 1, ttl=HOUR) is None
    assert await cache.get("a") == b"1"
    [warning] = warnings_logged()
    assert "OutOfMemoryError" in warning
    assert "secret content" not in warning


async def test_whoever_asks_after_the_service_hears_that_its_cache_is_away(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_http.operations.PROBE_INTERVAL", 0.0)
    cache = RedisCache(own_redis.url, timeout=LONG)
    async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase(), cache=cache) as core:
        app: Any = create_asgi(core, authenticate=LoopbackDeveloper())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=PEER), base_url=BASE) as api:

            async def said() -> tuple[int, str]:
                answer = await api.get("/health/ready")
                return answer.status_code, answer.json()["checks"]["cache"]

            assert await said() == (200, "ok")
            own_redis.kill()
            assert await said() == (200, "unavailable")
            own_redis.restart()
            await until_answered(cache)
            assert await said() == (200, "ok")


async def test_signing_goes_on_from_the_database(own_redis: RedisServer) -> None:
    core = UploadCore(store=MemoryObjectStore(), database=MemoryDatabase(), cache=RedisCache(own_redis.url))
    async with core:
        upload = await core.uploads.initiate(owner="u", filename="a", size=50_000_000)

        async def sign() -> list[int]:
            return [
                part.part_number for part in await core.uploads.sign_parts(upload.id, owner="u", part_numbers=[1, 2])
            ]

        for happens in (own_redis.flush, own_redis.kill, own_redis.restart, own_redis.pause, own_redis.resume):
            assert await sign() == [1, 2]
            happens()
            async with asyncio.timeout(GENEROUS):
                for _ in range(5):
                    assert await sign() == [1, 2]
                with pytest.raises(UploadNotFoundError):
                    await core.uploads.sign_parts("unknown", owner="u", part_numbers=[1])
