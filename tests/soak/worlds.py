"""What a service stands on: a folder and nothing else, or the servers of production."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.swift import SwiftServer
from tests.soak.proxy import CountingProxy
from tests.soak.service import COMMAND, Service

__all__ = ["EMBEDDED", "Embedded", "Production", "World", "production"]


class World(Protocol):
    """Where a service keeps what, and how its clients' bytes get there."""

    name: str

    def service(self, folder: Path, proxy: CountingProxy | None = None) -> Service:
        """A service, not started; clients send the bytes of parts through the proxy, if there is one."""

    def left(self, service: Service) -> list[str]:
        """What the store holds of multipart uploads."""


class Embedded:
    """Filesystem store, SQLite, a cache in the process."""

    name = ""

    def service(self, folder: Path, proxy: CountingProxy | None = None) -> Service:
        service = Service(folder)
        if proxy is not None:
            proxy.port = service.port
            service.environment["UPLOADCORE_PUBLIC_URL"] = service.environment["UPLOADCORE_URL"] = proxy.url
        return service

    def left(self, service: Service) -> list[str]:
        return [path.name for path in (service.data_dir / "files" / "multiparts").iterdir()]


EMBEDDED = Embedded()


class Production:
    """An S3-compatible store, PostgreSQL and Redis, all real.

    Args:
        sdk: Which one the service talks to the store with: `s3` (boto3) or `minio`.
    """

    def __init__(self, sdk: str, store: SwiftServer, database: PostgresServer, cache: RedisServer) -> None:
        self.name = f"{sdk}_"
        self._sdk = sdk
        self._store = store
        self._bucket = store.new_bucket()
        self._settings = {
            "UPLOADCORE_DATABASE": database.new_database(),
            "UPLOADCORE_CACHE": cache.url,
            "UPLOADCORE_PART_SIZE_MIN": "1",
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def service(self, folder: Path, proxy: CountingProxy | None = None) -> Service:
        public = {}
        if proxy is not None:
            proxy.port = urlsplit(self._store.endpoint).port or 0
            public["public_endpoint"] = proxy.url
        service = Service(folder, UPLOADCORE_STORAGE=self._url(public), **self._settings)
        migrated = subprocess.run(
            [*COMMAND, "migrate"],
            check=False,
            env=service.environment,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=60,
        )
        if migrated.returncode != 0:
            raise RuntimeError(f"migrate ended with {migrated.returncode}: {migrated.stderr[-2000:]}")
        return service

    def left(self, service: Service) -> list[str]:
        with contextlib.closing(self._store.client()) as client:
            return [found["Key"] for found in client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", [])]

    def _url(self, more: Mapping[str, str]) -> str:
        options = {"region": self._store.region, "capabilities": "swift", **more}
        if self._sdk == "minio":
            endpoint = urlsplit(self._store.endpoint)
            return f"minio://{endpoint.netloc}/{self._bucket}?{urlencode({'secure': 'false', **options})}"
        return f"s3://{self._bucket}?{urlencode({'endpoint': self._store.endpoint, **options})}"


@contextlib.contextmanager
def production(*sdks: str) -> Iterator[list[Production]]:
    """The servers, and a world of each SDK on them."""
    with contextlib.ExitStack() as stack:
        servers = SwiftServer(), PostgresServer(), RedisServer()
        for server in servers:
            server.start()
            stack.callback(server.stop)
        yield [Production(sdk, *servers) for sdk in sdks]
