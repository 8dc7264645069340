"""Answers, ready to send. Litestar passes any ASGI callable through as it is, which spares signing its response machinery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from uploadcore_http.asgi import Receive, Scope, Send

__all__ = ["BytesResponse", "json_response"]

_NO_HEADERS: Mapping[str, str] = {}
_encode = msgspec.json.Encoder().encode


class BytesResponse:
    """A status, a few headers and a body that is in memory already."""

    __slots__ = ("_headers", "_status", "body")

    def __init__(
        self, body: bytes, status: int = 200, content_type: str | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        """Encode the head; nothing is sent yet."""
        encoded = [(b"content-length", str(len(body)).encode())] if status not in {204, 304} else []
        if content_type is not None:
            encoded.append((b"content-type", content_type.encode()))
        for name, value in headers.items():
            encoded.append((name.encode("ascii"), value.encode("latin-1")))
        self.body = body
        self._headers = encoded
        self._status = status

    def to_asgi_response(self, *_: Any, **__: Any) -> Self:
        """This, which is one already: Litestar asks what an exception handler returns for it."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; to HEAD, the head only."""
        del receive
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> BytesResponse:
    """A struct as JSON."""
    return BytesResponse(_encode(value), status, "application/json", headers)
