"""INSERTs that may meet a row that is there already: `ON CONFLICT` is the one thing every dialect has a class of its own for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["Insert", "per_dialect"]

T = TypeVar("T")
Insert = sqlite.Insert | postgresql.Insert


def per_dialect(table: Table, build: Callable[[Insert], T]) -> Mapping[str, T]:
    """The statement that `build` makes of an INSERT into the table, by the name of the dialect it is for."""
    return MappingProxyType({"sqlite": build(sqlite.insert(table)), "postgresql": build(postgresql.insert(table))})
