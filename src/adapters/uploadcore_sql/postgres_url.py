"""What a PostgreSQL URL says: where the server is, which the driver reads by itself, and how this adapter is to use it, which it does not."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from uploadcore.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCHEMES", "PostgresUrl"]

SCHEMES = frozenset({"postgresql", "postgres", "postgresql+asyncpg"})

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]@]*)(:[0-9]{1,5})?")
_DEFAULTS = {"pool_size": 16.0, "pool_timeout": 2.0, "connect_timeout": 2.0, "command_timeout": 15.0}
"""Connections; seconds."""
_SETTINGS = MappingProxyType(
    {
        "application_name": "uploadcore",
        # The least of what each statement does is one row by its key; the most, a page of 1,000.
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        # Between the statements of a transaction nothing is waited for: one that idles so long belongs to a process that hangs.
        "idle_in_transaction_session_timeout": "60s",
    }
)
"""What is asked of the server for each connection, where the URL does not say otherwise."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A URL that was read.

    Attributes:
        dsn: What the driver is given; with a password, if there is one.
        shown: The same without user, password and options.
        pool_size: Connections at most.
        pool_timeout: Seconds to wait for one of them.
        connect_timeout: Seconds a new one may take.
        command_timeout: Seconds any answer of the server may take, by this process's clock; above `statement_timeout`, so that it is the
            server that gives up, where it still can.
        keeps_sessions: Whether a connection is one session of the server from beginning to end. Not behind a pooler that hands out a
            session for each transaction (`pooler=transaction`).
        settings: Run-time parameters of the server for each connection.
    """

    dsn: str = field(repr=False)
    shown: str
    pool_size: int
    pool_timeout: float
    connect_timeout: float
    command_timeout: float
    keeps_sessions: bool
    settings: Mapping[str, str]

    @classmethod
    def read(cls, url: str) -> PostgresUrl:
        """Read it. No message shows any part of it: a password that was not escaped may be anywhere.

        Raises:
            InvalidRequestError: It can't be used.

        >>> PostgresUrl.read("postgresql://app:secret@db.internal/uploads?pool_size=20&sslmode=verify-full").shown
        'postgresql://db.internal/uploads'
        """
        options = _options(url)
        numbers = {name: _number(name, options.pop(name, None), default) for name, default in _DEFAULTS.items()}
        if "schema" in options:
            raise InvalidRequestError("the URL of a PostgreSQL database takes no 'schema': write search_path=name")
        pooler = options.pop("pooler", "session")
        if pooler not in {"session", "transaction"}:
            raise InvalidRequestError("in the URL of the database, 'pooler' is session or transaction")
        parts = urlsplit(url)
        settings = {name: value for name, value in _SETTINGS.items() if name not in options}
        if pooler == "transaction":  # it would refuse them, or hand them on to whoever is next
            settings = {name: value for name, value in settings.items() if name == "application_name"}
        hosts = parts.netloc.rpartition("@")[2] or options.get("host", "")
        return cls(
            dsn=f"postgresql://{parts.netloc}{parts.path}{'?' if options else ''}{urlencode(options)}",
            shown=f"postgresql://{hosts}/{unquote(parts.path[1:]) or options.get('dbname', '')}",
            pool_size=int(numbers["pool_size"]),
            pool_timeout=numbers["pool_timeout"],
            connect_timeout=numbers["connect_timeout"],
            command_timeout=numbers["command_timeout"],
            keeps_sessions=pooler == "session",
            settings=MappingProxyType(settings),
        )


def _options(url: str) -> dict[str, str]:
    """The options after the `?`; raises where the URL has not the shape of one."""
    message = (
        "the URL of the database can't be read: it is postgresql://user:password@host:port/database?option=value, "
        "with every special character in user and password escaped (@ as %40, / as %2F, : as %3A, ? as %3F, # as %23)"
    )
    with suppress(ValueError):
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query), keep_blank_values=True))
        if _is_sound(url, parts):
            return options
    raise InvalidRequestError(message)  # here, for the error above has the password in it


def _is_sound(url: str, parts: SplitResult) -> bool:
    user, _, hosts = parts.netloc.rpartition("@")
    is_odd = "@" in user or "@" in parts.path or parts.fragment or user.count(":") > 1
    if parts.scheme not in SCHEMES or "://" not in url or is_odd:
        return False
    return all(_HOST.fullmatch(host) for host in hosts.split(","))


def _number(name: str, given: str | None, default: float) -> float:
    if given is None:
        return default
    is_count = name == "pool_size"
    try:
        number = float(int(given) if is_count else float(given))
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise InvalidRequestError(
            f"in the URL of the database, {name!r} is a number of {'connections' if is_count else 'seconds'} above 0"
        )
    return number
