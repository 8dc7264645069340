"""What the driver's errors mean: the one place where they become the core's."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError, VersionConflictError

__all__ = ["map_exceptions", "once_free"]

T = TypeVar("T")

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk that holds it is full: make room, then try again",
    sqlite3.SQLITE_BUSY: "another process kept its write lock for too long: try again",
    sqlite3.SQLITE_LOCKED: "another process kept its write lock for too long: try again",
    sqlite3.SQLITE_CANTOPEN: "its file can't be opened: look at the path and its permissions",
    sqlite3.SQLITE_PERM: "its file can't be opened: look at the path and its permissions",
    sqlite3.SQLITE_READONLY: "its file can't be written: look at the permissions of the file and its folder",
    sqlite3.SQLITE_IOERR: "its disk failed to read or write: look at the disk's health and free space",
    sqlite3.SQLITE_CORRUPT: "its file is damaged: restore it from a backup",
    sqlite3.SQLITE_NOTADB: "its file is something else, not an SQLite database: look at the path",
}
"""By primary result code. Source: sqlite.org/rescode.html."""
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNIQUE = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})


@contextmanager
def map_exceptions() -> Iterator[None]:
    """Raise the core's error for what the driver raises inside the block. Defects (wrong SQL, wrong use) pass as they are.

    Raises:
        VersionConflictError: A unique value is there already. The statement changed nothing.
        InvalidRequestError: A value can't be stored: text that is not Unicode, an integer beyond 64 bits.
        DatabaseUnavailableError: Everything else; the message says what to look at.
    """
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError) as exc:
        if _extended_code(exc) not in _UNIQUE:
            raise
        raise VersionConflictError("a record of that id, or at that storage key, is there already") from exc
    except (ProgrammingError, sqlite3.ProgrammingError):
        raise
    except (UnicodeEncodeError, OverflowError) as exc:
        raise InvalidRequestError("a value can't be stored: text must be Unicode, integers must fit 64 bits") from exc
    except (DBAPIError, sqlite3.Error) as exc:
        advice = _ADVICE.get(_code(exc))
        told = str(exc.orig if isinstance(exc, DBAPIError) else exc)
        because = f"{advice} ({told})" if advice else told
        raise DatabaseUnavailableError(f"the database can't be used: {because}") from exc


def once_free(attempt: Callable[[], T], *, patience: float) -> T:
    """What `attempt` returns, tried until no other connection holds the lock it needs, for up to `patience` seconds.

    For the moments at which SQLite does not wait by itself, or not for long enough. To be called in a thread.
    """
    give_up_at = time.monotonic() + patience
    while True:
        try:
            return attempt()
        except (DBAPIError, sqlite3.Error) as exc:
            if _code(exc) not in _BUSY or time.monotonic() >= give_up_at:
                raise
        time.sleep(0.01)


def _code(error: Exception) -> int:
    """SQLite's primary result code: the low byte of the extended one."""
    return _extended_code(error) & 0xFF


def _extended_code(error: Exception) -> int:
    """SQLite's result code; `SQLITE_OK` where the error carries none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK)
