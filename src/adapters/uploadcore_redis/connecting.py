"""redis-py's clients, set up so that nothing happens behind our back: no retries, no round trips nobody asked for, no endless waits.

What of redis-py 8 this rests on, each with a test:

- Its default is ten attempts with growing pauses: one GET takes seconds when the server is away. Here nothing is tried twice.
- A call that is cancelled, or times out, closes its connection. So a late answer is never read as that of the next call.
- RESP 2: nothing is pushed on a connection. (With RESP 3 it listens for maintenance messages, and then no longer looks whether a connection
  from the pool has something unread.)
- A connection from the pool that the server has closed is noticed before it is used; keep-alive finds those that vanished. So there is
  no health check, which costs a round trip.
- Its blocking pool may lose a connection when a call is cancelled while it gives one back. So its pools do not wait: ours does.
"""

from __future__ import annotations

from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from uploadcore_redis.url import RedisUrl, Topology

__all__ = ["Client", "connect"]


class Client(Protocol):
    """What is needed of a client."""

    async def execute(self, *command: Any) -> Any:
        """Send a command, in one attempt, and return what was answered."""

    async def close(self) -> None:
        """Close its connections."""


def connect(url: RedisUrl, *, socket_timeout: float, max_connections: int) -> Client:
    """Make the client a URL asks for. It connects when it is used.

    Args:
        url: Where the server is.
        socket_timeout: Seconds for connecting, for sending and for each answer.
        max_connections: At most that many, per node in a cluster. A call beyond that fails at once.
    """
    transport = _transport(url, socket_timeout)
    server = transport | {"username": url.username, "password": url.password, "max_connections": max_connections}
    match url.topology:
        case Topology.SINGLE:
            [host] = url.hosts
            return _Server(Redis(host=host.name, port=host.port, db=url.db, **server))
        case Topology.SENTINEL:
            options = url.options
            own = {"username": options.get("sentinel_username"), "password": options.get("sentinel_password")}
            where = [(host.name, host.port) for host in url.hosts]
            sentinel: Sentinel = Sentinel(where, sentinel_kwargs=transport | own)  # type: ignore[no-untyped-call]
            return _Server(sentinel.master_for(url.service, db=url.db, **server), sentinel)
        case Topology.CLUSTER:
            nodes = [ClusterNode(host.name, host.port) for host in url.hosts]
            return _Cluster(RedisCluster(startup_nodes=nodes, **server))


def _transport(url: RedisUrl, socket_timeout: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": socket_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if url.tls:
        options["ssl"] = True
        for ours, theirs in (("ca_file", "ssl_ca_certs"), ("cert_file", "ssl_certfile"), ("key_file", "ssl_keyfile")):
            if ours in url.options:
                options[theirs] = str(url.options[ours])
    return options


class _Server:
    """One server; or the one that Sentinel says is the master."""

    def __init__(self, redis: Redis, sentinel: Sentinel | None = None) -> None:
        self._redis = redis
        self._sentinel = sentinel

    async def execute(self, *command: Any) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._redis.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class _Cluster:
    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    async def execute(self, *command: Any) -> Any:
        return await self._cluster.execute_command(*command)

    async def close(self) -> None:
        await self._cluster.aclose()
        # After a failure it takes itself for closed, and leaves its connections open.
        await self._cluster.nodes_manager.aclose()
        await self._cluster.nodes_manager.aclose("startup_nodes")
