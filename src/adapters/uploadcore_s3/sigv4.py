"""What a Signature Version 4 in the query is made of, short of the request: who signs, when and for how long, and which headers.

Terms and forms are Amazon's: "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the Amazon S3 API reference.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from uploadcore.errors import InvalidRequestError

if TYPE_CHECKING:
    from _hashlib import HASH

__all__ = [
    "MAX_EXPIRES_IN",
    "PAYLOAD",
    "Credentials",
    "Grant",
    "Identity",
    "Instant",
    "SignedNames",
    "canonical_value",
    "encoded",
    "signed_names",
]

MAX_EXPIRES_IN = timedelta(days=7)
"""604,800 s: "The minimum value you can set is 1, and the maximum is 604800" (`X-Amz-Expires` in the S3 API reference)."""

_SECOND = timedelta(seconds=1)
_MAX_SECONDS = MAX_EXPIRES_IN // _SECOND
_ALGORITHM = "AWS4-HMAC-SHA256"
PAYLOAD = "UNSIGNED-PAYLOAD"
_TERMINATOR = "aws4_request"
"""The last word of every scope."""
_BLOCK_SIZE = 64
"""Bytes: SHA-256's block, to which HMAC fits its key (RFC 2104, section 2)."""
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


class Instant(NamedTuple):
    """When something is signed, as it is written.

    Attributes:
        day: `20130524`.
        second: `20130524T000000Z`.
    """

    day: str
    second: str

    @classmethod
    def of(cls, now: datetime) -> Instant:
        """In UTC.

        Raises:
            ValueError: It has no zone.
        """
        if now.tzinfo is None:
            raise ValueError("a time without a zone is no time to sign")
        written = now.astimezone(UTC).isoformat(timespec="seconds")
        day = written[:10].replace("-", "")
        return cls(day, f"{day}T{written[11:19].replace(':', '')}Z")


@dataclass(frozen=True, slots=True, repr=False)
class Hmac:
    """HMAC's two hashes with the key in them already (RFC 2104, section 4): copying both costs a third of keying anew."""

    inner: HASH
    outer: HASH

    @classmethod
    def with_key(cls, key: bytes) -> Hmac:
        """`key`: a block's bytes or less."""
        padded = key.ljust(_BLOCK_SIZE, b"\0")
        return cls(sha256(bytes(byte ^ 0x36 for byte in padded)), sha256(bytes(byte ^ 0x5C for byte in padded)))

    def continued(self, message: bytes) -> Hmac:
        """Another one, that has taken in `message`."""
        inner = self.inner.copy()
        inner.update(message)
        return Hmac(inner, self.outer)

    def signed(self, rest: str) -> str:
        """The HMAC, in hexadecimal, of what it has taken in and of `rest`; it stays as it is."""
        outer = self.outer.copy()
        outer.update(self.continued(rest.encode()).inner.digest())
        return outer.hexdigest()


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What credentials are good for on one day: all that does not change from call to call.

    Attributes:
        hmac: With the signing key.
        parameters: The query's first two, encoded.
        session_token: The parameter with an ampersand before it; empty where there is no token.
    """

    credentials: Credentials
    day: str
    scope: str
    hmac: Hmac
    parameters: str
    session_token: str

    @classmethod
    def derive(cls, credentials: Credentials, day: str, region: str, service: str) -> Identity:
        """The key, by four HMACs in a row ("Calculating a signature" in the S3 API reference), and the rest."""
        key = f"AWS4{credentials.secret_key}".encode()
        for word in (day, region, service, _TERMINATOR):
            key = hmac.digest(key, word.encode(), "sha256")
        scope = f"{day}/{region}/{service}/{_TERMINATOR}"
        credential = encoded(f"{credentials.access_key}/{scope}")
        token = credentials.session_token
        return cls(
            credentials,
            day,
            scope,
            Hmac.with_key(key),
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={credential}",
            f"&X-Amz-Security-Token={encoded(token)}" if token else "",  # an empty one is none, as for both SDKs
        )

    def grant(self, instant: Instant, expires_in: timedelta) -> Grant:
        """What it signs at that instant, for that long.

        Raises:
            ValueError: That is less than a second, or more than S3 takes.
        """
        seconds = expires_in // _SECOND
        if not 1 <= seconds <= _MAX_SECONDS:
            raise ValueError(f"a URL lives between 1 s and 7 days, not {expires_in}")
        return Grant(
            self.hmac.continued(f"{_ALGORITHM}\n{instant.second}\n{self.scope}\n".encode()),
            f"{self.parameters}&X-Amz-Date={instant.second}&X-Amz-Expires={seconds}",
            self.session_token,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Grant:
    """What identity, instant and lifetime decide; the same for every URL of a batch.

    Attributes:
        hmac: Has taken in the string to sign up to the request's hash.
        parameters: The query's first four, encoded.
        session_token: As in `Identity`.
    """

    hmac: Hmac
    parameters: str
    session_token: str

    def canonical(self, names: SignedNames) -> str:
        """The signature's query parameters as they are signed: sorted."""
        return f"{self.parameters}{self.session_token}&X-Amz-SignedHeaders={names.encoded}"

    def written(self, names: SignedNames) -> str:
        """The signature's query parameters as they are written: in botocore's order."""
        return f"{self.parameters}&X-Amz-SignedHeaders={names.encoded}{self.session_token}"


@dataclass(frozen=True, slots=True)
class SignedNames:
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
def signed_names(names: tuple[str, ...]) -> SignedNames:
    """A service signs few different ones, again and again.

    Raises:
        ValueError: One is no name of a header, comes twice, or can't be signed.
    """
    lowered = {name.lower() for name in names}
    if not all(map(_HEADER_NAME.fullmatch, names)) or len(lowered) != len(names) or not _UNSIGNABLE.isdisjoint(lowered):
        raise ValueError(f"these headers can't be signed together: {', '.join(map(repr, names))}")
    ordered = sorted([*lowered, "host"])
    joined = ";".join(ordered)
    return SignedNames(tuple(sorted(names, key=str.lower)), tuple(ordered), joined, encoded(joined))


def canonical_value(name: str, value: str) -> str:
    """Without white space around it, and with single spaces within (*Trimall* in the S3 API reference)."""
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequestError(f"the value of {name} can't be sent: a header is made of printable ASCII characters")
    return " ".join(value.split())


def encoded(text: str) -> str:
    """All but RFC 3986's unreserved characters percent-encoded, in UTF-8."""
    return quote(text, safe="")
