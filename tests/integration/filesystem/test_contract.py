"""The filesystem store keeps the port's contract, over real HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.filesystem.serving import Served, serving
from uploadcore.ports import ObjectStore
from uploadcore.testing import ObjectStoreContract
from uploadcore_filesystem import FilesystemObjectStore

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A filesystem in memory, where there is one: a thousand parts are two thousand calls of fsync, and no test here sees what they do."""


class TestFilesystemObjectStore(ObjectStoreContract):
    part_counts = (1_000, 1_001)  # ten thousand: `make soak`, which sends them through the service

    @pytest.fixture
    async def served(self) -> AsyncIterator[Served]:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            async with serving(Path(folder)) as served:
                self.clock = served.clock
                yield served

    @pytest.fixture
    def store(self, served: Served) -> FilesystemObjectStore:
        return served.store

    @pytest.fixture
    def http(self, served: Served) -> Served:
        return served

    async def advance(self, store: ObjectStore, seconds: float) -> None:
        self.clock.advance(seconds)

    async def now(self, store: ObjectStore) -> datetime:
        return self.clock.now()
