"""A database in a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from uploadcore_sql import SqlDatabase


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Names a file that is not there yet, in a folder that is not there either."""
    return f"sqlite:///{tmp_path}/data/uploads.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase(url)
    await database.open()
    yield database
    await database.close()
