"""Signed URLs: what they say, and how they are checked.

A URL is `{public_url}/data/{bucket}/{key, base64url}?{query}&signature={…}`. The signature is HMAC-SHA256 over the method, the path from the
bucket on, the query *as written* up to the signature, and each signed header's name and value. So nothing has to be brought into a canonical
form before it is compared, and nothing can be added, left out, reordered or spelled differently. Every value is made of unreserved
characters only (RFC 3986, section 2.3): no client, proxy or router has a reason to rewrite it, and no key can be taken for a path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, quote

from uploadcore.errors import InvalidRequestError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part
from uploadcore.ports import ObjectHeaders, SignedRequest
from uploadcore.upload import Address
from uploadcore_filesystem.disk import create_exclusive, make_folders, sync_folder, unlink_if_there
from uploadcore_filesystem.errors import SignatureMismatchError, UnsignedHeaderError, UrlExpiredError

__all__ = ["MIN_SECRET_SIZE", "GetGrant", "Grant", "PartGrant", "PutGrant", "UrlSigner", "WallClock", "made_once"]

MIN_SECRET_SIZE = 16
"""Bytes: 128 bits, the least anybody calls safe (NIST SP 800-131A, section 10)."""
_SECRET_SIZE = 32
"""Bytes: the output of SHA-256; a longer key adds nothing (RFC 2104, section 3)."""

_BLOCK_SIZE = 64
"""Bytes: SHA-256's block, to which HMAC fits its key (RFC 2104, section 2)."""
_END = "\n"
"""Ends the query in what is signed; the signed headers follow."""
_NO_HEADERS: Mapping[str, str] = {}
_SIGNATURE = "&signature="
_CHECKSUM_HEADER = "x-amz-checksum-"
_MAX_FIELDS = 16
"""Twice what any URL of ours has: nobody needs a signature to have a query taken apart."""
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)


class _Hash(Protocol):
    """What `hashlib` makes."""

    def copy(self) -> _Hash: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class WallClock(Protocol):
    """The one thing of `uploadcore.ports.Clock` that is needed here."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""


@dataclass(frozen=True, slots=True)
class PartGrant:
    """A valid request to PUT a part. `offset` is there exactly where `length` is."""

    key: str
    upload_id: str
    part_number: int
    offset: int | None
    length: int | None
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class PutGrant:
    """A valid request to PUT a whole object where none is."""

    key: str
    length: int | None
    checksum: Checksum | None
    headers: ObjectHeaders


@dataclass(frozen=True, slots=True)
class GetGrant:
    """A valid request to GET or HEAD an object, answered under this name and type."""

    key: str
    filename: str
    content_type: str


Grant = PartGrant | PutGrant | GetGrant
"""What a signed URL allows."""


class UrlSigner:
    """Signs and checks the URLs of one store.

    Args:
        public_url: Where clients reach the service, without a trailing slash.
        secret: `MIN_SECRET_SIZE` bytes or more.
        clock: Says when a URL's time is over.
    """

    def __init__(self, public_url: str, secret: bytes, clock: WallClock) -> None:
        if len(secret) < MIN_SECRET_SIZE:
            raise ValueError(f"a signing secret has {MIN_SECRET_SIZE} bytes or more, not {len(secret)}")
        self._base = f"{public_url.rstrip('/')}/data"
        # HMAC's two hashes with the key in them already (RFC 2104, section 4): copying both and going on costs a third of keying anew.
        key = (secret if len(secret) <= _BLOCK_SIZE else hashlib.sha256(secret).digest()).ljust(_BLOCK_SIZE, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
        self._clock = clock

    # --- signing --------------------------------------------------------------------------------------------------

    def sign_parts(
        self, address: Address, parts: Iterable[Part], checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """One PUT per part. An offset is signed only together with a length: alone it would promise nothing."""
        expires, expires_at = self._expiry(expires_in)
        path = _path(address)
        # Hot: a thousand of these to a call. What they share is written, and hashed, once.
        head = f"upload={address.storage_upload_id or ''}&expires={expires}&part="
        url_head = f"{self._base}{path}?{head}"
        shared = self._inner.copy()
        shared.update(_message("PUT", path, head))
        signed = []
        for part in parts:
            tail = str(part.part_number)
            if part.length is not None:
                tail = f"{tail}&offset={part.offset}&length={part.length}"
            checksum = checksums.get(part.part_number)
            if checksum is None:
                url = f"{url_head}{tail}{_SIGNATURE}{self._finished(shared, f'{tail}{_END}'.encode())}"
                signed.append(SignedRequest("PUT", url, _NO_HEADERS, expires_at))
            else:
                headers = {f"{_CHECKSUM_HEADER}{checksum.algorithm}": checksum.value}
                signed.append(self._sign("PUT", path, head + tail, headers, expires_at))
        return signed

    def sign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """A PUT of a whole object.

        Raises:
            InvalidRequestError: The content type can't be sent as a header.
        """
        if not _HEADER_VALUE.fullmatch(headers.content_type):
            raise InvalidRequestError(f"{headers.content_type[:80]!r} can't be sent as a content type")
        expires, expires_at = self._expiry(expires_in)
        sent = {"content-type": headers.content_type, "if-none-match": "*"}
        # A header's value is ASCII, and its name has no case: both are quoted to be sent, and the originals travel under the signature.
        sent |= {f"x-amz-meta-{quote(name, safe='')}".lower(): quote(value) for name, value in headers.metadata.items()}
        if checksum is not None:
            sent[f"{_CHECKSUM_HEADER}{checksum.algorithm}"] = checksum.value
        query = f"expires={expires}&metadata={_encode(json.dumps(dict(headers.metadata)))}"
        if part.length is not None:
            query = f"{query}&length={part.length}"
        return self._sign("PUT", _path(address), query, sent, expires_at)

    def sign_get(self, address: Address, filename: str, content_type: str, expires_in: timedelta) -> SignedRequest:
        """A GET, and the HEAD of the same."""
        expires, expires_at = self._expiry(expires_in)
        query = f"expires={expires}&filename={_encode(filename)}&type={_encode(content_type)}"
        return self._sign("GET", _path(address), query, {}, expires_at)

    def _expiry(self, expires_in: timedelta) -> tuple[int, datetime]:
        """Whole seconds, rounded down: what is told is true, and never later than asked for."""
        expires = int((self._clock.now() + expires_in).timestamp())
        return expires, datetime.fromtimestamp(expires, UTC)

    def _sign(self, method: str, path: str, query: str, headers: dict[str, str], expires_at: datetime) -> SignedRequest:
        if headers:
            query = f"{query}&headers={_encode(','.join(headers))}"
        signature = self._signature(method, path, query, headers.items())
        return SignedRequest(method, f"{self._base}{path}?{query}{_SIGNATURE}{signature}", headers, expires_at)

    def _signature(self, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]) -> str:
        lines = "".join([f"{name}:{value}\n" for name, value in headers])
        return self._finished(self._inner, _message(method, path, f"{query}{_END}{lines}"))

    def _finished(self, begun: _Hash, rest: bytes) -> str:
        """The HMAC of what `begun` has taken in, which stays as it is, and of `rest`."""
        inner = begun.copy()
        inner.update(rest)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    # --- checking -------------------------------------------------------------------------------------------------

    def verify(self, method: str, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Grant:
        """What this request was allowed.

        Args:
            method: As sent.
            path: Percent-decoded; only its last two segments, bucket and key, are looked at.
            query: As sent, undecoded.
            headers: As sent; names in lower case.

        Raises:
            SignatureMismatchError: It is not a request that was signed.
            UrlExpiredError: It is one, and too late.
            UnsignedHeaderError: It is one, but for an `x-amz-…` header that was added to it.
        """
        if "\n" in path:
            # Alone of what is signed it arrives decoded: a line break in it could stand for one between path, query and headers.
            raise SignatureMismatchError("the request is not the one that was signed")
        tail = "/" + "/".join(path.split("/")[-2:])
        text, _, signature = query.decode("ascii", "replace").rpartition(_SIGNATURE)
        try:
            values = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
        except ValueError:
            raise SignatureMismatchError("the request is not the one that was signed") from None
        names = [name for name in _decode(values.get("headers", "")).split(",") if name]
        sent = _joined(headers)
        lines = [(name, sent.get(name, "")) for name in names]
        expected = self._signature("GET" if method == "HEAD" else method, tail, text, lines)
        if not hmac.compare_digest(expected.encode(), signature.encode("ascii", "replace")):
            raise SignatureMismatchError("the request is not the one that was signed")
        if self._clock.now().timestamp() >= int(values["expires"]):
            raise UrlExpiredError("Request has expired")
        if any(name.startswith("x-amz-") and name not in names for name in sent):
            raise UnsignedHeaderError("There were headers present in the request which were not signed")
        return _grant(method, _decode(tail.rpartition("/")[2]), values, {name: sent[name] for name in names})


def _message(method: str, path: str, rest: str) -> bytes:
    return f"{method}\n{path}\n{rest}".encode("utf-8", "surrogateescape")


def _grant(method: str, key: str, values: Mapping[str, str], headers: Mapping[str, str]) -> Grant:
    """What a query says whose signature is good: nobody but `UrlSigner` wrote it."""
    if method != "PUT":
        return GetGrant(key, _decode(values["filename"]), _decode(values["type"]))
    length = int(values["length"]) if "length" in values else None
    checksum = None
    for algorithm in ChecksumAlgorithm:
        if f"{_CHECKSUM_HEADER}{algorithm}" in headers:
            checksum = Checksum(algorithm, headers[f"{_CHECKSUM_HEADER}{algorithm}"])
    if "part" in values:
        offset = int(values["offset"]) if "offset" in values else None
        return PartGrant(key, values["upload"], int(values["part"]), offset, length, checksum)
    metadata = json.loads(_decode(values["metadata"]))
    return PutGrant(key, length, checksum, ObjectHeaders(headers["content-type"], metadata))


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text; one sent twice becomes a value that was never signed."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip())
    return {name: ", ".join(several) for name, several in values.items()}


def _path(address: Address) -> str:
    return f"/{address.bucket}/{_encode(address.key)}"


def _encode(text: str) -> str:
    """Any text in unreserved characters: base64url without padding. Lone surrogates are kept."""
    return _base64url(text.encode("utf-8", "surrogatepass"))


def _decode(encoded: str) -> str:
    """The text again; what is not such an encoding becomes something that no signature fits."""
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8", "surrogatepass")
    except ValueError:
        return ""


def _base64url(content: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def made_once(path: Path) -> bytes:
    """The secret in this file, which is made (mode 0600) if it is not there. Of any number of callers all get the same.

    Raises:
        ValueError: The file is too short to be a secret.
    """
    if not path.exists():
        make_folders(path.parent)
        # Written whole under a name of its own, then linked: who finds the name finds all of the secret.
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            create_exclusive(draft, secrets.token_bytes(_SECRET_SIZE))
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            unlink_if_there(draft)
            sync_folder(path.parent)
    secret = path.read_bytes()
    if len(secret) < MIN_SECRET_SIZE:
        raise ValueError(f"{path} is too short to be a signing secret: remove it, and a new one is made")
    return secret
