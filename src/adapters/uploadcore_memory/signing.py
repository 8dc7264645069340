"""Signed URLs that only the store that made them can redeem. Built like S3's: everything in the query, a MAC over all of it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from uploadcore.ports import SignedRequest

__all__ = ["Grant", "StoreResponse", "UrlSigner"]


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """What the store answers to a signed request.

    Attributes:
        status: As over HTTP: 200, 400, 403, 404, 412.
        headers: In lower case.
        body: The object's bytes, or S3's word for what went wrong.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid URL allows: the key, the query's values, and the headers as sent, which were found to be the signed ones."""

    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class UrlSigner:
    """Signs and checks the URLs of one store."""

    def __init__(self, bucket: str) -> None:
        """Make a secret of its own."""
        self._bucket = bucket
        self._secret = secrets.token_bytes(32)

    def sign(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], *, expires_at: datetime
    ) -> SignedRequest:
        """A request for `method` on `key` that must carry exactly this query and these headers."""
        path = f"/{quote(key)}"
        pairs = [*query.items(), ("expires", expires_at.isoformat()), ("signed-headers", ";".join(sorted(headers)))]
        pairs.append(("token", self._token(method, path, pairs, headers)))
        return SignedRequest(method, f"memory://{self._bucket}{path}?{urlencode(pairs)}", dict(headers), expires_at)

    def redeem(self, method: str, url: str, headers: Mapping[str, str], *, now: datetime) -> Grant | StoreResponse:
        """What the URL allows, or the refusal of it. `headers` are those sent, in lower case."""
        split = urlsplit(url)
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=False)
        tokens = [value for name, value in pairs if name == "token"]
        pairs = [(name, value) for name, value in pairs if name != "token"]
        query = dict(pairs)
        names = [name for name in query.get("signed-headers", "").split(";") if name]
        signed = {name: headers.get(name, "") for name in names}
        expected = self._token(method, split.path, pairs, signed)
        if (
            split.netloc != self._bucket
            or len(tokens) != 1
            or not hmac.compare_digest(tokens[0].encode(), expected.encode())
        ):
            return StoreResponse(403, body=b"SignatureDoesNotMatch")
        if now >= datetime.fromisoformat(query["expires"]):
            return StoreResponse(403, body=b"AccessDenied: Request has expired")
        # S3 does the same: a header that steers the store must be among the signed ones.
        if any(name.startswith("x-amz-") and name not in signed for name in headers):
            return StoreResponse(
                403, body=b"AccessDenied: There were headers present in the request which were not signed"
            )
        return Grant(unquote(split.path[1:]), query, headers)

    def _token(self, method: str, path: str, pairs: list[tuple[str, str]], headers: Mapping[str, str]) -> str:
        canonical = "\n".join([method, path, urlencode(sorted(pairs)), urlencode(sorted(headers.items()))])
        return hmac.new(self._secret, canonical.encode(), hashlib.sha256).hexdigest()
