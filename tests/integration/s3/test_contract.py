"""The S3 store keeps the port's contract on a real server, over both SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.s3.conftest import RealHttp
from tests.servers.s3 import S3Server
from uploadcore.testing import ObjectStoreContract
from uploadcore_s3 import MinioObjectStore, S3ObjectStore, StoreOptions

SMALL_PAGE = 100


class OnRealServer(ObjectStoreContract):
    part_counts = (1_001,)  # one more than a page of a listing; a page, and ten thousand: `make soak`
    open_multiparts = 2 * SMALL_PAGE + 1

    @pytest.fixture
    def http(self, http: RealHttp) -> RealHttp:
        return http

    @pytest.fixture
    def options(self, request: pytest.FixtureRequest, s3_options: StoreOptions) -> StoreOptions:
        """Pages as everybody has them; small ones for the uploads, which take a server longer to make than to list."""
        is_listing = request.node.originalname == "test_many_multipart_uploads_are_listed"
        return s3_options | StoreOptions(page_size=SMALL_PAGE if is_listing else 1_000)


class TestS3ObjectStore(OnRealServer):
    @pytest.fixture
    async def store(self, s3_server: S3Server, options: StoreOptions) -> AsyncIterator[S3ObjectStore]:
        store = S3ObjectStore(s3_server.new_bucket(), **options)
        await store.open()
        yield store
        await store.close()


class TestMinioObjectStore(OnRealServer):
    @pytest.fixture
    async def store(self, s3_server: S3Server, options: StoreOptions) -> AsyncIterator[MinioObjectStore]:
        store = MinioObjectStore(s3_server.new_bucket(), **options)
        await store.open()
        yield store
        await store.close()
