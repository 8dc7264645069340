"""Redis servers that a test may pause and kill, and caches on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, Protocol

import pytest
import redis

from tests.servers.redis import RedisServer
from uploadcore_redis import RedisCache

HOUR = timedelta(hours=1)
SHORT = timedelta(milliseconds=100)
"""The deadline by default: for tests in which it is reached."""
LONG = timedelta(seconds=10)
"""One that is not reached on a machine that is busy with other things: for tests in which the server answers."""
PATIENCE = 30.0
"""Seconds until a test gives up waiting for what takes a moment."""


class CacheFactory(Protocol):
    def __call__(self, url: str, **options: Any) -> Coroutine[Any, Any, RedisCache]: ...


async def until(holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not await holds():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def until_answered(cache: RedisCache, key: str = "again") -> None:
    """Wait until the server is used again, and has stored `value of <key>`."""

    async def stored() -> bool:
        return await cache.set_if_newer(key, f"value of {key}".encode(), 1, ttl=HOUR) is True

    await until(stored)


class Server:
    """A look at a server from outside."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def client(self) -> contextlib.closing[redis.Redis]:
        return contextlib.closing(redis.Redis.from_url(self.server.url, socket_timeout=5))

    def calls(self) -> dict[str, int]:
        """How often each command was called since the last look."""
        with self.client() as client:
            stats: Any = client.info("commandstats")
            client.config_resetstat()
        ours = ("get", "evalsha", "eval")
        return {name: stats[f"cmdstat_{name}"]["calls"] for name in ours if f"cmdstat_{name}" in stats}

    def connections(self) -> int:
        """How many are open, this one aside."""
        with self.client() as client:
            clients: Any = client.client_list()
        return len(clients) - 1


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of this test's own."""
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def look(own_redis: RedisServer) -> Server:
    return Server(own_redis)


@pytest.fixture
async def opened() -> AsyncIterator[CacheFactory]:
    """Opens caches, with time enough if not told otherwise, which are closed when the test has ended."""
    caches: list[RedisCache] = []

    async def open_one(url: str, **options: Any) -> RedisCache:
        cache = RedisCache(url, **{"timeout": LONG, **options})
        caches.append(cache)
        await cache.open()
        return cache

    yield open_one
    for cache in caches:
        await cache.close()


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged as a warning or worse so far."""
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
