"""What the records need to be run: something that calls a function with a connection, inside a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Run"]

P = ParamSpec("P")
T = TypeVar("T")


class Run(Protocol):
    """Calls a query where its connection lives, and brings back what it returns or raises, as the core's errors."""

    async def __call__(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `query(connection, *args, **kwargs)`."""
        ...
