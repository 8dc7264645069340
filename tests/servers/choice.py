"""Which servers this run's tests go to: those that the environment names, else those of the wheels, and containers where Docker runs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.servers import postgres, redis, s3
from tests.servers.process import ServerError
from tests.servers.swift import SwiftServer

KINDS = ("postgres", "redis", "s3")

TIMEOUT = 5.0
"""Seconds for Docker to take a connection."""

# Every statement is written down with its parameters, for the scan for secrets: what a test removed again is still in there.
STATEMENTS = ("-c", "log_min_duration_statement=0")


class Servers:
    """The servers of one run. Each starts when the first test asks for it, and runs until the end."""

    def __init__(self) -> None:
        self.absent: dict[str, str] = {}
        """What tests could have gone to as well, and why they don't."""
        self.running: dict[str, Any] = {}
        """By id."""
        self.names: dict[str, str] = {}
        """Product and version, by id."""
        self._failed: dict[str, Exception] = {}
        self._known: dict[str, dict[str, Callable[[], Any]]] = {}

    def ids(self, kind: str) -> list[str]:
        """The ids of the servers of a kind that this run's tests go to."""
        if kind not in self._known:
            self._known[kind] = self._external(kind) or {**self._wheel(kind), **self._container(kind)}
        return list(self._known[kind])

    def get(self, kind: str, server_id: str) -> Any:
        """A running server.

        Raises:
            ServerError: It does not start; whoever asks later hears it at once.
        """
        if server_id in self._failed:
            raise ServerError(f"{server_id} did not start, see the first test that asked for it") from self._failed[
                server_id
            ]
        if server_id not in self.running:
            server = self._known[kind][server_id]()
            try:
                server.start()
                self.names[server_id] = server.name
            except Exception as error:
                self._failed[server_id] = error
                raise
            self.running[server_id] = server
        return self.running[server_id]

    def stop(self) -> None:
        """End them all."""
        while self.running:
            self.running.popitem()[1].stop()

    def _external(self, kind: str) -> dict[str, Callable[[], Any]]:
        url = os.environ.get({"postgres": postgres.URL, "redis": redis.URL, "s3": s3.URL}[kind])
        if not url:
            return {}
        if kind == "postgres":
            return {"postgres-external": lambda: postgres.ExternalPostgres(url)}
        if kind == "redis":
            return {"redis-external": lambda: redis.ExternalRedis(url)}
        return {"s3-external": lambda: s3.from_environment(os.environ)}

    def _wheel(self, kind: str) -> dict[str, Callable[[], Any]]:
        if kind == "s3" and sys.platform != "linux":
            self.absent["Swift"] = "it runs on Linux only"
            return {}
        if kind == "postgres":
            return {"postgres": lambda: postgres.PostgresServer(*STATEMENTS)}
        return {"s3-swift": SwiftServer} if kind == "s3" else {"redis": lambda: redis.RedisServer(keep_commands=True)}

    def _container(self, kind: str) -> dict[str, Callable[[], Any]]:
        if not _docker_runs():
            self.absent["MinIO, PostgreSQL, Redis in containers"] = "Docker does not run here"
            return {}
        # Imported where needed: it takes two seconds.
        from tests.servers import containers

        if kind == "postgres":
            return {"postgres-container": containers.PostgresInContainer}
        return (
            {"s3-minio": containers.MinioInContainer}
            if kind == "s3"
            else {"redis-container": containers.RedisInContainer}
        )


def _docker_runs() -> bool:
    """Whether somebody listens where DOCKER_HOST, or else the default, says that Docker does."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    try:
        if address.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(TIMEOUT)
                probe.connect(address.path)
        else:
            socket.create_connection((address.hostname or "", address.port or 2375), TIMEOUT).close()
    except OSError:
        return False
    return True
