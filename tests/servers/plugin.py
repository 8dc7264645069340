"""The servers as fixtures of the session: `postgres_server`, `redis_server`, `s3_server`. A test's id says which one it went to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers.choice import KINDS, Servers
from tests.servers.postgres import ExternalPostgres
from tests.servers.redis import ExternalRedis
from tests.servers.s3 import S3Server

SERVERS = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = Servers()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVERS].stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    servers = metafunc.config.stash[SERVERS]
    for kind in KINDS:
        if f"{kind}_server" in metafunc.fixturenames:
            ids = servers.ids(kind)
            metafunc.parametrize(f"{kind}_server", ids, ids=ids, indirect=True, scope="session")


def server_of(kind: str, request: pytest.FixtureRequest) -> Any:
    servers = request.config.stash[SERVERS]
    asked: str | None = getattr(request, "param", None)
    if asked is None:
        asked = next(iter(servers.ids(kind)), None)
    if asked is None:
        pytest.skip("; ".join(f"no {name}: {why}" for name, why in servers.absent.items()))
    return servers.get(kind, asked)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> ExternalPostgres:
    """A PostgreSQL in which databases can be made."""
    server: ExternalPostgres = server_of("postgres", request)
    return server


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> ExternalRedis:
    """A Redis. Where `can_fail` says so it is a `RedisServer`, which can be paused and killed."""
    server: ExternalRedis = server_of("redis", request)
    return server


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """A store that speaks S3, in which buckets can be made."""
    server: S3Server = server_of("s3", request)
    return server
