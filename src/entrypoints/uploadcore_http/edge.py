"""The one layer around the application: every request passes it, and it does what no route may forget.

Request id, authentication of all of `/v1`, refusal when there is too much to do, the log line, metrics, and `Connection: close` while
draining. One layer, and plain ASGI, because signing a part costs about as much as two layers of middleware.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import unquote

from msgspec import UNSET
from starlette.middleware.cors import CORSMiddleware

from uploadcore.errors import InvalidRequestError, OverloadedError
from uploadcore_app import Tracing
from uploadcore_http.asgi import AsgiApp, Message, Receive, Scope, Send
from uploadcore_http.auth import Authenticator, Principal
from uploadcore_http.failures import problem_for
from uploadcore_http.lifecycle import Lifecycle
from uploadcore_http.links import Links
from uploadcore_http.logs import RequestLine, RequestLog
from uploadcore_http.metrics import Metrics
from uploadcore_http.problems import PROBLEM_KEY, RouteNotFoundError, UnauthenticatedError
from uploadcore_http.rate_limit import RateLimit

__all__ = ["Edge", "request_id_of"]

DATA = "/data"
"""Where the filesystem store's signed URLs lead."""
UNMATCHED = "unmatched"
"""What logs and metrics call the route of a request that matched none: a path would be unbounded, and may hold a secret."""
REFUSED = "refused"
"""What they call it of a request to `/v1` that was refused before anybody looked: that is the API's answer, and alerts have to see it."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ID_KEY = "uploadcore_request_id"
_PUBLIC = re.compile(r"/v1/files/[A-Za-z0-9-]{1,64}(?:/content)?")
"""What may be asked for without a token: the answer then is that of a public file, or that there is none."""
_READS = frozenset({"GET", "HEAD"})
_AT_THE_STORE = {
    "POST": re.compile(r"/v1/uploads(?:/[^/]+/complete)?"),
    "GET": re.compile(r"/v1/uploads/[^/]+/parts"),
    "DELETE": re.compile(r"/v1/.*"),
}
"""Requests that call the store, and wait for as long as it takes: they leave room for those that don't."""
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_NO_STORE = (b"cache-control", b"no-store")
"""On every answer that does not say otherwise: answers hold signed URLs."""
_CLOSE = (b"connection", b"close")


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The id `Edge` has given this request."""
    return str(scope["state"][_ID_KEY])


class Edge:
    """An ASGI application around another.

    Args:
        app: Litestar's, routes and exception handlers included.
        authenticate: Recognises who asks.
        lifecycle: Tells when to close connections.
        metrics: Where requests are counted.
        data: The endpoint of the store's signed URLs, if it is ours to serve. It has its own rules for bodies, errors and headers.
        public_url: Where clients reach the application; `None`: as they reached it with this request.
        cors_origins: Origins of browser applications.
        max_in_flight: Requests served at a time; more are told to come back. Half of them at most may be such as wait for the store, so that
            one that hangs does not keep others from being served.
        rate_limit: How often one caller may ask the API; `None`: as often as they like.
        log_request: Writes the line each request has in the log; `None`: it has none.
        tracing: Makes the span each request has; `None`: it has none.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        authenticate: Authenticator,
        lifecycle: Lifecycle,
        metrics: Metrics,
        data: AsgiApp | None = None,
        public_url: str | None = None,
        cors_origins: Collection[str] = (),
        max_in_flight: int = 1_000,
        rate_limit: RateLimit | None = None,
        log_request: RequestLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._data = data
        self._public_links = None if public_url is None else Links(public_url.rstrip("/"))
        self._max_in_flight = max_in_flight
        self._at_the_store = 0
        self._in_flight = 0  # of the API: without the bodies of files, which take as long as they take
        self._rate_limit = rate_limit
        self._log_request = log_request
        self._tracing = tracing
        self._served: Any = self._serve
        if (
            cors_origins
        ):  # around what is refused here too: a page that may not read a 401 can't tell it from a broken network
            self._served = CORSMiddleware(
                self._serve,
                allow_origins=tuple(cors_origins),
                allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
                allow_headers=(
                    "authorization",
                    "content-type",
                    "idempotency-key",
                    "if-match",
                    "if-none-match",
                    "x-request-id",
                ),
                expose_headers=("etag", "location", "retry-after", "x-request-id"),
                max_age=7200,
            )
        self._ids = count(1)
        self._id_prefix = secrets.token_hex(6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        metrics = self._metrics
        request_id = self._request_id(scope)
        base, path = _placed(scope)
        state: dict[str, Any] = {_ID_KEY: request_id}
        (self._public_links or Links(base)).put_into(state)
        # A scope of our own: a host that mounts us, Litestar above all, keeps its own state in the one it passes.
        inner: Any = dict(scope, path=path, root_path="", state=state, path_params={})
        inner.pop("user", None)
        inner.pop("path_template", None)
        answer = _Answer(send, request_id, closes=self._lifecycle.is_draining)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        span = None if self._tracing is None else self._tracing.request(method, scope["headers"])
        if span is not None:
            span.begin()
        metrics.in_flight += 1
        try:
            if self._data is not None and path.startswith(f"{DATA}/"):
                inner["path_template"] = DATA
                await self._data(inner, receive, answer.send_as_it_is)
            else:
                await self._served(inner, receive, answer.send)
        finally:
            metrics.in_flight -= 1
            seconds = time.perf_counter() - began
            route = inner.get("path_template") or UNMATCHED
            metrics.observe(method, route, answer.status, seconds)
            problem = state.get(PROBLEM_KEY)
            if problem is not None:
                metrics.problems[problem] += 1
            if self._log_request is not None:
                principal = inner.get("user")
                owner = principal.owner if isinstance(principal, Principal) else None
                ms, now = round(seconds * 1000, 2), datetime.now(UTC)
                trace_id = UNSET if span is None else span.trace_id
                self._log_request(RequestLine(request_id, method, route, answer.status, ms, owner, now, trace_id))
            if span is not None:
                span.answered(method, route, answer.status, request_id, problem)

    async def _serve(self, scope: Any, receive: Receive, send: Send) -> None:
        counts = scope["path"].startswith("/v1/")  # no other is ever refused for how many there are
        self._in_flight += counts
        calls_store = _calls_store(scope)
        self._at_the_store += calls_store
        try:
            await self._admit(scope, calls_store=calls_store)
        except Exception as error:  # noqa: BLE001 - authenticators are the host's: whatever they raise, the client gets a problem
            if scope["path"].startswith("/v1/"):
                scope["path_template"] = REFUSED
            await problem_for(error, request_id_of(scope))(scope, receive, send)
        else:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= counts
            self._at_the_store -= calls_store

    async def _admit(self, scope: Any, *, calls_store: bool) -> None:
        """Let a request pass to the application; those to `/v1` only with the principal that sent them, but for public files."""
        path = scope["path"]
        if "\0" in path or b"%00" in scope["query_string"]:
            raise InvalidRequestError("U+0000 is in the address")
        if "//" in path:
            # Litestar would take it for the path without the empty segments; then what is public would depend on who reads it.
            raise RouteNotFoundError
        if not path.startswith("/v1/"):
            return
        if self._in_flight > self._max_in_flight:
            raise OverloadedError("too many requests are being served", retry_after=1)
        if calls_store and 2 * self._at_the_store > self._max_in_flight + 1:
            raise OverloadedError("too many requests wait for the object store", retry_after=2)
        if scope["method"] != "OPTIONS":
            principal = await self._authenticate(scope)
            if principal is not None:
                scope["user"] = principal
            elif not _may_be_anybody(scope):
                raise UnauthenticatedError
            if self._rate_limit is not None:
                self._rate_limit.admit(scope, principal)

    def _request_id(self, scope: Scope) -> str:
        """The caller's id for this request if it is a plain one, else one of our own."""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                return value.decode() if _REQUEST_ID.fullmatch(value) else self._new_id()
        return self._new_id()

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids):x}"


class _Answer:
    """Watches the answer go by, and adds what every answer has."""

    __slots__ = ("_closes", "_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: str, *, closes: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._closes = closes
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self._request_id.encode()), _NOSNIFF]
            for name, _ in message["headers"]:
                if name == b"cache-control":
                    break
            else:
                headers.append(_NO_STORE)
            if self._closes:
                headers.append(_CLOSE)
            message["headers"] = headers
        await self._send(message)

    async def send_as_it_is(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self._request_id.encode())]
            if self._closes:
                headers.append(_CLOSE)
            message["headers"] = headers
        await self._send(message)


def _may_be_anybody(scope: Any) -> bool:
    """Whether a request by nobody is one for a public file. A token that proves nothing is no such request: who has one wants to be somebody."""
    if scope["method"] not in _READS or _PUBLIC.fullmatch(scope["path"]) is None:
        return False
    return all(name != b"authorization" for name, _ in scope["headers"])


def _calls_store(scope: Any) -> bool:
    paths = _AT_THE_STORE.get(scope["method"])
    return paths is not None and paths.fullmatch(scope["path"]) is not None


def _placed(scope: Scope) -> tuple[str, str]:
    """What this application is mounted under, and the path within it.

    Starlette and FastAPI leave the path whole and say in `root_path` what to take off. Litestar takes it off, says nothing, and adds a
    slash at the end; there the raw path tells.
    """
    path = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root:
        if path == root or path.startswith(f"{root}/"):
            path = path[len(root) :]
    elif len(scope.get("raw_path", path)) != len(path):
        raw = unquote(scope["raw_path"].decode("latin-1")).rstrip("/")
        inner = path.rstrip("/")
        if raw.endswith(inner):
            root = raw[: len(raw) - len(inner)]
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]
    return root, path or "/"
