"""MinIO, PostgreSQL and Redis in containers, where Docker runs."""

from __future__ import annotations

import requests
from docker.errors import DockerException  # type: ignore[import-untyped]
from testcontainers.community.minio import MinioContainer
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.container import DockerContainer

from tests.servers.postgres import ExternalPostgres
from tests.servers.process import ServerError
from tests.servers.redis import ExternalRedis
from tests.servers.s3 import Keys, S3Server

# MinIO publishes no images any more; this is the last one.
MINIO = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
POSTGRES = "postgres:18-alpine"
REDIS = "redis:8-alpine"


def _start(container: DockerContainer, image: str) -> None:
    try:
        container.start()
    except (DockerException, requests.RequestException, OSError, TimeoutError) as error:
        raise ServerError(f"no container of {image}: {error}") from error


class MinioInContainer(S3Server):
    """A MinIO."""

    def __init__(self) -> None:
        self._container = MinioContainer(MINIO, secret_key="minio-secret-of-the-tests")
        keys = Keys(self._container.access_key, self._container.secret_key)
        super().__init__("", keys, region="us-east-1")

    @property
    def name(self) -> str:
        """MinIO and its release."""
        return f"MinIO {MINIO.partition('RELEASE.')[2]}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        _start(self._container, MINIO)
        self.endpoint = f"http://{self._container.get_config()['endpoint']}"

    def stop(self) -> None:
        """Remove it, with what it keeps."""
        self._container.stop()


class PostgresInContainer(ExternalPostgres):
    """A PostgreSQL."""

    def __init__(self) -> None:
        self._container = PostgresContainer(POSTGRES, driver=None)
        super().__init__("")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        _start(self._container, POSTGRES)
        self._admin_url = self._container.get_connection_url()

    def stop(self) -> None:
        """Remove it, with what it keeps."""
        self._container.stop()


class RedisInContainer(ExternalRedis):
    """A Redis."""

    def __init__(self) -> None:
        self._container = RedisContainer(REDIS)
        super().__init__("")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        _start(self._container, REDIS)
        host, port = self._container.get_container_host_ip(), self._container.get_exposed_port(self._container.port)
        self.url = f"redis://{host}:{port}/0"

    def stop(self) -> None:
        """Remove it, with what it keeps."""
        self._container.stop()
