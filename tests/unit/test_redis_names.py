"""Names of hosts: looked up once for all who wait, on threads of their own, and whoever gives up leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from uploadcore_redis.connecting import connect
from uploadcore_redis.names import HostNames
from uploadcore_redis.url import parse_url

PATIENCE = 30.0


class NameServer:
    """Answers for the system, once it is let to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.answers = threading.Event()
        self.known: dict[str, list[str]] = {}

    def getaddrinfo(self, host: str, port: object, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        self.threads.add(threading.current_thread().name)
        assert self.answers.wait(PATIENCE)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.known[host]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    return server


@pytest.fixture
async def names(server: NameServer) -> AsyncIterator[HostNames]:
    names = HostNames()
    yield names
    server.answers.set()
    names.close()


async def has_been_asked(server: NameServer) -> None:
    async with asyncio.timeout(PATIENCE):
        while not server.asked:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.001)


async def test_who_asks_for_one_name_at_the_same_time_shares_a_lookup(server: NameServer, names: HostNames) -> None:
    server.known["redis.test"] = ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
    asking = [asyncio.create_task(names.addresses("redis.test")) for _ in range(50)]
    await has_been_asked(server)
    server.answers.set()
    assert await asyncio.gather(*asking) == [["192.0.2.1", "192.0.2.2"]] * 50
    assert server.asked == ["redis.test"]


async def test_who_comes_while_a_lookup_that_was_given_up_still_runs_begins_no_other(
    server: NameServer, names: HostNames
) -> None:
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await names.addresses("redis.test")
    await has_been_asked(server)
    assert server.asked == ["redis.test"]


async def test_once_a_lookup_has_ended_the_next_asks_anew(server: NameServer, names: HostNames) -> None:
    server.answers.set()
    with pytest.raises(socket.gaierror):
        await names.addresses("redis.test")
    server.known["redis.test"] = ["192.0.2.1"]
    assert await names.addresses("redis.test") == ["192.0.2.1"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
async def test_an_address_is_no_name(server: NameServer, names: HostNames, address: str) -> None:
    assert await names.addresses(address) == [address]
    assert server.asked == []


async def test_closing_lets_go_of_who_waits(server: NameServer, names: HostNames) -> None:
    waiting = asyncio.create_task(names.addresses("redis.test"))
    await has_been_asked(server)
    names.close()
    with pytest.raises(OSError, match="closed"):
        await waiting


async def test_once_closed_no_name_is_looked_up(server: NameServer, names: HostNames) -> None:
    names.close()
    with pytest.raises(OSError, match="closed"):
        await names.addresses("redis.test")
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("redis://c", {"c"}),
        ("redis+sentinel://s1,s2/main", {"s1", "s2"}),
        ("redis+cluster://n1,n2", {"n1", "n2"}),
    ],
)
async def test_every_kind_of_client_resolves_on_threads_of_its_own(
    server: NameServer, url: str, asked: set[str]
) -> None:
    server.answers.set()
    client = connect(parse_url(url), None, socket_timeout=PATIENCE, max_connections=3)
    with suppress(Exception):
        await client.execute("GET", "a")
    await client.close()
    assert set(server.asked) == asked
    assert all(name.startswith("uploadcore-redis-names") for name in server.threads)


async def test_so_does_the_connection_to_the_master_that_sentinel_names(server: NameServer) -> None:
    server.answers.set()
    client: Any = connect(parse_url("redis+sentinel://s1/main"), None, socket_timeout=PATIENCE, max_connections=3)

    async def master() -> tuple[str, int]:
        return "master.test", 6379

    client._redis.connection_pool.get_master_address = master
    with suppress(Exception):
        await client.execute("GET", "a")
    await client.close()
    assert server.asked == ["master.test"]
    assert all(name.startswith("uploadcore-redis-names") for name in server.threads)
