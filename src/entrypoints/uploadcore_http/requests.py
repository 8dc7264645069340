"""Requests, read with every bound: bodies, queries, ids and headers either fit their schema or are refused as `invalid_request`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State

from uploadcore.errors import InvalidRequestError, NoSuchFileError, UploadNotFoundError
from uploadcore_http.asgi import Receive
from uploadcore_http.auth import Principal
from uploadcore_http.problems import BodyTooLargeError, UnauthenticatedError

__all__ = ["LARGE_BODY", "MAX_CURSOR", "SMALL_BODY", "ApiRequest", "bounded", "decode", "read_body", "whole_number"]

SMALL_BODY = 64 * 1024
"""Bytes a body may have: an initiate with every field at its limit has about 20 KiB."""
LARGE_BODY = 2 * 1024 * 1024
"""Bytes for signing and completing: 1,000 parts with checksums and lengths have about 100 KiB."""
_LINGER = 1024 * 1024
"""Bytes of an oversized body read and dropped, so that a client that sends all before it reads gets its answer."""
MAX_CURSOR = 512
"""Characters a cursor may have."""
_MAX_QUERY_FIELDS = 20
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""As `IdFactory` promises."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

T = TypeVar("T")


class ApiRequest(Request[Principal, None, State]):
    """A request to `/v1`."""

    __slots__ = ()

    @property
    def owner(self) -> str:
        """Who asks. There is no default: a route that forgot to authenticate can't act for anybody."""
        principal = self.scope.get("user")
        if not isinstance(principal, Principal):
            raise UnauthenticatedError
        return principal.owner

    @property
    def caller(self) -> str | None:
        """Who asks, where the answer may be for anybody; `None` is somebody without a token."""
        principal = self.scope.get("user")
        return principal.owner if isinstance(principal, Principal) else None

    @property
    def upload_id(self) -> str:
        """The upload in the path. What can't be an id is the id of nothing."""
        value: str = self.path_params["upload_id"]
        if _ID.fullmatch(value) is None:
            raise UploadNotFoundError(upload_id=value[:64])
        return value

    @property
    def file_id(self) -> str:
        """The file in the path."""
        value: str = self.path_params["file_id"]
        if _ID.fullmatch(value) is None:
            raise NoSuchFileError(file_id=value[:64])
        return value

    def header(self, name: bytes) -> str | None:
        """A header's value; `None` if there is none.

        Raises:
            InvalidRequestError: It is there twice, or has control characters.
        """
        values = [value for key, value in self.scope["headers"] if key == name]
        if not values:
            return None
        if len(values) > 1:
            raise InvalidRequestError(f"there is more than one {name.decode()} header")
        text = values[0].decode("latin-1").strip(" \t")
        if _CONTROL.search(text):
            raise InvalidRequestError(f"the {name.decode()} header has a control character")
        return text

    def query(self, known: Collection[str] = ()) -> Mapping[str, str]:
        """The query, decoded.

        Raises:
            InvalidRequestError: It names anything but `known`, or the same twice, or is not UTF-8.
        """
        raw = self.scope["query_string"]
        if not raw:
            return {}
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS
            )
        except ValueError:
            raise InvalidRequestError("the query is not a short list of UTF-8 name=value pairs") from None
        values = dict(pairs)
        for name in values:
            if name not in known:
                there = f"; there is {', '.join(sorted(known))}" if known else ""
                raise InvalidRequestError(f"there is no query parameter {name[:64]!r}{there}")
        if len(values) != len(pairs):
            raise InvalidRequestError("a query parameter is there twice")
        if any(_CONTROL.search(value) for value in values.values()):
            raise InvalidRequestError("a query parameter has a control character")
        return values

    async def read(self, limit: int) -> bytes:
        """The body.

        Raises:
            BodyTooLargeError: It has more than `limit` bytes.
        """
        return await read_body(cast(Receive, self.receive), limit)


async def read_body(receive: Receive, limit: int) -> bytes:
    """A request's body, of which never more than `limit` bytes are held.

    Raises:
        BodyTooLargeError: It has more.
        InvalidRequestError: The connection was cut before its end.
    """
    message: Any = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= limit:
        return body
    chunks, size = [body], len(body)
    while message.get("more_body", False) and size <= limit + _LINGER:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            chunks.clear()
        else:
            chunks.append(chunk)
    if message["type"] == "http.disconnect":
        raise InvalidRequestError("the connection was cut within the body")
    if size > limit:
        raise BodyTooLargeError(limit)
    return b"".join(chunks)


def whole_number(values: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """A query parameter that is a whole number.

    Raises:
        InvalidRequestError: It is not, or is out of bounds.
    """
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and least <= int(text) <= most):
        raise InvalidRequestError(f"{name} is a whole number from {least} to {most}")
    return int(text)


def bounded(values: Mapping[str, str], name: str, most: int) -> str | None:
    """A query parameter that is text.

    Raises:
        InvalidRequestError: It is empty, or has more than `most` characters.
    """
    value = values.get(name)
    if value is not None and not 1 <= len(value) <= most:
        raise InvalidRequestError(f"{name} has 1 to {most} characters")
    return value


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as the struct it must be.

    Raises:
        InvalidRequestError: It is not JSON, not UTF-8, does not fit the schema, or names a member twice.
    """
    try:
        try:
            value = decoder.decode(body)
        except msgspec.ValidationError as exc:
            if "got `float`" not in str(exc):
                raise
            # 8.0 is an integer to JSON Schema (2020-12, Validation, section 6.1.1) and none to msgspec.
            value = msgspec.convert(_loaded(body), decoder.type)
        else:
            # JSON with one colon has one member at most. Only what has more is read again, to find the same name twice, which
            # msgspec lets pass: the last would win here and the first elsewhere (RFC 8259, section 4).
            if body.count(b":") > 1:
                _loaded(body)
    except (UnicodeError, RecursionError) as exc:
        raise InvalidRequestError("the body is not JSON in UTF-8") from exc
    except ValueError as exc:  # msgspec's errors are of this kind
        raise InvalidRequestError(f"the body does not fit: {str(exc)[:300]}") from exc
    return value


def _loaded(body: bytes) -> Any:
    return json.loads(body, object_pairs_hook=_members, parse_float=_number, parse_constant=_refuse_constant)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidRequestError("the body has an object that names a member twice")
    return members


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"{name} is no number in JSON")
