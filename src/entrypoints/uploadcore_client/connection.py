"""One thread's connection: to wherever signed URLs point, the store or the service's own data endpoint; and to the service itself.

A `urllib3` connection rather than its pool: each sending thread keeps its own, so that it can be cut while it sends, and the pool's
debug log would show signed URLs.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any, cast
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, ReadTimeoutError
from urllib3.util.wait import wait_for_read

from uploadcore_client.cancellation import Cancellation
from uploadcore_client.errors import ServerUnreachableError, UnexpectedAnswerError
from uploadcore_client.retry import TransientError

__all__ = ["NO_ADDRESS", "Answer", "Connection", "Timeouts", "retry_after_of", "unreachable"]

ERROR_BODY_LIMIT = 64 * 1024
"""Bytes read of an answer's body: a store's XML error is far smaller, and nothing else is of interest."""

NO_ADDRESS = "the service gave an address that is no web address"

LAST_WORDS = 0.2
"""Seconds to wait for the answer of somebody who has closed the connection while we were sending."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection, its TLS handshake included.
        stall: While sending or receiving: for the next byte to be taken or to come.
        answer: For the first byte of the answer to a whole request: a store may have gigabytes to make durable first.
    """

    connect: float = 10.0
    stall: float = 60.0
    answer: float = 180.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to a request.

    Attributes:
        status: The HTTP status.
        headers: By lower-case name.
        code: `Code` of the store's XML error, or the empty string.
    """

    status: int
    headers: Mapping[str, str]
    code: str = ""

    @property
    def retry_after(self) -> float | None:
        """Seconds it asked to wait."""
        return retry_after_of(self.headers)


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """The `Retry-After` in seconds; `None` if there is none, or it is a date (no store or service we know sends one)."""
    value = headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


class _Sending:
    """Mixed into both kinds of connection: sends views as they are, byte by byte under the stall timeout, and can be cut."""

    sock: Any
    cancellation: Cancellation
    cut_short = False

    def connect(self) -> None:
        """Connect, and let it be cut from now on."""
        super().connect()  # type: ignore[misc]
        self.cancellation.watch(self.sock)

    def close(self) -> None:
        """Close it."""
        if self.sock is not None:
            self.cancellation.forget(self.sock)
        super().close()  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send all of `data`. Unlike `sendall`, whose timeout is for all of it, each step that takes any byte starts a new wait."""
        if not isinstance(data, memoryview):
            super().send(data)  # type: ignore[misc]
            return
        # An answer before the end of the body is a refusal: sending on is for nothing. Over TLS, readable may mean a session ticket.
        # Looked for before a piece and never after one, which may be the last.
        if not isinstance(self.sock, ssl.SSLSocket) and wait_for_read(self.sock, timeout=0):
            self.cut_short = True
            raise BrokenPipeError("answered before the end of the body")
        send = self.sock.send
        while data:
            data = data[send(data) :]


class _Plain(_Sending, HTTPConnection):
    pass


class _Secure(_Sending, HTTPSConnection):
    pass


class Connection:
    """Kept alive from request to request; replaced when the origin changes or it broke. For one thread.

    Args:
        cancellation: What cuts it.
        timeouts: How long to wait.
        tls: For `https`; by default the system's trusted authorities.
    """

    def __init__(self, cancellation: Cancellation, timeouts: Timeouts, tls: ssl.SSLContext | None = None) -> None:
        self._cancellation = cancellation
        self._timeouts = timeouts
        self._tls = tls
        self._origin: tuple[str, str, int | None] | None = None
        self._connection: _Plain | _Secure | None = None

    def serve(self, cancellation: Cancellation) -> None:
        """From now on, be cut by this one instead."""
        if self._connection is not None and self._connection.sock is not None:
            self._cancellation.forget(self._connection.sock)
            cancellation.watch(self._connection.sock)
            self._connection.cancellation = cancellation
        self._cancellation = cancellation

    def put(self, url: str, headers: Mapping[str, str], body: Iterable[memoryview]) -> Answer:
        """Send a part, or a whole object.

        Args:
            url: Where to; signed.
            headers: With the length of the body.
            body: Views of a buffer that may be used again as soon as the next is asked for.

        Raises:
            TransientError: No whole answer came; what the store made of the request is unknown.
            ServerUnreachableError: Its certificate is not trusted.
        """
        answer, content = self.request("PUT", url, headers, cast("Iterable[bytes]", body), limit=ERROR_BODY_LIMIT)
        return replace(answer, code=_code_in(content))

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None, *, limit: int
    ) -> tuple[Answer, bytes]:
        """Send one request; the answer, and up to `limit` bytes of what it says. Raises as `put` does."""
        connection, target = self._connected(url)
        with self._mapped(url):
            try:
                connection.request(method, target, body=body, headers=headers, preload_content=False)
            except OSError:
                # The far end may have answered and closed without reading on; if it did not, the first error is what happened.
                if connection.sock is None or not wait_for_read(connection.sock, timeout=LAST_WORDS):
                    raise
                connection.cut_short = True
            connection.timeout = self._timeouts.answer
            response = connection.getresponse()
            content = response.read(limit)
            if connection.cut_short or response.status >= 300 or len(content) == limit:
                # What of the request was not read, or of the answer, must not be taken for the next one's.
                response.close()
                self.close()
        headers = {key.lower(): value for key, value in response.headers.items()}
        return Answer(response.status, headers), content

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request and hand out the answer with its body unread; the body may be read inside the block only.

        Raises:
            TransientError: The answer broke off, or none came.
            ServerUnreachableError: Its certificate is not trusted.
        """
        connection, target = self._connected(url)
        with self._mapped(url):
            connection.request("GET", target, headers=headers, preload_content=False, decode_content=False)
            connection.timeout = self._timeouts.stall
            response = connection.getresponse()
            try:
                yield response
            finally:
                response.close()  # an unread rest would hold the socket open

    def close(self) -> None:
        """Close it. Idempotent; the next request opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, url: str) -> tuple[_Plain | _Secure, str]:
        """A live connection to the origin of `url`, and what to ask it for."""
        try:
            parts = urlsplit(url)
            origin = (parts.scheme, parts.hostname or "", parts.port)
        except ValueError:  # its words might quote the URL
            raise UnexpectedAnswerError(NO_ADDRESS, status=200) from None
        if self._connection is not None and (origin != self._origin or not self._connection.is_connected):
            self.close()
        if self._connection is None:
            self._cancellation.check()
            with self._mapped(url):
                self._connection = self._opened(*origin)
            self._origin = origin
        self._connection.timeout = self._timeouts.stall
        return self._connection, f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"

    def _opened(self, scheme: str, host: str, port: int | None) -> _Plain | _Secure:
        connection: _Plain | _Secure
        if scheme not in {"http", "https"} or not host:
            raise UnexpectedAnswerError(NO_ADDRESS, status=200)
        if scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            connection = _Secure(host, port, timeout=self._timeouts.connect, ssl_context=self._tls)
        else:
            connection = _Plain(host, port, timeout=self._timeouts.connect)
        connection.cancellation = self._cancellation
        connection.connect()
        return connection

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        """Close on any failure, and turn those of the network into ours. No message may hold more of the URL than its origin."""
        try:
            yield
        except BaseException as exc:
            self.close()
            if not isinstance(exc, OSError | HTTPError | HTTPException):
                raise
            self._cancellation.check()
            raise unreachable(url, exc) from exc


def unreachable(url: str, exc: Exception) -> TransientError | ServerUnreachableError:
    """The error that a failure of the network amounts to. Says no more of `url` than its origin."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.hostname}{'' if parts.port is None else f':{parts.port}'}"
    reason: BaseException = exc
    while (deeper := _cause(reason)) is not None:
        reason = deeper
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ServerUnreachableError(origin, f"its certificate is not trusted ({reason.verify_message})")
    if isinstance(exc, NameResolutionError):
        return TransientError(ServerUnreachableError(origin, "its name can't be resolved", refused=True))
    if isinstance(reason, ConnectionRefusedError):
        return TransientError(ServerUnreachableError(origin, "connection refused", refused=True))
    if isinstance(reason, TimeoutError | ReadTimeoutError | ConnectTimeoutError):
        return TransientError(ServerUnreachableError(origin, "it took too long"))
    # The words of other errors are not ours and might quote the URL; their kind says enough.
    return TransientError(ServerUnreachableError(origin, f"the connection broke ({type(reason).__name__})"))


def _cause(exc: BaseException) -> BaseException | None:
    """What an error was made of: urllib3 keeps it as an argument where it does not raise from it."""
    within = exc.args[0] if exc.args else None
    return exc.__cause__ or (within if isinstance(within, BaseException) else None)


def _code_in(content: bytes) -> str:
    """`Code` of an S3 error document. Not parsed as XML: one word of it is wanted, and whoever sent it is not trusted."""
    found = re.search(rb"<Code>([A-Za-z0-9]{1,64})</Code>", content)
    return found[1].decode() if found else ""
