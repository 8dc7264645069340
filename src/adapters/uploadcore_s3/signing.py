r"""Pre-signed URLs by Signature Version 4, in the query: the hot path of a service that hands out thousands of them.

What is signed, and in which form, is Amazon's: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the Amazon S3
API reference. The payload is never hashed (`UNSIGNED-PAYLOAD`): a URL is signed before there is one.

An SDK begins anew for each URL. A batch of parts shares all but a number and a few header values, and SHA-256 can be copied in the middle:

    PUT\n/media/key\nX-Amz-Algorithm=…&…&X-Amz-SignedHeaders=content-length%3Bhost&partNumber= │ 7&uploadId=…\ncontent-length:…\nhost:…\n…
    AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n                   │ hash of the above

The canonical query is sorted, and `partNumber` comes after every `X-Amz-…` parameter, which is the long half of it. So what stands left of the
bar is hashed once a batch; the signing key, derived and set up within its HMAC, once for all URLs of a day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from operator import itemgetter
from typing import Literal
from urllib.parse import quote, urlsplit

from uploadcore_s3.sigv4 import (
    MAX_EXPIRES_IN,
    PAYLOAD,
    Credentials,
    Grant,
    Identity,
    Instant,
    SignedNames,
    canonical_value,
    encoded,
    signed_names,
)

__all__ = ["MAX_EXPIRES_IN", "Credentials", "QuerySigner"]

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NONE: Mapping[str, str] = {}

_ENDPOINT = re.compile(
    r"""https?://
    (?: \[[0-9A-Fa-f:.]+\] | [A-Za-z0-9._-]+ ) (?: :[0-9]{1,5} )?  # the authority; no user: it would be in every URL
    (?: / (?: [A-Za-z0-9._~!$&'()*+,;=:@/-] | %[0-9A-Fa-f]{2} )* )?""",
    re.ASCII | re.VERBOSE,
)
_IP_ADDRESS = re.compile(r"\[|[0-9.]+(?::|$)", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
"""What any store takes: 255 characters and underscores are Amazon's oldest buckets."""
_SCOPE_WORD = re.compile(r"[\x21-\x2e\x30-\x7e]+", re.ASCII)
"""Printable, and no slash: that is what a scope's words are joined by."""
_METHOD = re.compile(r"[A-Za-z]+", re.ASCII)
_RESERVED = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
    }
)
"""The signature's own query parameters."""


class QuerySigner:
    """Signs URLs of the objects of one bucket. Holds the key it derived last; may be used by any number of threads.

    Args:
        endpoint: Where clients reach the store: `http(s)://host[:port][/prefix]`.
        bucket: Its name.
        region: As the store checks it.
        addressing: `path`: the bucket is the path's first segment. `virtual`: it is the host's first label.
        service: As the store checks it.

    Raises:
        ValueError: One of these can't be signed for.

    >>> signer = QuerySigner("https://s3.amazonaws.com", bucket="examplebucket", region="us-east-1", addressing="virtual")
    >>> example = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    >>> from datetime import UTC
    >>> day = datetime(2013, 5, 24, tzinfo=UTC)
    >>> url = signer.presign(example, "GET", "test.txt", now=day, expires_in=timedelta(days=1))
    >>> url.rpartition("=")[2]
    'aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404'
    """

    def __init__(
        self,
        endpoint: str,
        *,
        bucket: str,
        region: str,
        addressing: Literal["path", "virtual"] = "path",
        service: str = "s3",
    ) -> None:
        if not _BUCKET.fullmatch(bucket) or bucket in {".", ".."}:
            raise ValueError(f"{bucket!r} is no name of a bucket")
        for word in (region, service):
            if not _SCOPE_WORD.fullmatch(word):
                raise ValueError(f"{word!r} is no name of a region or service")
        origin, self._host, path = _endpoint(endpoint)
        if addressing == "virtual":
            scheme, _, authority = origin.partition("://")
            if _IP_ADDRESS.match(self._host):
                raise ValueError(f"{endpoint!r} has an address for a host: a bucket can't be its first label")
            origin, self._host = f"{scheme}://{bucket}.{authority}", f"{bucket.lower()}.{self._host}"
        else:
            path = f"{path}/{bucket}"
        self._origin, self._path = origin, path
        self._region, self._service = region, service
        self._identity: Identity | None = None

    def presign(
        self,
        credentials: Credentials,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        now: datetime,
        expires_in: timedelta,
    ) -> str:
        """A URL for one request.

        Args:
            credentials: Whose request it is.
            method: Of the request.
            key: Of the object, as it is: not encoded. Empty: the bucket itself.
            query: Further parameters, as they are.
            headers: What the client must send exactly so, `host` besides.
            now: From when on it is good.
            expires_in: For how long, in whole seconds, rounded down; 1 s to 7 days.

        Raises:
            ValueError: The time, the method or a name can't be signed.
            InvalidRequestError: A header's value can't be sent.
        """
        if not _METHOD.fullmatch(method):
            raise ValueError(f"{method!r} is no method")
        if not _RESERVED.isdisjoint(query):
            raise ValueError("a parameter of the signature is no parameter of the request")
        grant = self._grant(credentials, now, expires_in)
        path = self._encoded_path(key)
        names = signed_names(tuple(headers))
        asked = [(encoded(name), encoded(value)) for name, value in query.items()]
        own = [pair.partition("=")[::2] for pair in grant.canonical(names).split("&")]
        lines = {name.lower(): canonical_value(name, headers[name]) for name in names.given}
        lines["host"] = self._host
        request = "\n".join(
            (
                method.upper(),
                path,
                "&".join([f"{name}={value}" for name, value in sorted(asked + own)]),
                *(f"{name}:{lines[name]}" for name in names.all),
                "",
                names.joined,
                PAYLOAD,
            )
        )
        signature = grant.hmac.signed(sha256(request.encode()).hexdigest())
        parameters = "".join([f"{name}={value}&" for name, value in asked])
        return f"{self._origin}{path}?{parameters}{grant.written(names)}&X-Amz-Signature={signature}"

    def presign_parts(
        self,
        credentials: Credentials,
        key: str,
        storage_upload_id: str,
        parts: Sequence[tuple[int, Mapping[str, str]]],
        *,
        now: datetime,
        expires_in: timedelta,
    ) -> list[str]:
        """A URL to PUT each part, in order.

        Args:
            credentials: Whose request it is.
            key: Of the object, as it is: not encoded.
            storage_upload_id: Of the multipart upload.
            parts: Each part's number and the headers its PUT must carry exactly so, `host` besides. Parts with the same headers are
                fastest where they share *one* mapping.
            now: From when on they are good.
            expires_in: For how long, in whole seconds, rounded down; 1 s to 7 days.

        Raises:
            ValueError: The time, the key, the id or a header's name can't be signed.
            InvalidRequestError: A header's value can't be sent.
        """
        if not storage_upload_id or not key:
            raise ValueError("a part belongs to a multipart upload, and that to a key")
        grant = self._grant(credentials, now, expires_in)
        path = self._encoded_path(key)
        upload_id = encoded(storage_upload_id)
        start = f"{self._origin}{path}?uploadId={upload_id}&partNumber="
        inner, outer = grant.hmac.inner, grant.hmac.outer
        kinds: dict[tuple[str, ...], _PartKind] = {}
        last: Mapping[str, str] | None = None
        names: tuple[str, ...] | None = None
        values: tuple[str, ...] | None = None
        signed: list[str] = []
        # Hot: a thousand of these to a call, and nothing but their three hashes should be felt. Hence methods looked up outside the loop,
        # one concatenation for each string, and three questions in turn, the cheapest first, whether anything is new about the headers.
        for number, headers in parts:
            if headers is not last:
                last, latest = headers, tuple(headers)
                if latest != names:
                    names, values = latest, None
                    kind = kinds.get(latest)
                    if kind is None:
                        kind = kinds[latest] = _PartKind(signed_names(latest), self._host, path, upload_id, grant)
                    begun, middle, valued, tail_with = kind.begun, kind.middle, kind.valued, kind.tail
                given = valued(headers)
                if given != values:
                    values, tail = given, tail_with(given)
            digits = str(number)
            request = begun.copy()
            request.update(digits.encode() + tail)
            message = inner.copy()
            message.update(request.hexdigest().encode())
            signature = outer.copy()
            signature.update(message.digest())
            signed.append(f"{start}{digits}{middle}{signature.hexdigest()}")
        return signed

    def _grant(self, credentials: Credentials, now: datetime, expires_in: timedelta) -> Grant:
        """Derives a key where the one at hand is another identity's, or another day's."""
        identity, instant = self._identity, Instant.of(now)
        if identity is None or identity.day != instant.day or identity.credentials != credentials:
            identity = self._identity = Identity.derive(credentials, instant.day, self._region, self._service)
        return identity.grant(instant, expires_in)

    def _encoded_path(self, key: str) -> str:
        return f"{self._path}/{quote(key, safe='/')}"


class _PartKind:
    """What parts share whose signed headers have the same names.

    Attributes:
        begun: Hash of the canonical request up to the part number.
        middle: The URL from behind the part number up to the signature.
        valued: Picks the values out of the headers, in canonical order.
    """

    __slots__ = ("_given", "_pieces", "begun", "middle", "valued")

    def __init__(self, names: SignedNames, host: str, path: str, upload_id: str, grant: Grant) -> None:
        self._given = names.given
        self.valued = _picker(names.given)
        self.begun = sha256(f"PUT\n{path}\n{grant.canonical(names)}&partNumber=".encode())
        self.middle = f"&{grant.written(names)}&X-Amz-Signature="
        # What is constant at even places, and at the odd ones the values.
        self._pieces = [f"&uploadId={upload_id}"]
        for name in names.all:
            if name == "host":
                self._pieces[-1] += f"\nhost:{host}"
            else:
                self._pieces[-1] += f"\n{name}:"
                self._pieces += ["", ""]
        self._pieces[-1] += f"\n\n{names.joined}\n{PAYLOAD}"

    def tail(self, values: tuple[str, ...]) -> bytes:
        """The canonical request from behind the part number on, with what `valued` picked."""
        text = "".join(values)
        if not (text.isascii() and text.isprintable()) or " " in text:
            values = tuple(map(canonical_value, self._given, values))
        self._pieces[1::2] = values
        return "".join(self._pieces).encode()


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, str]], tuple[str, ...]]:
    """What picks these values: `itemgetter`, which for fewer than two names makes no tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda headers: tuple([headers[name] for name in names])


def _endpoint(endpoint: str) -> tuple[str, str, str]:
    """Scheme and authority as written, the `host` header a client sends for them, and the path without its trailing slash."""
    if not _ENDPOINT.fullmatch(endpoint):
        raise ValueError("an endpoint is http(s)://host[:port][/prefix], without user, query or fragment")
    parts = urlsplit(endpoint)
    host = parts.netloc.lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{parts.netloc}", host, parts.path.rstrip("/")
