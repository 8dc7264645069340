"""U+0000, which PostgreSQL can't store: no database is asked to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, event

from uploadcore.errors import InvalidRequestError

__all__ = ["check_text", "refuse_nul"]


def refuse_nul(engine: Engine) -> None:
    """Let no statement of the engine run that has U+0000 in a value: it raises `InvalidRequestError`, and nothing is sent."""
    event.listen(engine, "before_cursor_execute", _look)


def _look(connection: Connection, cursor: Any, statement: str, parameters: Any, *context_and_is_many: Any) -> None:
    del connection, cursor, statement
    for row in parameters if context_and_is_many[1] else (parameters,):
        check_text(row.values() if isinstance(row, Mapping) else row)


def check_text(values: Iterable[Any]) -> None:
    """Raise `InvalidRequestError` for a text with U+0000 in it.

    >>> check_text(["a", None, 1])
    """
    for value in values:
        if isinstance(value, str) and "\0" in value:
            raise InvalidRequestError("text must not contain U+0000")
