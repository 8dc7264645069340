"""What the driver's errors become."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError, VersionConflictError
from uploadcore_sql.errors import map_exceptions, once_free


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, other TEXT UNIQUE, needed TEXT NOT NULL)")
    connection.execute("INSERT INTO t VALUES ('a', 'b', '')")
    yield connection
    connection.close()


@pytest.mark.parametrize("values", ["('a', 'c', '')", "('c', 'b', '')"])
def test_a_value_that_must_be_unique_is_a_conflict(connection: sqlite3.Connection, values: str) -> None:
    with pytest.raises(VersionConflictError), map_exceptions():
        connection.execute(f"INSERT INTO t VALUES {values}")


def test_other_broken_constraints_are_defects(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError), map_exceptions():
        connection.execute("INSERT INTO t VALUES ('c', 'd', NULL)")


def test_wrong_use_of_the_driver_is_a_defect(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.ProgrammingError), map_exceptions():
        connection.execute("INSERT INTO t VALUES (?, ?, ?)", ("too few",))


@pytest.mark.parametrize("value", ["\ud800", 2**63])
def test_a_value_that_can_not_be_stored_is_the_callers_matter(connection: sqlite3.Connection, value: str | int) -> None:
    with pytest.raises(InvalidRequestError), map_exceptions():
        connection.execute("INSERT INTO t VALUES (?, '', '')", (value,))


def test_a_full_disk_is_named(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DatabaseUnavailableError, match="disk that holds it is full") as raised, map_exceptions():
        connection.execute("INSERT INTO t VALUES ('c', 'd', zeroblob(100000))")
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)


def test_what_sqlalchemy_wraps_means_the_same() -> None:
    engine = create_engine("sqlite://", hide_parameters=True)
    with engine.connect() as connection:
        with pytest.raises(DatabaseUnavailableError, match="no such table: absent") as raised, map_exceptions():
            connection.execute(text("SELECT :secret FROM absent"), {"secret": "s3cr3t"})
        assert "s3cr3t" not in str(raised.value.__cause__)
    engine.dispose()


def test_what_another_connection_holds_is_tried_until_it_is_free(tmp_path: Path) -> None:
    holder, waiter = (sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None) for _ in range(2))
    holder.execute("BEGIN IMMEDIATE")
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            holder.rollback()
        waiter.execute("BEGIN IMMEDIATE")
        return "begun"

    assert once_free(attempt, patience=60) == "begun"
    assert attempts == 3
    holder.close()
    waiter.close()


def test_what_another_connection_keeps_is_not_tried_for_ever(tmp_path: Path) -> None:
    holder, waiter = (sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None) for _ in range(2))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailableError, match="another process"), map_exceptions():
        once_free(lambda: waiter.execute("BEGIN IMMEDIATE"), patience=0.03)
    holder.close()
    waiter.close()


def test_what_fails_for_another_reason_is_not_tried_again(connection: sqlite3.Connection) -> None:
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        connection.execute("SELECT 1 FROM absent")

    with pytest.raises(sqlite3.OperationalError):
        once_free(attempt, patience=60)
    assert attempts == 1
