"""The S3 store keeps the port's contract on a real server, over both SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.s3.conftest import RealHttp
from tests.servers.s3 import S3Server
from uploadcore.testing import ObjectStoreContract
from uploadcore_s3 import MinioObjectStore, S3ObjectStore, StoreOptions


class OnRealServer(ObjectStoreContract):
    part_counts = (1_000, 1_001)  # ten thousand: `make soak`

    @pytest.fixture
    def http(self, http: RealHttp) -> RealHttp:
        return http


class TestS3ObjectStore(OnRealServer):
    @pytest.fixture
    async def store(self, s3_server: S3Server, s3_options: StoreOptions) -> AsyncIterator[S3ObjectStore]:
        store = S3ObjectStore(s3_server.new_bucket(), **s3_options)
        await store.open()
        yield store
        await store.close()


class TestMinioObjectStore(OnRealServer):
    @pytest.fixture
    async def store(self, s3_server: S3Server, s3_options: StoreOptions) -> AsyncIterator[MinioObjectStore]:
        store = MinioObjectStore(s3_server.new_bucket(), **s3_options)
        await store.open()
        yield store
        await store.close()
