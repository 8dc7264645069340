"""redis-py's clients, set up so that nothing happens behind our back: no retries, no round trips nobody asked for, no endless waits.

What of redis-py 8 this rests on, each with a test:

- Its default is ten attempts with growing pauses: one GET takes seconds when the server is away. Here nothing is tried twice.
- A call that is cancelled, or times out, closes its connection. So a late answer is never read as that of the next call.
- RESP 2: nothing is pushed on a connection. (With RESP 3 it listens for maintenance messages, and then no longer looks whether a connection
  from the pool has something unread.)
- A connection from the pool that the server has closed is noticed before it is used; keep-alive finds those that vanished. So there is
  no health check, which costs a round trip.
- It would read the authorities' certificates anew for each connection: tens of milliseconds in which nothing else goes on. So all share one
  context.
- It would have names resolved on the executor that everybody shares, once for each connection. So its connections ask `HostNames`.
- A connection to a server that was made a replica would be kept, and each write on it refused; only those of Sentinel are closed. Here all are.
- Its blocking pool may lose a connection when a call is cancelled while it gives one back. So its pools do not wait: ours does.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

from uploadcore.errors import InvalidRequestError
from uploadcore_redis.names import HostNames
from uploadcore_redis.url import RedisUrl, Topology

__all__ = ["Client", "connect", "tls_context"]


class Client(Protocol):
    """What is needed of a client."""

    async def execute(self, *command: Any) -> Any:
        """Send a command, in one attempt, and return what was answered."""

    async def close(self) -> None:
        """Close its connections."""


def tls_context(url: RedisUrl) -> ssl.SSLContext | None:
    """What a URL says about TLS. Reads files.

    Raises:
        InvalidRequestError: A file holds something else than it should.
    """
    if not url.tls:
        return None
    authorities, certificate = url.options.get("ca_file"), url.options.get("cert_file")
    try:
        # Of the system, if none is named.
        context = ssl.create_default_context(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, url.options.get("key_file"))
    except (OSError, ValueError) as exc:
        raise InvalidRequestError(f"{url}: ca_file, cert_file or key_file can't be used: {type(exc).__name__}") from exc
    return context


def connect(url: RedisUrl, context: ssl.SSLContext | None, *, socket_timeout: float, max_connections: int) -> Client:
    """Make the client a URL asks for. It connects when it is used.

    Args:
        url: Where the server is.
        context: For TLS, if the URL says so.
        socket_timeout: Seconds for connecting, for sending and for each answer.
        max_connections: At most that many, per node in a cluster. A call beyond that fails at once.
    """
    transport: dict[str, Any] = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": socket_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
        "ssl": url.tls,
    }
    names = HostNames()
    server = transport | {"username": url.username, "password": url.password, "max_connections": max_connections}
    match url.topology:
        case Topology.SINGLE:
            [host] = url.hosts
            redis = Redis(host=host.name, port=host.port, db=url.db, **server)
            _adapt(names, context, redis.connection_pool)
            return _Server(names, redis)
        case Topology.SENTINEL:
            options = url.options
            own = {"username": options.get("sentinel_username"), "password": options.get("sentinel_password")}
            where = [(host.name, host.port) for host in url.hosts]
            sentinel: Sentinel = Sentinel(where, sentinel_kwargs=transport | own)  # type: ignore[no-untyped-call]
            master = sentinel.master_for(url.service, db=url.db, **server)
            _adapt(names, context, master.connection_pool, *(one.connection_pool for one in sentinel.sentinels))
            return _Server(names, master, sentinel)
        case Topology.CLUSTER:
            cluster = RedisCluster(startup_nodes=[ClusterNode(host.name, host.port) for host in url.hosts], **server)
            _adapt(names, context, *cluster.nodes_manager.startup_nodes.values())
            kind = cluster.connection_kwargs["connection_class"]
            cluster.connection_kwargs["connection_class"] = _adapted(kind, names, context)
            return _Cluster(names, cluster)


def _adapt(names: HostNames, context: ssl.SSLContext | None, *pools: Any) -> None:
    """Let every connection these make resolve its host's name there, and use that context."""
    for pool in pools:
        pool.connection_class = _adapted(pool.connection_class, names, context)


def _adapted(kind: type[Any], names: HostNames, context: ssl.SSLContext | None) -> type[Any]:
    class Adapted(kind):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._address = ""
            if context is not None:
                self.ssl_context.context = context

        async def _connect(self) -> None:
            async with asyncio.timeout(self.socket_connect_timeout):
                *others, last = await names.addresses(self.host)
                for self._address in others:
                    with suppress(OSError):
                        await super()._connect()
                        return
                self._address = last
                await super()._connect()

        async def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*arguments, **options)
            except ReadOnlyError:
                # The name may lead to another server by now.
                await self.disconnect()
                raise

        def _connection_arguments(self) -> dict[str, Any]:
            arguments = {**super()._connection_arguments(), "host": self._address}
            # The certificate is that of the name.
            return arguments if context is None else arguments | {"server_hostname": self.host}

    return Adapted


class _Server:
    """One server; or the one that Sentinel says is the master."""

    def __init__(self, names: HostNames, redis: Redis, sentinel: Sentinel | None = None) -> None:
        self._names = names
        self._redis = redis
        self._sentinel = sentinel

    async def execute(self, *command: Any) -> Any:
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        self._names.close()
        await self._redis.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class _Cluster:
    def __init__(self, names: HostNames, cluster: RedisCluster) -> None:
        self._names = names
        self._cluster = cluster

    async def execute(self, *command: Any) -> Any:
        return await self._cluster.execute_command(*command)

    async def close(self) -> None:
        self._names.close()
        await self._cluster.aclose()
        # After a failure it takes itself for closed, and leaves its connections open.
        await self._cluster.nodes_manager.aclose()
        await self._cluster.nodes_manager.aclose("startup_nodes")
