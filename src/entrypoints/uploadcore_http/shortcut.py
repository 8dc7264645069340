"""The way around the router for the one request that has to be fast: signing parts.

A client asks for URLs all through an upload, and answering takes little more than an HMAC per part. Litestar's routing, request object and
injection cost more than that (27 µs of 53 where this was measured). What is not plainly such a request, and well formed, goes the ordinary
way; both ways end in `sign`, and a test holds their answers against each other.
"""

from __future__ import annotations

import re

from uploadcore import UploadCore
from uploadcore_http.asgi import AsgiApp, Receive, Scope, Send
from uploadcore_http.auth import Principal
from uploadcore_http.edge import request_id_of
from uploadcore_http.failures import problem_for
from uploadcore_http.requests import LARGE_BODY, read_body
from uploadcore_http.uploads import SIGN_PATH, sign

__all__ = ["SigningShortcut"]

_PATH = re.compile(r"/v1/uploads/([A-Za-z0-9-]{1,64})/part-urls")
_TEMPLATE = SIGN_PATH.replace(":str", "")


class SigningShortcut:
    """An ASGI application in front of Litestar's, behind `Edge`."""

    def __init__(self, app: AsgiApp, core: UploadCore) -> None:
        """Sign with `core`; leave everything else to `app`."""
        self._app = app
        self._core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
            found = _PATH.fullmatch(scope["path"])
        principal = scope.get("user")
        if found is None or not isinstance(principal, Principal):
            await self._app(scope, receive, send)
            return
        scope["path_template"] = _TEMPLATE
        try:
            answer = await sign(self._core, principal.owner, found[1], await read_body(receive, LARGE_BODY))
        except Exception as error:  # noqa: BLE001 - as in Litestar: whatever it is, the client gets a problem document
            answer = problem_for(error, request_id_of(scope))
        await answer(scope, receive, send)
