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

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from operator import itemgetter
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from uploadcore.errors import InvalidRequestError

if TYPE_CHECKING:
    from _hashlib import HASH

__all__ = ["MAX_EXPIRES_IN", "Credentials", "QuerySigner"]

MAX_EXPIRES_IN = timedelta(days=7)
"""604,800 s: "The minimum value you can set is 1, and the maximum is 604800" (`X-Amz-Expires` in the S3 API reference)."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_PAYLOAD = "UNSIGNED-PAYLOAD"
_TERMINATOR = "aws4_request"
"""The last word of every scope."""
_SECOND = timedelta(seconds=1)
_MAX_SECONDS = MAX_EXPIRES_IN // _SECOND
_BLOCK_SIZE = 64
"""Bytes: SHA-256's block, to which HMAC fits its key (RFC 2104, section 2)."""
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
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""A token (RFC 9110, section 5.6.2)."""
_UNSIGNABLE = frozenset(
    {
        "baggage",
        "connection",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amz-content-sha256",
        "x-amzn-trace-id",
    }
)
"""Headers that change on their way; the host, which is always signed; and the payload's hash, which never is."""
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


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What signs. `expires_at` is when the store stops honouring them, None for those that last; `repr` hides all but that."""

    access_key: str
    secret_key: str
    session_token: str | None = None
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        """Show no key and no token."""
        return f"Credentials(…, expires_at={self.expires_at and self.expires_at.isoformat()})"


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
        self._identity: _Identity | None = None

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
        names = _signed_names(tuple(headers))
        asked = [(_encoded(name), _encoded(value)) for name, value in query.items()]
        own = [pair.partition("=")[::2] for pair in grant.canonical(names).split("&")]
        lines = {name.lower(): _canonical_value(name, headers[name]) for name in names.given}
        lines["host"] = self._host
        request = "\n".join(
            (
                method.upper(),
                path,
                "&".join([f"{name}={value}" for name, value in sorted(asked + own)]),
                *(f"{name}:{lines[name]}" for name in names.all),
                "",
                names.joined,
                _PAYLOAD,
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
        upload_id = _encoded(storage_upload_id)
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
                        kind = kinds[latest] = _PartKind(_signed_names(latest), self._host, path, upload_id, grant)
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

    def _grant(self, credentials: Credentials, now: datetime, expires_in: timedelta) -> _Grant:
        seconds = expires_in // _SECOND
        if not 1 <= seconds <= _MAX_SECONDS:
            raise ValueError(f"a URL lives between 1 s and 7 days, not {expires_in}")
        if now.tzinfo is None:
            raise ValueError("a time without a zone is no time to sign")
        written = now.astimezone(UTC).isoformat(timespec="seconds")
        day = written[:10].replace("-", "")
        instant = f"{day}T{written[11:19].replace(':', '')}Z"
        identity = self._identity
        if identity is None or identity.day != day or identity.credentials != credentials:
            identity = self._identity = _Identity.derive(credentials, day, self._region, self._service)
        return _Grant(
            identity.hmac.continued(f"{_ALGORITHM}\n{instant}\n{identity.scope}\n".encode()),
            f"{identity.parameters}&X-Amz-Date={instant}&X-Amz-Expires={seconds}",
            identity.session_token,
        )

    def _encoded_path(self, key: str) -> str:
        return f"{self._path}/{quote(key, safe='/~')}"


@dataclass(frozen=True, slots=True, repr=False)
class _Hmac:
    """HMAC's two hashes with the key in them already (RFC 2104, section 4): copying both costs a third of keying anew."""

    inner: HASH
    outer: HASH

    @classmethod
    def with_key(cls, key: bytes) -> _Hmac:
        """`key`: a block's bytes or less."""
        padded = key.ljust(_BLOCK_SIZE, b"\0")
        return cls(sha256(bytes(byte ^ 0x36 for byte in padded)), sha256(bytes(byte ^ 0x5C for byte in padded)))

    def continued(self, message: bytes) -> _Hmac:
        """Another one, that has taken in `message`."""
        inner = self.inner.copy()
        inner.update(message)
        return _Hmac(inner, self.outer)

    def signed(self, rest: str) -> str:
        """The HMAC, in hexadecimal, of what it has taken in and of `rest`; it stays as it is."""
        outer = self.outer.copy()
        outer.update(self.continued(rest.encode()).inner.digest())
        return outer.hexdigest()


@dataclass(frozen=True, slots=True, repr=False)
class _Identity:
    """What credentials are good for on one day: all that does not change from call to call.

    Attributes:
        hmac: With the signing key.
        parameters: The query's first two, encoded.
        session_token: The parameter with an ampersand before it; empty where there is no token.
    """

    credentials: Credentials
    day: str
    scope: str
    hmac: _Hmac
    parameters: str
    session_token: str

    @classmethod
    def derive(cls, credentials: Credentials, day: str, region: str, service: str) -> _Identity:
        """The key, by four HMACs in a row ("Calculating a signature" in the S3 API reference), and the rest."""
        key = f"AWS4{credentials.secret_key}".encode()
        for word in (day, region, service, _TERMINATOR):
            key = hmac.digest(key, word.encode(), "sha256")
        scope = f"{day}/{region}/{service}/{_TERMINATOR}"
        credential = _encoded(f"{credentials.access_key}/{scope}")
        token = credentials.session_token
        return cls(
            credentials,
            day,
            scope,
            _Hmac.with_key(key),
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={credential}",
            "" if token is None else f"&X-Amz-Security-Token={_encoded(token)}",
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Grant:
    """What identity, instant and lifetime decide; the same for every URL of a batch.

    Attributes:
        hmac: Has taken in the string to sign up to the request's hash.
        parameters: The query's first four, encoded.
        session_token: As in `_Identity`.
    """

    hmac: _Hmac
    parameters: str
    session_token: str

    def canonical(self, names: _SignedNames) -> str:
        """The signature's query parameters as they are signed: sorted."""
        return f"{self.parameters}{self.session_token}&X-Amz-SignedHeaders={names.encoded}"

    def written(self, names: _SignedNames) -> str:
        """The signature's query parameters as they are written: in botocore's order."""
        return f"{self.parameters}&X-Amz-SignedHeaders={names.encoded}{self.session_token}"


@dataclass(frozen=True, slots=True)
class _SignedNames:
    """Names of signed headers.

    Attributes:
        given: As the caller spells them, in canonical order; without `host`.
        all: In lower case, in canonical order; with `host`.
        joined: All, as they are signed.
        encoded: All, as the query names them.
    """

    given: tuple[str, ...]
    all: tuple[str, ...]
    joined: str
    encoded: str


@lru_cache(maxsize=64)
def _signed_names(names: tuple[str, ...]) -> _SignedNames:
    """A service signs few different ones, again and again.

    Raises:
        ValueError: One is no name of a header, comes twice, or can't be signed.
    """
    lowered = {name.lower() for name in names}
    if not all(map(_HEADER_NAME.fullmatch, names)) or len(lowered) != len(names) or not _UNSIGNABLE.isdisjoint(lowered):
        raise ValueError(f"these headers can't be signed together: {', '.join(map(repr, names))}")
    ordered = sorted([*lowered, "host"])
    joined = ";".join(ordered)
    return _SignedNames(tuple(sorted(names, key=str.lower)), tuple(ordered), joined, _encoded(joined))


class _PartKind:
    """What parts share whose signed headers have the same names.

    Attributes:
        begun: Hash of the canonical request up to the part number.
        middle: The URL from behind the part number up to the signature.
        valued: Picks the values out of the headers, in canonical order.
    """

    __slots__ = ("_given", "_pieces", "begun", "middle", "valued")

    def __init__(self, names: _SignedNames, host: str, path: str, upload_id: str, grant: _Grant) -> None:
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
        self._pieces[-1] += f"\n\n{names.joined}\n{_PAYLOAD}"

    def tail(self, values: tuple[str, ...]) -> bytes:
        """The canonical request from behind the part number on, with what `valued` picked."""
        text = "".join(values)
        if not (text.isascii() and text.isprintable()) or " " in text:
            values = tuple(map(_canonical_value, self._given, values))
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


def _canonical_value(name: str, value: str) -> str:
    """Without white space around it, and with single spaces within (*Trimall* in the S3 API reference)."""
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequestError(f"the value of {name} can't be sent: a header is made of printable ASCII characters")
    return " ".join(value.split())


def _encoded(text: str) -> str:
    """All but RFC 3986's unreserved characters percent-encoded, in UTF-8."""
    return quote(text, safe="")
