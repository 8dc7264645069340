"""A service for each test."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from tests.integration.http.service import Service, serving

# The tests' own client writes every URL to the log, signed ones too. What is looked through for secrets is what the service writes.
logging.getLogger("httpx").setLevel(logging.WARNING)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running
