"""Calls to the service's `/v1`. Small, idempotent all of them, tried again where that may help; no file content passes here."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

from uploadcore import errors
from uploadcore.file import Checksum
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.connection import NO_ADDRESS, Connection, Timeouts, retry_after_of
from uploadcore_client.errors import ServerUnreachableError, UnauthenticatedError, UnexpectedAnswerError
from uploadcore_client.retry import RetryBudget, RetryPolicy, TransientError
from uploadcore_client.tracing import call_name, span, tell_status, trace_headers
from uploadcore_client.wire import Arrived, File, Listing, SignedPart, Upload

__all__ = ["Api", "Session", "to_error"]

T = TypeVar("T")

ANSWER_LIMIT = 16 * 1024 * 1024
"""Bytes of an answer: 1,000 signed parts are about 1 MiB."""
WORTH_ANOTHER_TRY = frozenset({429, 502, 503, 504})
"""Not 500: that is a defect of the service, and a minute of silence does not mend it."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """A 2xx or 3xx answer. `document` is what it says; empty where it says nothing."""

    status: int
    headers: Mapping[str, str]
    document: Mapping[str, Any]

    @property
    def server_time(self) -> datetime:
        """The service's own time: a URL's life is measured by it, whatever this machine's clock says."""
        try:
            return parsedate_to_datetime(self.headers["date"])
        except (KeyError, ValueError):
            return datetime.now(UTC)

    def read(self, parse: Callable[[Any], T], *keys: str) -> T:
        """What a member (of a member …) says.

        Raises:
            UnexpectedAnswerError: It is not there, or not of that shape: whatever answers is no service of ours.
        """
        try:
            found: Any = self.document
            for key in keys:
                found = found[key]
            return parse(found)
        except (LookupError, TypeError, ValueError, AttributeError, errors.InvalidRequestError) as exc:
            what = "what answers there is no uploadcore service, or one this client does not understand"
            raise UnexpectedAnswerError(what, status=self.status) from exc


class Api:
    """The service at one address, for one principal. Safe for use by several threads.

    Args:
        url: Its address, as `http://host:port`, with a path if it is mounted under one.
        token: Bearer token, or `None`. Kept out of every message and log.
        retry: How often to try.
        timeouts: How long to wait.
        tls: For `https`; by default the system's trusted authorities.

    Raises:
        InvalidRequestError: If `url` is no such address.
    """

    def __init__(
        self, url: str, token: str | None, *, retry: RetryPolicy, timeouts: Timeouts, tls: ssl.SSLContext | None = None
    ) -> None:
        if not _is_address(url):
            raise errors.InvalidRequestError("the server's address is http://host:port or https://host")
        self.url = url.rstrip("/")
        self.retry = retry
        self._headers = {"Accept": "application/json", "User-Agent": "uploadcore"}
        if token:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise errors.InvalidRequestError("the token has characters that no token has")
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeouts = timeouts
        self._tls = tls
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._has_answered = False

    def close(self) -> None:
        """Close the idle connections. Idempotent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def session(self, cancellation: Cancellation, budget: RetryBudget) -> Session:
        """The calls, under one cancellation and one budget."""
        return Session(self, cancellation, budget)

    def exchange(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], cancellation: Cancellation
    ) -> _Reply:
        """One try of one call.

        Raises:
            TransientError: Another try may succeed.
            UploadCoreError: It may not; the error has the answer's code.
        """
        with span(call_name(method, path), is_call=True):
            return self._exchanged(method, path, body, headers, cancellation)

    def _exchanged(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], cancellation: Cancellation
    ) -> _Reply:
        sent = {**self._headers, **headers, **trace_headers()}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        with self._connection(cancellation) as connection:
            try:
                answer, received = connection.request(method, self.url + path, sent, content, limit=ANSWER_LIMIT)
            except TransientError as exc:
                # Refused from the start: nobody is there, and waiting a minute to say so helps nobody.
                if isinstance(exc.error, ServerUnreachableError) and exc.error.refused and not self._has_answered:
                    raise exc.error from exc
                raise
        tell_status(answer.status)
        self._has_answered = True
        document = _document(received)
        if answer.status < 400:
            return _Reply(answer.status, answer.headers, document)
        error = to_error(answer.status, document, retry_after=answer.retry_after)
        if answer.status in WORTH_ANOTHER_TRY or isinstance(error, errors.UploadBusyError):
            raise TransientError(error, retry_after=answer.retry_after)
        raise error

    @contextmanager
    def _connection(self, cancellation: Cancellation) -> Iterator[Connection]:
        """A connection for one call: an idle one, or a new one. `urllib3`'s pools know no way to cut a call."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = Connection(cancellation, self._timeouts, self._tls)
        connection.serve(cancellation)
        try:
            yield connection
        finally:
            connection.serve(_NOBODY)
            with self._lock:
                self._idle.append(connection)


_NOBODY = Cancellation()
"""What cuts a connection that is idle: nothing."""


class Session:
    """The calls of one transfer. Each may raise any `UploadCoreError` the service answers with."""

    def __init__(self, api: Api, cancellation: Cancellation, budget: RetryBudget) -> None:
        self._api = api
        self.cancellation = cancellation
        self.budget = budget

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._api.url

    def without_retries(self) -> Session:
        """The same, each call tried once."""
        return Session(self._api, self.cancellation, RetryBudget(0))

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> _Reply:
        """Call, and try again while that may help."""
        return self.retrying(lambda: self._api.exchange(method, path, body, headers or {}, self.cancellation))

    def retrying(self, attempt: Callable[[], T]) -> T:
        """Anything else under the same policy, budget and cancellation."""
        return self._api.retry.call(attempt, cancellation=self.cancellation, budget=self.budget)

    def initiate(self, body: Mapping[str, Any], *, idempotency_key: str) -> tuple[Upload, datetime]:
        """Begin an upload, or get the one this key began before; with the service's time."""
        answer = self.call("POST", "/v1/uploads", body, {"Idempotency-Key": idempotency_key})
        return answer.read(Upload.parse), answer.server_time

    def upload(self, upload_id: str) -> Upload:
        """One upload."""
        return self.call("GET", _upload(upload_id)).read(Upload.parse)

    def uploads(self, *, state: str | None = None, fingerprint: str | None = None) -> Iterator[Upload]:
        """Own uploads, newest first, page by page."""
        query = {key: value for key, value in {"state": state, "fingerprint": fingerprint}.items() if value is not None}
        while True:
            answer = self.call("GET", f"/v1/uploads?{urlencode(query)}")
            yield from answer.read(lambda found: [Upload.parse(each) for each in found], "uploads")
            after = answer.document.get("next")
            if not after:
                return
            query["cursor"] = str(after)

    def parts(self, upload_id: str) -> Iterator[Arrived]:
        """Every part the store lists, in order, page by page."""
        after: int | None = 0
        while after is not None:
            page = self.call("GET", f"{_upload(upload_id)}/parts?after={after}&limit=1000").read(Listing.parse)
            yield from page.parts
            after = page.next

    def sign(self, upload_id: str, part_numbers: Sequence[int]) -> tuple[list[SignedPart], datetime]:
        """URLs for up to 1,000 parts; with the service's time."""
        answer = self.call("POST", f"{_upload(upload_id)}/part-urls", {"part_numbers": list(part_numbers)})
        parts = answer.read(lambda found: [SignedPart.parse(each) for each in found], "parts")
        return parts, answer.server_time

    def complete(self, upload_id: str, *, size: int, checksum: Checksum | None) -> File | float:
        """The file; or, while the store assembles, how many seconds later to ask again."""
        body: dict[str, Any] = {"size": size}
        if checksum is not None:
            body["checksum"] = {"algorithm": str(checksum.algorithm), "value": checksum.value}
        answer = self.call("POST", f"{_upload(upload_id)}/complete", body)
        if answer.status == 202:
            return retry_after_of(answer.headers) or 1.0
        return answer.read(File.parse, "file")

    def abort(self, upload_id: str) -> None:
        """Drop an upload. Idempotent."""
        self.call("DELETE", _upload(upload_id))

    def file(self, file_id: str) -> File:
        """One file."""
        return self.call("GET", f"/v1/files/{quote(file_id, safe='')}").read(File.parse)

    def content_url(self, file_id: str) -> str:
        """A signed URL of a file's content."""
        path = f"/v1/files/{quote(file_id, safe='')}/content"
        answer = self.call("GET", path)
        if answer.status != 307 or "location" not in answer.headers:
            raise UnexpectedAnswerError("the service did not say where the content is", status=answer.status)
        try:
            return urljoin(self.url + path, answer.headers["location"])
        except ValueError:  # its words might quote the URL
            raise UnexpectedAnswerError(NO_ADDRESS, status=answer.status) from None


def to_error(status: int, problem: Mapping[str, Any], *, retry_after: float | None = None) -> errors.UploadCoreError:
    """The core's error for a problem document: the same `code`, the same attributes.

    >>> to_error(404, {"code": "upload_not_found", "upload_id": "u1"})
    UploadNotFoundError("there is no upload 'u1' of yours")
    """
    code = str(problem.get("code") or "")
    detail = str(problem.get("detail") or problem.get("title") or f"the service answered {status}")
    upload_id = str(problem.get("upload_id") or "")
    file_id = str(problem.get("file_id") or "")
    wait = round(retry_after or 1)
    built: dict[str, Callable[[], errors.UploadCoreError]] = {
        "upload_not_found": lambda: errors.UploadNotFoundError(upload_id=upload_id),
        "file_not_found": lambda: errors.NoSuchFileError(file_id=file_id),
        "upload_busy": lambda: errors.UploadBusyError(detail, upload_id=upload_id, retry_after=wait),
        "upload_closed": lambda: errors.UploadClosedError(
            upload_id=upload_id, state=str(problem.get("state") or "closed"), reason=problem.get("reason")
        ),
        "parts_missing": lambda: errors.PartsMissingError(
            upload_id=upload_id,
            missing=[(first, last) for first, last in problem.get("missing") or ()],
            mismatched=list(problem.get("mismatched") or ()),
            message=detail,
        ),
        "file_not_ready": lambda: errors.FileNotReadyError(
            file_id=file_id, status=str(problem.get("state") or "not ready")
        ),
        "overloaded": lambda: errors.OverloadedError(detail, retry_after=wait),
        "rate_limited": lambda: errors.OverloadedError(detail, retry_after=wait),
    }
    if code in built:
        return built[code]()
    kind = _PLAIN.get(code)
    if kind is not None:
        return kind(detail, upload_id=upload_id or None, file_id=file_id or None)
    if status == 401:
        return UnauthenticatedError(detail)
    return UnexpectedAnswerError(detail, status=status, answered_code=code, upload_id=upload_id or None)


_PLAIN: dict[str, type[errors.UploadCoreError]] = {
    kind.code: kind
    for kind in (
        errors.ChecksumMismatchError,
        errors.ContentTypeNotAllowedError,
        errors.DatabaseUnavailableError,
        errors.ForbiddenError,
        errors.IdempotencyMismatchError,
        errors.InvalidRequestError,
        errors.PartOutOfRangeError,
        errors.QuotaExceededError,
        errors.StorageFullError,
        errors.StoreUnavailableError,
        errors.TooLargeError,
        errors.VersionConflictError,
        UnauthenticatedError,
    )
}
"""Errors that are a code and a sentence."""


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # no port is looked at before it is asked for
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and not parts.query and not parts.fragment


def _upload(upload_id: str) -> str:
    return f"/v1/uploads/{quote(upload_id, safe='')}"


def _document(content: bytes) -> Mapping[str, Any]:
    """What an answer says, if that is a JSON object."""
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
