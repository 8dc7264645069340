"""What the records need to be run: something that calls a function with a connection, inside a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Run", "is_one_statement", "one_statement"]

P = ParamSpec("P")
T = TypeVar("T")

_ONE_STATEMENT: set[Callable[..., Any]] = set()


def one_statement(query: Callable[P, T]) -> Callable[P, T]:
    """Mark a query that runs one statement on PostgreSQL, and so needs no transaction around it to be done wholly or not at all."""
    _ONE_STATEMENT.add(query)
    return query


def is_one_statement(query: Callable[..., Any]) -> bool:
    """Whether it was marked."""
    return query in _ONE_STATEMENT


class Run(Protocol):
    """Calls a query where its connection lives, and brings back what it returns or raises, as the core's errors."""

    async def __call__(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `query(connection, *args, **kwargs)`."""
        ...
