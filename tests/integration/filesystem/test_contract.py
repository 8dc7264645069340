"""The filesystem store keeps the port's contract, over real HTTP."""

from __future__ import annotations

import pytest

from tests.integration.filesystem.serving import Served
from uploadcore.ports import ObjectStore
from uploadcore.testing import ObjectStoreContract
from uploadcore_filesystem import FilesystemObjectStore


class TestFilesystemObjectStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, served: Served) -> FilesystemObjectStore:
        self.served = served
        return served.store

    @pytest.fixture
    def http(self, served: Served) -> Served:
        return served

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        self.served.clock.advance(seconds)
