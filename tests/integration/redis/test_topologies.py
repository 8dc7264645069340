"""Sentinel and Cluster; and what redis-py does with connections, which differs between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.redis.conftest import HOUR, SHORT, CacheFactory, Server, until, until_answered
from tests.integration.redis.topologies import cluster_of_one, sentinel, watched_by_sentinel
from tests.servers.redis import RedisServer

DOCS = Path(__file__).parents[3] / "docs" / "redis.md"


@contextlib.contextmanager
def one_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def url_of(server: RedisServer, scheme: str) -> str:
    return server.url.replace("redis://", f"{scheme}://")


@pytest.fixture(scope="module", params=["redis", "redis+cluster"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, str]]:
    """A server, and its URL."""
    with cluster_of_one() if request.param == "redis+cluster" else one_server() as server:
        yield server, url_of(server, request.param)


@pytest.mark.parametrize("near_entries", [0, 1_000])
async def test_a_late_answer_is_never_taken_for_that_of_another_key(
    served: tuple[RedisServer, str], opened: CacheFactory, near_entries: int
) -> None:
    server, url = served
    cache = await opened(
        url, near_entries=near_entries, max_connections=3, near_ttl=timedelta(milliseconds=1), timeout=SHORT
    )
    keys = [str(number) for number in range(40)]
    for key in keys:
        await until_answered(cache, key)
    for _ in range(3):
        server.pause()
        try:
            late = await asyncio.gather(*(cache.get(f"late {key}") for key in keys[:10]))
        finally:
            server.resume()
        assert late == [None] * 10
        await until_answered(cache)
        for key, answer in zip(keys, await asyncio.gather(*(cache.get(key) for key in keys)), strict=True):
            assert answer in {None, f"value of {key}".encode()}


@pytest.mark.parametrize("near_entries", [0, 1_000])
async def test_a_call_given_up_by_its_caller_leaves_nothing_behind(
    served: tuple[RedisServer, str], opened: CacheFactory, near_entries: int
) -> None:
    server, url = served
    before = Server(server).connections()
    cache = await opened(url, near_entries=near_entries, max_connections=4)
    for number in range(20):
        await cache.set_if_newer(str(number), str(number).encode(), 1, ttl=HOUR)
    for turns in range(60):
        calls: list[asyncio.Task[object]] = [asyncio.create_task(cache.get(str(number))) for number in range(8)]
        calls += [asyncio.create_task(cache.delete("deleted", turns)) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    answers = await asyncio.gather(*(cache.get(str(number)) for number in range(20)))
    assert answers == [str(number).encode() for number in range(20)]
    assert Server(server).connections() - before <= 4 + 1


async def test_connections_are_bounded(served: tuple[RedisServer, str], opened: CacheFactory) -> None:
    server, url = served
    before = Server(server).connections()
    cache = await opened(url, near_entries=0, max_connections=3)
    answers = await asyncio.gather(*(cache.set_if_newer(str(number), b"1", 1, ttl=HOUR) for number in range(300)))
    assert answers == [True] * 300
    assert Server(server).connections() - before <= 3 + 1


async def test_a_cluster_that_was_away_is_used_again(opened: CacheFactory) -> None:
    with cluster_of_one() as server:
        cache = await opened(url_of(server, "redis+cluster"))
        await until_answered(cache)
        server.kill()
        for number in range(5):
            assert await cache.get(f"unknown {number}") is None
            assert await cache.set_if_newer(f"key {number}", b"1", 1, ttl=HOUR) is None
        server.restart()
        await until_answered(cache)


async def test_any_text_is_a_key_in_a_cluster(opened: CacheFactory) -> None:
    with cluster_of_one() as server:
        cache = await opened(url_of(server, "redis+cluster"), near_entries=0)
        for key in ("", "}", "{", "{}", "{a}b", "a}b", "%", "%7D", "file:1"):
            assert await cache.set_if_newer(key, key.encode(), 1, ttl=HOUR) is True
            assert await cache.get(key) == key.encode()
            assert await cache.delete(key, 1) is True


async def test_a_replica_that_takes_over_is_found(opened: CacheFactory) -> None:
    with watched_by_sentinel() as watched:
        cache = await opened(watched.url)
        other = await opened(watched.replica.url, near_entries=0)
        assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR) is True

        async def replicated() -> bool:
            return await other.get("a") == b"2"

        await until(replicated)
        watched.master.kill()
        assert await cache.set_if_newer("b", b"1", 1, ttl=HOUR) is None
        watched.fail_over()
        await until_answered(cache)
        assert await other.get("again") == b"value of again"
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is False, "its versions are there too"


async def test_a_master_nobody_knows_is_as_good_as_no_cache(opened: CacheFactory) -> None:
    with sentinel() as url:
        cache = await opened(f"{url}/main")
        assert await cache.get("a") is None
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is None


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_the_rights_that_the_docs_give_its_user_are_enough(opened: CacheFactory, scheme: str) -> None:
    [line] = [line for line in DOCS.read_text().splitlines() if line.startswith("ACL SETUSER")]
    with cluster_of_one() if scheme == "redis+cluster" else one_server() as server:
        with Server(server).client() as client:
            client.execute_command(*line.split())  # type: ignore[no-untyped-call]
        url = url_of(server, scheme).replace("://", "://uploads:secret@")
        cache = await opened(url, near_entries=0)
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        assert await cache.get("a") == b"1"
        assert await cache.delete("a", 1) is True
        foreign = await opened(url, near_entries=0, key_prefix="other:")
        assert await foreign.set_if_newer("a", b"1", 1, ttl=HOUR) is None
