"""What a URL says. Nothing of it is ever shown but its scheme, its hosts and the names of its options: it may hold passwords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from uploadcore.errors import InvalidRequestError

__all__ = ["Host", "RedisUrl", "Topology", "parse_stream_url", "parse_url"]

_PORT = 6379
_SENTINEL_PORT = 26379


class Topology(StrEnum):
    """How the server that answers is found."""

    SINGLE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


class Host(NamedTuple):
    """Where a server, a sentinel or a node of a cluster listens."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, understood.

    Attributes:
        topology: One server, Sentinel or Cluster.
        tls: Whether to connect with TLS, to sentinels too.
        hosts: The server; or sentinels, or nodes of the cluster, one of which is enough to find the others.
        service: Sentinel's name of the master, else empty.
        db: Number of the database; a cluster has 0 only.
        username: Of the server, if any.
        password: Of the server, if any.
        options: What `RedisCache` or `RedisStreamPublisher` takes, and files and names for the connection.
    """

    topology: Topology
    tls: bool
    hosts: tuple[Host, ...]
    service: str = ""
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Without credentials and options, for logs and `repr`."""
        scheme = self.topology.replace("redis", "rediss", 1) if self.tls else self.topology
        tail = f"/{self.service}" if self.service else ""
        return f"{scheme}://{','.join(map(str, self.hosts))}{tail}"


def parse_url(url: str) -> RedisUrl:
    """Understand a cache URL.

    Raises:
        InvalidRequestError: It can't be used. The message shows no part of it that may be secret.
    """
    address, _, fragment = url.partition("#")
    scheme, parts = _split(address)
    if fragment:
        raise InvalidRequestError(f"{scheme}:// takes nothing after a '#' (in a password, write it as %23)")
    return _understood(scheme, parts, parts.query, _Marks("?", _OPTIONS))


def parse_stream_url(url: str) -> RedisUrl:
    """Understand the URL of a stream. It is that of a cache, but for its options, which stand behind a `#`.

    Raises:
        InvalidRequestError: It can't be used. The message shows no part of it that may be secret.
    """
    address, _, fragment = url.partition("#")
    scheme, parts = _split(address)
    if parts.query:
        raise InvalidRequestError(f"{scheme}:// takes its options after a '#' here (in a password, write ? as %3F)")
    return _understood(scheme, parts, fragment, _Marks("#", _STREAM_OPTIONS))


class _Marks(NamedTuple):
    """What options there are, and what stands before them."""

    sign: str
    options: dict[str, Callable[[str], Any]]


def _split(url: str) -> tuple[str, SplitResult]:
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme.replace("rediss", "redis", 1) not in set(Topology):
        raise InvalidRequestError(
            "a URL of uploadcore_redis is redis://, redis+sentinel:// or redis+cluster://, or the same with rediss for TLS"
        )
    try:
        return scheme, urlsplit(url)
    except ValueError:
        # The cause would show the URL.
        raise InvalidRequestError(f"{scheme}://: the hosts can't be read") from None


def _understood(scheme: str, parts: SplitResult, written: str, marks: _Marks) -> RedisUrl:
    secure = scheme.replace("rediss", "redis", 1)
    topology, tls = Topology(secure), scheme != secure
    credentials, _, where = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts = _hosts(scheme, where, topology)
    service, db = _path(scheme, unquote(parts.path).strip("/"), topology)
    options = _options(scheme, written, topology, marks, tls=tls)
    return RedisUrl(
        topology=topology,
        tls=tls,
        hosts=hosts,
        service=service,
        db=options.pop("db", db),
        username=unquote(username) or None,
        password=unquote(password) or None,
        options=options,
    )


def _hosts(scheme: str, text: str, topology: Topology) -> tuple[Host, ...]:
    hosts = tuple(_host(scheme, one, topology) for one in text.split(","))
    if topology is Topology.SINGLE and len(hosts) > 1:
        raise InvalidRequestError(f"{scheme}:// takes one host; several are for redis+sentinel:// and redis+cluster://")
    return hosts


def _host(scheme: str, text: str, topology: Topology) -> Host:
    name, colon, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "")
    name = name.removeprefix("[").removesuffix("]")
    if not name:
        raise InvalidRequestError(f"{scheme}:// names no host: write {scheme}://host:port")
    if not colon:
        return Host(name, _SENTINEL_PORT if topology is Topology.SENTINEL else _PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise InvalidRequestError(
            f"{scheme}://: the port is no number from 1 to 65535 (in a password, write / as %2F, ? as %3F and # as %23)"
        )
    return Host(name, int(port))


def _path(scheme: str, path: str, topology: Topology) -> tuple[str, int]:
    """The service's name, and the number of the database."""
    if topology is Topology.SENTINEL:
        if not path or "/" in path:
            raise InvalidRequestError(f"{scheme}:// needs the name of the master: write {scheme}://host:port/name")
        return path, 0
    if path and not (path.isascii() and path.isdigit()):
        raise InvalidRequestError(f"{scheme}://: what follows the host is the number of the database, as in /0")
    if topology is Topology.CLUSTER and int(path or 0):
        raise InvalidRequestError(f"{scheme}://: a cluster has the database 0 only")
    return "", int(path or 0)


def _options(scheme: str, query: str, topology: Topology, marks: _Marks, *, tls: bool) -> dict[str, Any]:
    allowed = dict(marks.options)
    if tls:
        allowed |= _TLS_OPTIONS
    if topology is Topology.SENTINEL:
        allowed |= _SENTINEL_OPTIONS
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidRequestError(
            f"{scheme}://: the options after '{marks.sign}' can't be read: write name=value&name=value"
        ) from None
    for name, text in pairs:
        if name not in allowed:
            known = name if name in {**_TLS_OPTIONS, **_SENTINEL_OPTIONS} else "one of its options"
            raise InvalidRequestError(f"{scheme}:// does not take {known}; it takes {', '.join(sorted(allowed))}")
        if name in options:
            raise InvalidRequestError(f"{scheme}://: {name} is there twice")
        try:
            options[name] = allowed[name](text)
        except ValueError:
            raise InvalidRequestError(f"{scheme}://: {name} is {_EXPECTED[allowed[name]]}") from None
    if "key_file" in options and "cert_file" not in options:
        raise InvalidRequestError(f"{scheme}://: key_file goes with cert_file")
    return options


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e6:
        raise ValueError
    return seconds


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError
    return path


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


_EXPECTED: dict[Callable[[str], Any], str] = {
    _number: "no whole number",
    _seconds: "no number of seconds",
    _file: "no file that is there",
    _text: "empty",
}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout": _seconds,
    "max_connections": _number,
    "key_prefix": _text,
    "near_ttl": _seconds,
    "near_entries": _number,
}
_STREAM_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout": _seconds,
    "max_connections": _number,
    "stream": _text,
    "maxlen": _number,
}
_TLS_OPTIONS: dict[str, Callable[[str], Any]] = {"ca_file": _file, "cert_file": _file, "key_file": _file}
_SENTINEL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _number,
    "sentinel_username": _text,
    "sentinel_password": _text,
}
