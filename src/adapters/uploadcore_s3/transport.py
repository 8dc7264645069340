"""HTTP to the store, for either SDK: one attempt, every wait bounded, every body bounded, no redirect.

The SDKs sign and name; what goes over the wire goes through here. So both behave alike, a drip of bytes can't hold a thread for longer than
the call may take, and closing the store ends the calls under way.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from io import BufferedReader, BytesIO, RawIOBase
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HttpTimeoutError
from urllib3.util import Retry, Timeout, parse_url

from uploadcore_s3.errors import S3CallError, TransportError
from uploadcore_s3.store_clock import StoreClock
from uploadcore_s3.xml import is_error

__all__ = ["MAX_ANSWER_SIZE", "Answer", "Transport", "call_within"]

MAX_ANSWER_SIZE = 16 * 1024 * 1024
"""Bytes. A page of 1,000 uploads with keys of 1,024 bytes, each percent-encoded, is 4 MiB (S3 API, ListMultipartUploads)."""
_READ_AT_ONCE = 64 * 1024
_NO_RETRY = Retry(total=False, redirect=False, raise_on_status=False)
"""`False`, not 0: urllib3 then raises what happened itself, and no `MaxRetryError` with the signed URL in its message."""
_until: ContextVar[float] = ContextVar("uploadcore_s3_until")
"""When the call under way is given up, by `time.monotonic`."""


@contextmanager
def call_within(deadline: float) -> Iterator[None]:
    """Bound all that is sent inside the block; `deadline` is one of `time.monotonic`."""
    token = _until.set(deadline)
    try:
        yield
    finally:
        _until.reset(token)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def as_response(self) -> urllib3.HTTPResponse:
        """The same as urllib3 would give it, for an SDK to read. The answer to a HEAD tells of a length and has none."""
        return urllib3.HTTPResponse(
            BytesIO(self.body), self.headers, self.status, preload_content=False, enforce_content_length=False
        )


class Transport:
    """A pool of connections.

    Args:
        connect_timeout: Seconds to connect, TLS included.
        size: Connections kept.
        ca_certs: A bundle of certificates to trust; `None`: the system's.
        clock: Learns from the store's answers; `None`: nobody does.
    """

    def __init__(
        self, *, connect_timeout: float, size: int, ca_certs: str | None, clock: StoreClock | None = None
    ) -> None:
        self._connect_timeout = connect_timeout
        self._size = size
        self._ca_certs = ca_certs
        self._clock = clock
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._is_closed = False
        self._pools: dict[str, urllib3.PoolManager] = {}

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, is_store: bool = True
    ) -> Answer:
        """One request and its answer.

        Args:
            method: Of the request.
            url: As it is signed.
            headers: Of the request.
            body: Of the request.
            is_store: Whether it is the store that is asked, and tells its time; not some other service about credentials.

        Raises:
            S3CallError: The answer is an error, whatever its status.
            TransportError: There is none, or not a whole one.
        """
        with call_within(_until.get(time.monotonic() + 60)):
            return self._send(method, url, headers, body, is_store=is_store)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, is_store: bool) -> Answer:
        response = None
        try:
            began = time.monotonic()
            response = self._requested(method, url, headers, body)
            told = {name.lower(): value for name, value in response.headers.items()}
            if is_store and self._clock is not None:
                self._clock.heard(told, took=time.monotonic() - began)
            content = response.read() if method == "HEAD" else self._read(response)
        except BaseException as exc:
            if response is not None:
                response.close()  # half read, it must not serve another call
            if isinstance(exc, (HTTPError, OSError, ValueError)):
                # What took all the time of a call would take it again.
                raise TransportError(_told(exc), is_retryable=_left() > 0) from exc
            raise
        answer = Answer(response.status, told, content)
        if answer.status >= 300 or is_error(answer.body):
            raise S3CallError.parsed(answer.status, answer.headers, answer.body)
        return answer

    def close(self) -> None:
        """End every connection, those in use too. Idempotent."""
        with self._lock:
            self._is_closed = True
            pools, sockets = list(self._pools.values()), list(self._sockets)
        for connected in sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        for pool in pools:
            pool.clear()

    def opened(self, connected: socket.socket) -> None:
        """A connection was made: remember it, to end it."""
        with self._lock:
            self._sockets.add(connected)
            if self._is_closed:
                connected.shutdown(socket.SHUT_RDWR)

    def _requested(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> urllib3.BaseHTTPResponse:
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        pool = self._pool(proxy).connection_from_host(parts.hostname, parts.port, parts.scheme)
        # The target as the SDK signed it: urllib3's own `urlopen` of a pool manager would resolve dots in a key.
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        left = _left()
        if left <= 0:
            raise TransportError("there was no time left to ask the store", is_retryable=False)
        return pool.urlopen(
            method,
            url if proxy and parts.scheme == "http" else target,
            body=body,
            headers=dict(headers),
            retries=_NO_RETRY,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=min(self._connect_timeout, left), read=left),
            preload_content=False,
            decode_content=False,
        )

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """The body as it comes. `read1`, for `read` would wait for a whole block while single bytes keep it from timing out."""
        chunks: list[bytes] = []
        size = 0
        while chunk := response.read1(_READ_AT_ONCE, decode_content=False):
            size += len(chunk)
            if size > MAX_ANSWER_SIZE:
                raise TransportError("the store's answer is too long to be one", is_retryable=False)
            chunks.append(chunk)
        # White space that kept the connection alive; an XML declaration must come first.
        return b"".join(chunks).lstrip()

    def _pool(self, proxy: str | None) -> urllib3.PoolManager:
        with self._lock:
            if self._is_closed:
                raise TransportError("the store was closed", is_retryable=False)
            pool = self._pools.get(proxy or "")
            if pool is None:
                pool = self._pools[proxy or ""] = self._made_pool(proxy)
            return pool

    def _made_pool(self, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": self._size, "cert_reqs": "CERT_REQUIRED"}
        if self._ca_certs is not None:
            options["ca_certs"] = self._ca_certs
        if proxy is None:
            pool = urllib3.PoolManager(**options)
        else:
            auth = parse_url(proxy).auth
            proxy_headers = urllib3.make_headers(proxy_basic_auth=auth) if auth else None
            pool = urllib3.ProxyManager(proxy, proxy_headers=proxy_headers, **options)
        pool.pool_classes_by_scheme = _pool_classes(self)
        return pool


def _left() -> float:
    """Seconds until the call under way is given up."""
    return _until.get() - time.monotonic()


class _Received(RawIOBase):
    """What comes from a socket, waited for until the call is given up. A socket's own timeout begins anew with every byte."""

    def __init__(self, connected: socket.socket, raw: RawIOBase) -> None:
        self._connected = connected
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _left()
        if left <= 0:
            raise TimeoutError
        usual = self._connected.gettimeout()
        self._connected.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        finally:
            self._connected.settimeout(usual)  # the next request's sending has a time of its own

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer whose head has to come in time too, not its body alone; and so has a proxy's, to CONNECT."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = BufferedReader(_Received(sock, self.fp.detach()))


def _pool_classes(transport: Transport) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """urllib3's own, but each connection is remembered once it is made, and reads no longer than the call may take."""

    class Plain(HTTPConnection):
        response_class = _Response

        def connect(self) -> None:
            super().connect()
            transport.opened(self.sock)

    class Secure(HTTPSConnection):
        response_class = _Response

        def connect(self) -> None:
            super().connect()
            transport.opened(self.sock)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _told(error: Exception) -> str:
    """What happened, without the address and the query that urllib3 puts into its messages."""
    if isinstance(error, NameResolutionError):
        return "the store's name can't be resolved"
    if isinstance(error, NewConnectionError):
        return "the store can't be reached"
    if isinstance(error, SSLError):
        return "the store's certificate is not trusted, or TLS failed"
    if isinstance(error, (HttpTimeoutError, TimeoutError)):
        return "the store did not answer in time"
    return f"the connection to the store broke ({type(error).__name__})"
