"""Both databases keep the contract of their port."""

from __future__ import annotations

import pytest

from uploadcore.testing import DatabaseContract
from uploadcore_sql import SqlDatabase


class TestSqliteDatabase(DatabaseContract):
    """`database` comes from conftest."""


class TestPostgresDatabase(DatabaseContract):
    @pytest.fixture
    def database(self, emptied: SqlDatabase) -> SqlDatabase:
        return emptied
