"""The SQLite database keeps the contract of its port."""

from __future__ import annotations

from uploadcore.testing import DatabaseContract


class TestSqlDatabase(DatabaseContract):
    """`database` comes from conftest."""
