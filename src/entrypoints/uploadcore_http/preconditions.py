"""Conditional requests for files (RFC 9110, section 13): who has a file already is not sent it again, and nobody undoes what he has not seen."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from uploadcore.errors import InvalidRequestError
from uploadcore_http.schemas import FileBody

__all__ = ["ANY_VERSION", "NO_VERSION", "file_etag", "is_known", "joined", "required_versions"]

MAX_TAGS = 16
"""Entity tags an `If-Match` may list: each costs a change an attempt."""
ANY_VERSION = None
NO_VERSION = (-1,)
"""What only weak or foreign entity tags ask for: no file has this version."""

_SHAPE = f"{zlib.crc32(','.join(FileBody.__struct_fields__).encode()):08x}"
"""Part of every entity tag: a version of this code that says more of a file must not answer 304 to who has the shorter answer of another."""
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
"""Source: RFC 9110, sections 8.8.3 and 5.6.1: lists may have empty elements."""
_ONE = re.compile(r'(W/)?("[^"]*")')
_OURS = re.compile(r'"([0-9]{1,18})(?:-[0-9a-f]{8})?"')


def file_etag(version: int) -> str:
    """The strong entity tag of a file's answer: a version has one content, and this code one way to say it."""
    return f'"{version}-{_SHAPE}"'


def joined(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header that is a list, from all of its lines (RFC 9110, section 5.3); `None` if there is none."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values).decode("latin-1").strip(" \t") if values else None


def is_known(etag: str, given: str) -> bool:
    """Whether `If-None-Match` names this entity tag, compared weakly (section 13.1.2). What is no list of tags names none.

    >>> is_known('"3-a"', 'W/"2-a", W/"3-a"'), is_known('"3-a"', '"3"')
    (True, False)
    """
    if given in ("*", etag):
        return True
    return _TAGS.fullmatch(given) is not None and any(etag == tag for _, tag in _ONE.findall(given))


def required_versions(given: str | None) -> tuple[int, ...] | None:
    """The versions that `If-Match` asks for, compared strongly (section 13.1.1): newest first; `None` if any will do.

    A plain version in quotes does too: a page of files has their versions, and not their entity tags.

    Raises:
        InvalidRequestError: It is no list of entity tags, or a very long one.

    >>> required_versions('"3-0a1b2c3d"'), required_versions('W/"3"'), required_versions("*")
    ((3,), (-1,), None)
    """
    if given is None or given == "*":
        return ANY_VERSION
    if _TAGS.fullmatch(given) is None:
        raise InvalidRequestError("If-Match is * or a list of entity tags in quotes, as the ETag of an answer is")
    tags = _ONE.findall(given)
    if len(tags) > MAX_TAGS:
        raise InvalidRequestError(f"If-Match has more than {MAX_TAGS} entity tags")
    ours = [_OURS.fullmatch(tag) for weak, tag in tags if not weak]
    return tuple(sorted({int(one[1]) for one in ours if one is not None}, reverse=True)) or NO_VERSION
