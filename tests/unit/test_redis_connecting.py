"""redis-py's clients are set up alike for one server, Sentinel and Cluster."""

from __future__ import annotations

from typing import Any

import pytest

from uploadcore_redis.connecting import connect, tls_context
from uploadcore_redis.url import parse_url

URLS = ["redis://:p@c", "redis+sentinel://:p@s1,s2/main?sentinel_password=q", "redis+cluster://:p@n1,n2"]


def pools(client: Any) -> list[Any]:
    """Whatever makes connections for a client."""
    cluster = getattr(client, "_cluster", None)
    if cluster is not None:
        return [*cluster.nodes_manager.startup_nodes.values()]
    sentinel = client._sentinel
    watching = [] if sentinel is None else [one.connection_pool for one in sentinel.sentinels]
    return [client._redis.connection_pool, *watching]


def connections(url: str) -> list[Any]:
    """A connection of each of its pools, not connected."""
    parsed = parse_url(url)
    client = connect(parsed, tls_context(parsed), socket_timeout=0.08, max_connections=3)
    made: list[Any] = []
    for pool in pools(client):
        options = {name: value for name, value in pool.connection_kwargs.items() if name != "max_connections"}
        made.append(pool.connection_class(**options))
    return made


@pytest.mark.parametrize("url", URLS)
def test_nothing_is_tried_twice_waited_for_or_asked_besides(url: str) -> None:
    for connection in connections(url):
        assert connection.retry.get_retries() == 0
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.08, 0.08)
        assert (connection.protocol, connection.health_check_interval, connection.driver_info) == (2, 0, None)


@pytest.mark.parametrize("url", [url.replace("redis", "rediss", 1) for url in URLS])
def test_with_tls_every_connection_checks_certificates_and_shares_what_it_checks_them_by(url: str) -> None:
    contexts = {connection.ssl_context.get() for connection in connections(url)}
    [context] = contexts
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_new_nodes_of_a_cluster_share_it_too() -> None:
    url = parse_url("rediss+cluster://n1")
    context = tls_context(url)
    client: Any = connect(url, context, socket_timeout=0.08, max_connections=3)
    options = client._cluster.nodes_manager.connection_kwargs
    assert options["connection_class"](host="n2", port=1).ssl_context.get() is context
