"""What PostgreSQL's errors, and the driver's, mean: the one place where they become the core's.

Messages carry what the server said in its first line, which holds no values; its DETAIL, which does, stays behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from uploadcore.errors import DatabaseUnavailableError, InvalidRequestError, VersionConflictError

__all__ = ["DRIVER_ERRORS", "MIGRATE", "map_exceptions"]

MIGRATE = "run 'uploadcore migrate'"
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that the driver raises, but for what the system says of a socket. The last: the server has said that it ends the connection, and the end
itself has not come; or no server is what `target_session_attrs` asks for, as none is for a while when one takes over from another."""

_ADVICE = {
    "53100": "the server's disk is full: make room, then try again",
    "53200": "the server is out of memory: try again",
    "53300": "the server has no connection left: lower pool_size in the URL, or raise the server's max_connections",
    "25006": "it takes no writes: it is a standby or set read-only; ask for target_session_attrs=read-write in the URL",
    "42P01": f"its schema is not the one this version of uploadcore needs: {MIGRATE}",
    "42703": f"its schema is not the one this version of uploadcore needs: {MIGRATE}",
    "42P07": "something that is not ours has the name of one of our tables: keep them apart with search_path in the URL",
    "42501": "this user may not do that: grant it select, insert, update and delete on the tables uploadcore_*",
    "42704": "the server does not know an option of the URL",
    "3D000": "the server has no such database: create it",
    "3F000": "the schema named by search_path is not there: create it",
    "28P01": "the server does not accept this user and password",
    "28000": "the server does not let this user in from here",
    "55P03": "another transaction kept a lock for too long: try again",
    "57014": "a statement took too long: try again",
    "25P03": "a transaction waited for too long between two statements",
    "57P01": "the server, or its administrator, has ended the connection: try again",
    "57P02": "the server crashed and is starting again: try again",
    "57P03": "the server is starting or stopping: try again",
}
"""By SQLSTATE. Source: PostgreSQL documentation, appendix A."""
_OVERTAKEN = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the server undid the whole transaction because of another one's."""
_AWAY = frozenset({"53300", "57P01", "57P02", "57P03"})
"""Nothing is wrong with what was asked: the server starts, stops, or has no room for us now."""
_UNIQUE = "23505"
_NOT_STORABLE = frozenset({"22003", "22021"})
"""A number out of range, a character that has no place in text."""
_OURS = frozenset({"42P01", "42703", "42P07", "42501", "42704"})
"""Of the class of wrong SQL, those that the one who runs it can put right."""


@contextmanager
def map_exceptions() -> Iterator[None]:
    """Raise the core's error for what the driver or the pool raises inside the block. Defects (wrong SQL, wrong use) pass as they are.

    Raises:
        VersionConflictError: A unique value is there already; or another transaction was in the way, and nothing of this one is saved.
        InvalidRequestError: A value can't be stored.
        DatabaseUnavailableError: Everything else; the message says what to look at.
    """
    try:
        yield
    except PoolTimeoutError as exc:
        told = "the database is busy: no connection came free in time; try again"
        raise DatabaseUnavailableError(told, is_away=True) from exc
    except PendingRollbackError as exc:  # it broke where something was still to be ended
        told = "the database can't be used: the connection was lost: try again"
        raise DatabaseUnavailableError(told, is_away=True) from exc
    except (DBAPIError, *DRIVER_ERRORS) as exc:
        _raise_mapped(exc)
    except TimeoutError as exc:
        raise DatabaseUnavailableError("the database did not answer in time: try again", is_away=True) from exc
    except OSError as exc:
        told = f"the database can't be reached: {exc.strerror or type(exc).__name__}"
        raise DatabaseUnavailableError(told, is_away=True) from exc


def _raise_mapped(error: Exception) -> NoReturn:
    """Raise what an error of the driver means; the error itself where it is a defect."""
    cause = _driver_error(error)
    code = getattr(cause, "sqlstate", None) or ""
    if code == _UNIQUE:
        raise VersionConflictError("a record of that id, or at that storage key, is there already") from error
    if code in _OVERTAKEN:
        raise VersionConflictError("another transaction was in the way, and nothing was saved: read again") from error
    if code in _NOT_STORABLE or isinstance(cause, asyncpg.DataError | UnicodeEncodeError | OverflowError):
        raise InvalidRequestError("a value can't be stored: text must be Unicode, integers must fit 64 bits") from error
    if isinstance(error, IntegrityError | ProgrammingError) and code not in _OURS:
        raise error
    if isinstance(cause, asyncpg.ClientConfigurationError):
        raise DatabaseUnavailableError("the options of the database's URL can't be used together") from error
    if isinstance(cause, asyncpg.TargetServerAttributeNotMatched):
        told = "no server is what target_session_attrs asks for: try again, one may be taking over"
        raise DatabaseUnavailableError(told, is_away=True) from error
    told = str(cause.args[0]) if cause.args else type(cause).__name__
    advice = _ADVICE.get(code) or ("" if code else "the connection was lost: try again")
    because = f"{advice} ({told})" if advice else told
    is_away = not code or code in _AWAY or code.startswith("08")  # the class of connection exceptions
    raise DatabaseUnavailableError(f"the database can't be used: {because}", is_away=is_away) from error


def _driver_error(error: Exception) -> BaseException:
    """What asyncpg raised, below what SQLAlchemy made of it."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig
