"""Who asks: the authenticator's contract, and the developer on loopback who needs no token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from uploadcore.errors import ForbiddenError
from uploadcore_app import is_loopback
from uploadcore_http.asgi import Scope

__all__ = ["Authenticator", "LoopbackDeveloper", "Principal", "bearer_token", "is_direct_loopback"]

FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})
"""What a proxy adds: a request that has one does not come from this machine, whoever the peer is."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was recognised. `owner` is whose uploads and files they see."""

    owner: str


Authenticator = Callable[[Scope], Awaitable[Principal | None]]
"""Recognises who sent a request. `None` means nobody, which is answered with 401; an `UploadCoreError` is answered as what it is."""


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The token of the one `Authorization: Bearer` header; `None` if there is none, or more than one."""
    token = None
    for name, value in headers:
        if name == b"authorization":
            if token is not None:
                return None
            scheme, _, token = value.partition(b" ")
            if scheme.lower() != b"bearer":
                return None
    return token or None


def is_direct_loopback(scope: Mapping[str, Any]) -> bool:
    """Whether the peer is on this machine, with no proxy between."""
    client = scope.get("client")
    if not client or not is_loopback(client[0]):
        return False
    return not any(name in FORWARDED for name, _ in scope["headers"])


class LoopbackDeveloper:
    """Takes everybody on this machine for one developer, `dev`. Only for a server that listens on loopback.

    A browser on this machine also carries other people's pages. So a request that names another host (DNS rebinding) or comes from
    another origin is refused, even without any token to steal.
    """

    PRINCIPAL = Principal(owner="dev")

    def __init__(self, origins: Collection[str] = ()) -> None:
        """Take requests from pages of these origins too."""
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope) -> Principal | None:
        """The developer, or nobody."""
        if not is_direct_loopback(scope):
            return None
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not _names_loopback(hosts[0]):
            raise ForbiddenError(
                "without authentication configured, only requests to 127.0.0.1 or localhost are served"
            )
        own = f"{scope['scheme']}://".encode() + hosts[0]
        for name, value in scope["headers"]:
            if name == b"origin" and value != own and value not in self._origins:
                raise ForbiddenError("a page of another origin may not do this: see UPLOADCORE_CORS_ORIGINS")
            if name == b"sec-fetch-site" and value == b"cross-site" and not self._has_origin(scope):
                raise ForbiddenError("a page of another site may not do this")
        return self.PRINCIPAL

    @staticmethod
    def _has_origin(scope: Scope) -> bool:
        """Whether there is an `Origin`, which says more exactly what `Sec-Fetch-Site` says."""
        return any(name == b"origin" for name, _ in scope["headers"])


def _names_loopback(host: bytes) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host.decode('ascii')}").hostname or "")
    except ValueError:
        return False
