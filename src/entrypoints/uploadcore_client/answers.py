"""What a store's answer to the PUT of a part means for that part. One table, no I/O."""

from __future__ import annotations

from enum import Enum, auto

from uploadcore_client.connection import Answer

__all__ = ["Meaning", "meaning_of"]


class Meaning(Enum):
    """What to do after an answer."""

    STORED = auto()
    """The store has the part."""
    SIGN_AGAIN = auto()
    """The URL, or the credentials it was signed with, is no longer good."""
    TRY_AGAIN = auto()
    """Nothing is wrong with the request: the same may succeed later."""
    DAMAGED = auto()
    """The body did not arrive as it was sent: read it again and send it again."""
    LOST = auto()
    """The store knows no such upload: ask the service what is left of it."""
    EXISTS = auto()
    """A single PUT found the object there: an earlier try of ours may have made it. Completing decides."""
    FULL = auto()
    """The store has no room left."""
    REFUSED = auto()
    """The store will not take this, however often it is tried."""


_BY_CODE = {
    # Source: Amazon S3 API Reference, "Error responses", list of error codes.
    "ExpiredToken": Meaning.SIGN_AGAIN,
    "RequestTimeout": Meaning.TRY_AGAIN,
    "RequestTimeTooSkewed": Meaning.SIGN_AGAIN,
    "IncompleteBody": Meaning.TRY_AGAIN,
    "BadDigest": Meaning.DAMAGED,
    "InvalidDigest": Meaning.DAMAGED,
    "XAmzContentChecksumMismatch": Meaning.DAMAGED,
    "XAmzContentSHA256Mismatch": Meaning.DAMAGED,
    "NoSuchUpload": Meaning.LOST,
    "SlowDown": Meaning.TRY_AGAIN,
}
_BY_STATUS = {
    403: Meaning.SIGN_AGAIN,
    404: Meaning.LOST,
    408: Meaning.TRY_AGAIN,
    409: Meaning.TRY_AGAIN,  # another PUT of the same part, or a completion, is at work
    412: Meaning.EXISTS,
    425: Meaning.TRY_AGAIN,
    429: Meaning.TRY_AGAIN,
    507: Meaning.FULL,
}


def meaning_of(answer: Answer) -> Meaning:
    """What an answer means.

    >>> meaning_of(Answer(400, {}, "ExpiredToken"))
    <Meaning.SIGN_AGAIN: 2>
    """
    if 200 <= answer.status < 300:
        return Meaning.STORED
    if answer.code in _BY_CODE:
        return _BY_CODE[answer.code]
    if answer.status in _BY_STATUS:
        return _BY_STATUS[answer.status]
    return Meaning.TRY_AGAIN if answer.status >= 500 else Meaning.REFUSED
