"""The filesystem store's signed URLs over HTTP: a plain ASGI application, to be mounted at `/data`.

    PUT      a part, or an object where none is: 200 with `ETag` and `x-amz-checksum-crc64nvme`
    GET, HEAD an object: ranges, conditional requests, always as an attachment
    OPTIONS  CORS preflight: the URL itself is what allows a request, so any origin may make it

Refusals look like S3's (`<Error><Code>…</Code><Message>…</Message></Error>`), because what reads them was written for S3. The URL of a request is a
secret: nothing here writes one to a log.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

try:
    from starlette.datastructures import Headers
    from starlette.responses import FileResponse, Response
    from starlette.staticfiles import NotModifiedResponse, StaticFiles
except ImportError as exc:
    raise ImportError(
        "uploadcore_http needs packages that are not installed: pip install 'uploadcore[server]'"
    ) from exc

from uploadcore.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    NoSuchMultipartError,
    StorageFullError,
    StoreUnavailableError,
    UploadCoreError,
)
from uploadcore_filesystem import (
    BodyTooLargeError,
    FilesystemObjectStore,
    GetGrant,
    IncompleteBodyError,
    NoSuchObjectError,
    PartGrant,
    PreconditionFailedError,
    PutGrant,
    SealedError,
    SignatureMismatchError,
    StoredFile,
    SupersededError,
    UnsignedHeaderError,
    UrlExpiredError,
)
from uploadcore_http.problems import PROBLEM_KEY

__all__ = ["data_app"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_logger = logging.getLogger("uploadcore.data")

DEFAULT_IDLE_TIMEOUT = 30.0
"""Seconds without a byte of the body, after which a request is ended."""
_LINGER_TIME = 2.0
"""Seconds that what a refused client still sends is read and dropped. A connection closed with unread bytes takes the answer with it (RFC 9112, 9.6)."""
_LINGER_SIZE = 32 * 1024 * 1024

_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ETag, x-amz-checksum-crc64nvme"),
)
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, PUT"),
    (b"access-control-allow-headers", b"*"),
    (b"access-control-max-age", b"7200"),  # the most that Chromium keeps
    (b"content-length", b"0"),
)

_ANSWERS: dict[type[UploadCoreError], tuple[int, str]] = {
    SignatureMismatchError: (403, "SignatureDoesNotMatch"),
    UrlExpiredError: (403, "AccessDenied"),
    UnsignedHeaderError: (403, "AccessDenied"),
    NoSuchMultipartError: (404, "NoSuchUpload"),
    NoSuchObjectError: (404, "NoSuchKey"),
    SupersededError: (409, "OperationAborted"),
    SealedError: (409, "OperationAborted"),
    PreconditionFailedError: (412, "PreconditionFailed"),
    IncompleteBodyError: (400, "IncompleteBody"),
    BodyTooLargeError: (400, "EntityTooLarge"),
    ChecksumMismatchError: (400, "BadDigest"),
    StorageFullError: (507, "InsufficientStorage"),
    StoreUnavailableError: (503, "ServiceUnavailable"),
    InvalidRequestError: (400, "InvalidRequest"),
}
"""S3's codes where it has one. Source: S3 API Reference, "Error responses"."""


class _RefusedError(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    @classmethod
    def of(cls, exc: UploadCoreError) -> _RefusedError:
        """The answer to an error of the store's."""
        answers = (answer for kind, answer in _ANSWERS.items() if isinstance(exc, kind))
        status, code = next(answers, (500, "InternalError"))
        return cls(status, code, exc.message)


class _ClientGoneError(Exception):
    """The connection was cut."""


def data_app(store: FilesystemObjectStore, *, idle_timeout: float = DEFAULT_IDLE_TIMEOUT) -> AsgiApp:
    """The application that serves the store's signed URLs.

    Args:
        store: Opened and closed by whoever made it.
        idle_timeout: Seconds without a byte of a body, after which the request is answered 408 and the connection closed.

    Returns:
        An ASGI application for HTTP, without a lifespan, to be mounted at `/data` below the store's `public_url`.

    Example:
        >>> from uploadcore_filesystem import FilesystemObjectStore
        >>> app = data_app(FilesystemObjectStore("/srv/files", public_url="http://127.0.0.1:8484"))
    """
    return _DataApp(store, idle_timeout)


class _DataApp:
    def __init__(self, store: FilesystemObjectStore, idle_timeout: float) -> None:
        self._store = store
        self._idle_timeout = idle_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise ValueError(f"the data endpoint serves HTTP, not {scope['type']!r}")
        body = _Body(receive, self._idle_timeout)
        try:
            await self._answer(scope, body, _with_cors(send))
        except _ClientGoneError:
            return
        except _RefusedError as exc:
            await _refuse(exc, scope, body, send)
        except UploadCoreError as exc:
            if isinstance(exc, StoreUnavailableError):
                _logger.warning("a signed request failed", exc_info=exc)
            refused = _RefusedError.of(exc)
            if refused.status >= 500:
                scope.setdefault("state", {})[PROBLEM_KEY] = exc.code  # for metrics: a full disk shows here alone
            await _refuse(refused, scope, body, send)

    async def _answer(self, scope: Scope, body: _Body, send: Send) -> None:
        method = scope["method"]
        if method == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [*_PREFLIGHT]})
            await send({"type": "http.response.body"})
            return
        if method not in {"GET", "HEAD", "PUT"}:
            allowed = {"allow": "GET, HEAD, OPTIONS, PUT"}
            raise _RefusedError(
                405, "MethodNotAllowed", "The specified method is not allowed against this resource", allowed
            )
        # Taken out of the scope: a server's access log writes what it finds there when the answer begins (uvicorn does).
        query, scope["query_string"] = scope["query_string"], b""
        grant = self._store.verify(method, scope["path"], query, scope["headers"])
        if isinstance(grant, GetGrant):
            await self._send_object(grant, scope, body, send)
        else:
            await self._take_body(grant, Headers(scope=scope), body, send)

    async def _take_body(self, grant: PartGrant | PutGrant, headers: Headers, body: _Body, send: Send) -> None:
        length = _content_length(headers)
        if grant.length is not None:
            if length is None:
                raise _RefusedError(411, "MissingContentLength", "You must provide the Content-Length HTTP header")
            if length != grant.length:
                raise SignatureMismatchError(f"Content-Length is {length}, and {grant.length} was signed")
        elif length is not None and length > self._store.limits.max_part_size:
            raise BodyTooLargeError(f"a body has {self._store.limits.max_part_size} bytes at most")
        if isinstance(grant, PartGrant):
            part = await self._store.receive_part(grant, body.read)
            etag, checksum = part.etag, part.checksum
        else:
            stored = await self._store.receive_object(grant, body.read)
            etag, checksum = stored.etag, stored.checksum
        answer = {"etag": etag, "content-length": "0"}
        if checksum is not None:
            answer["x-amz-checksum-crc64nvme"] = checksum.value
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(answer)})
        await send({"type": "http.response.body"})

    async def _send_object(self, grant: GetGrant, scope: Scope, body: _Body, send: Send) -> None:
        file = await self._store.find(grant.key)
        request_headers = Headers(scope=scope)
        wanted = request_headers.get("if-match")
        if wanted is not None and wanted.strip() != "*" and file.etag not in _tags(wanted):
            raise PreconditionFailedError("the object is not the one that was asked for")
        response: Response = _ObjectResponse(file, grant)
        if _IS_NOT_MODIFIED(response.headers, request_headers):
            response = NotModifiedResponse(response.headers)
        await response(scope, body.receive, send)


class _ObjectResponse(FileResponse):
    """An object as an attachment, whatever it is: a page or a drawing of a stranger's must not run in our origin."""

    chunk_size = 1024 * 1024  # its own 64 KiB cost a thread hop each

    def __init__(self, file: StoredFile, grant: GetGrant) -> None:
        content_type = grant.content_type
        super().__init__(
            file.path,
            stat_result=file.stat_result,
            media_type=content_type if _HEADER_VALUE.fullmatch(content_type) else "application/octet-stream",
            headers={
                "etag": file.etag,
                "x-amz-checksum-crc64nvme": file.checksum.value,
                "content-disposition": content_disposition(grant.filename),
                "x-content-type-options": "nosniff",
                "content-security-policy": "default-src 'none'; sandbox",
            },
        )


_IS_NOT_MODIFIED = StaticFiles().is_not_modified
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters; what turns the direction of text around (`exe.fdp` read as `pdf.exe`); halves of characters."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._()+,=@~-]*", re.ASCII)


def content_disposition(filename: str) -> str:
    """The header for a download of any name (RFC 6266, section 4.3): quoted where that is safe, else percent-encoded.

    Never both: parsers differ in which of two names they believe. The real name keeps its slashes; every client that stores by it takes
    the last segment only (section 4.3 again).

    >>> content_disposition("plan.txt")
    'attachment; filename="plan.txt"'
    >>> print(content_disposition('naïve "plan".txt'))
    attachment; filename*=UTF-8''na%C3%AFve%20%22plan%22.txt
    """
    name = _NOT_IN_A_NAME.sub("_", filename) or "download"
    if _PLAIN_NAME.fullmatch(name):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


class _Body:
    """A request's body, as it comes."""

    def __init__(self, receive: Receive, idle_timeout: float) -> None:
        self.receive = receive
        self._idle_timeout = idle_timeout
        self.is_over = False

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            _ClientGoneError: The connection was cut.
            _RefusedError: Nothing came for too long.
        """
        while not self.is_over:
            try:
                async with asyncio.timeout(self._idle_timeout):
                    message = await self.receive()
            except TimeoutError:
                raise _RefusedError(
                    408, "RequestTimeout", "Your socket connection was not read from or written to"
                ) from None
            if message["type"] == "http.disconnect":
                self.is_over = True
                raise _ClientGoneError
            self.is_over = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                return bytes(chunk)
        return b""

    async def drain(self) -> None:
        """Read and drop what still comes, for a while."""
        dropped = 0
        try:
            async with asyncio.timeout(_LINGER_TIME):
                while not self.is_over and dropped < _LINGER_SIZE:
                    dropped += len(await self.read())
        except (TimeoutError, _ClientGoneError, _RefusedError):
            return


def _content_length(headers: Headers) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def _tags(header: str) -> Iterable[str]:
    return [tag.strip() for tag in header.split(",")]


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _with_cors(send: Send) -> Send:
    """Every answer may be read by a page of any origin."""

    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_CORS]
        await send(message)

    return send_with_cors


async def _refuse(refusal: _RefusedError, scope: Scope, body: _Body, send: Send) -> None:
    """Answer with an error. What is left of the body is not read to its end: the connection is of no more use."""
    content = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message></Error>"
    ).encode(errors="replace")
    answer = {"content-type": "application/xml", "content-length": str(len(content)), **refusal.headers}
    has_rest = scope["method"] == "PUT" and not body.is_over
    if has_rest and scope["http_version"].startswith("1"):
        answer["connection"] = "close"
    send = _with_cors(send)
    await send({"type": "http.response.start", "status": refusal.status, "headers": _encoded(answer)})
    await send(
        {
            "type": "http.response.body",
            "body": b"" if scope["method"] == "HEAD" else content,
            "more_body": True,
        }
    )
    if has_rest:
        await body.drain()
    await send({"type": "http.response.body"})
