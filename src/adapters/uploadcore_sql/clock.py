"""The database's clock, and how its moments are stored: microseconds since 1970-01-01 UTC, as a 64-bit integer.

An integer means the same in every database, compares and indexes fast, and a lease is an addition. SQLite's clock ticks in
milliseconds, PostgreSQL's in microseconds; each shows one moment for the whole of a statement.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["database_now", "from_microseconds", "to_microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _DatabaseNow(FunctionElement[int]):
    """Compiled per dialect."""

    name = "database_now"
    type = BigInteger()
    inherit_cache = True


@compiles(_DatabaseNow, "sqlite")
def _on_sqlite(element: _DatabaseNow, compiler: SQLCompiler, **options: Any) -> str:
    # unixepoch('subsec') would do, from SQLite 3.42 on; Debian 12 has 3.40. A Julian day as a double is exact to 40 µs: round to the
    # millisecond it was made from. Source: sqlite.org/lang_datefunc.html, "Time Values" and "Caveats And Bugs".
    del element, compiler, options
    return "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)"


@compiles(_DatabaseNow, "postgresql")
def _on_postgresql(element: _DatabaseNow, compiler: SQLCompiler, **options: Any) -> str:
    # Neither now(), which is when the transaction began, nor clock_timestamp(), which is another moment wherever it stands: this one is
    # when the statement came in, the same wherever it stands. Source: PostgreSQL documentation, "Date/Time Functions: Current Date/Time".
    del element, compiler, options
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"


def database_now() -> ColumnElement[int]:
    """The moment the statement runs, by the database's clock: the one expression that every lease and deadline is made with."""
    return _DatabaseNow()


def to_microseconds(value: datetime | timedelta) -> int:
    """How a moment or a span is stored.

    >>> to_microseconds(timedelta(seconds=1.5)), to_microseconds(datetime(1970, 1, 1, 0, 1, tzinfo=UTC))
    (1500000, 60000000)
    """
    span = value - _EPOCH if isinstance(value, datetime) else value
    return span // _MICROSECOND


def from_microseconds(value: int | None) -> datetime | None:
    """The moment that was stored; `None` for none.

    >>> from_microseconds(60_000_000)
    datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.timezone.utc)
    """
    return None if value is None else _EPOCH + timedelta(microseconds=value)
