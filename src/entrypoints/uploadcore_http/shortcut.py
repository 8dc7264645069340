"""The way around the router for the two requests that have to be fast: signing parts, and reading a file.

A client asks for URLs all through an upload, and answering takes little more than an HMAC per part; a file that everybody looks at is read
from the cache. Litestar's routing, request object and injection cost more than either (27 µs of 53 where this was measured). What is not
plainly such a request, and well formed, goes the ordinary way; both ways end in the same function, and a test holds their answers against
each other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from uploadcore import UploadCore
from uploadcore_http.asgi import AsgiApp, Receive, Scope, Send
from uploadcore_http.auth import Principal
from uploadcore_http.edge import request_id_of
from uploadcore_http.failures import problem_for
from uploadcore_http.files import FILE_PATH, read_file
from uploadcore_http.requests import LARGE_BODY, read_body
from uploadcore_http.responses import BytesResponse
from uploadcore_http.uploads import SIGN_PATH, sign

__all__ = ["Shortcut"]

Way = Callable[[UploadCore, str, Any, Receive], Awaitable[BytesResponse] | None]


def _sign(core: UploadCore, upload_id: str, scope: Any, receive: Receive) -> Awaitable[BytesResponse] | None:
    principal = scope.get("user")
    return _read_and_sign(core, upload_id, principal.owner, receive) if isinstance(principal, Principal) else None


async def _read_and_sign(core: UploadCore, upload_id: str, owner: str, receive: Receive) -> BytesResponse:
    return await sign(core, owner, upload_id, await read_body(receive, LARGE_BODY))


def _read_file(core: UploadCore, file_id: str, scope: Any, receive: Receive) -> Awaitable[BytesResponse]:
    del receive
    principal = scope.get("user")
    caller = principal.owner if isinstance(principal, Principal) else None
    return read_file(core, caller, file_id, scope["headers"])


_ID = "([A-Za-z0-9-]{1,64})"


def _way(path: str, name: str, way: Way) -> tuple[re.Pattern[str], str, Way]:
    return re.compile(path.replace(f"{{{name}:str}}", _ID)), path.replace(":str", ""), way


_FILE = _way(FILE_PATH, "file_id", _read_file)
_WAYS = {"POST": _way(SIGN_PATH, "upload_id", _sign), "GET": _FILE, "HEAD": _FILE}


class Shortcut:
    """An ASGI application in front of Litestar's, behind `Edge`."""

    def __init__(self, app: AsgiApp, core: UploadCore) -> None:
        """Answer with `core` what is to be fast; leave everything else to `app`."""
        self._app = app
        self._core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        answering = None
        if scope["type"] == "http" and not scope["query_string"] and scope["method"] in _WAYS:
            pattern, template, way = _WAYS[scope["method"]]
            found = pattern.fullmatch(scope["path"])
            answering = None if found is None else way(self._core, found[1], scope, receive)
        if answering is None:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = template
        try:
            answer = await answering
        except Exception as error:  # noqa: BLE001 - as in Litestar: whatever it is, the client gets a problem document
            answer = problem_for(error, request_id_of(scope))
        await answer(scope, receive, send)
