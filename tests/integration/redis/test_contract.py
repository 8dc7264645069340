"""The cache on Redis keeps the port's contract, with and without what a process remembers by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.redis.conftest import LONG
from tests.servers.redis import ExternalRedis
from uploadcore.ports import Cache
from uploadcore.testing import CacheContract
from uploadcore_memory import ManualClock
from uploadcore_redis import RedisCache


class TestRedisCache(CacheContract):
    near_entries = 1_000

    @pytest.fixture
    async def cache(self, redis_server: ExternalRedis) -> AsyncIterator[Cache]:
        redis_server.flush()
        self.server, self.manual = redis_server, ManualClock()
        cache = RedisCache(redis_server.url, near_entries=self.near_entries, timeout=LONG, clock=self.manual)
        await cache.open()
        yield cache
        await cache.close()

    async def advance(self, cache: Cache, seconds: float) -> None:
        self.server.age(seconds)
        self.manual.advance(seconds)


class TestRedisCacheWithoutNear(TestRedisCache):
    near_entries = 0
