"""A fresh core for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.core.rig import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    async with made.core:
        yield made
