"""What can go wrong with a request made with a signed URL, beyond what the core has a word for.

No user of the control plane meets these: they end at the data endpoint, which turns them into HTTP.
"""

from __future__ import annotations

from uploadcore.errors import ForbiddenError, InvalidRequestError, UploadCoreError

__all__ = [
    "BodyTooLargeError",
    "IncompleteBodyError",
    "NoSuchObjectError",
    "PreconditionFailedError",
    "SealedError",
    "SignatureMismatchError",
    "SupersededError",
    "UnsignedHeaderError",
    "UrlExpiredError",
]


class SignatureMismatchError(ForbiddenError):
    """The request is not the one that was signed."""


class UrlExpiredError(ForbiddenError):
    """The request was signed, and its time is over."""


class UnsignedHeaderError(ForbiddenError):
    """A header that could steer the store (`x-amz-…`) is not among the signed ones."""


class IncompleteBodyError(InvalidRequestError):
    """The body ended before, or went on after, the length that was signed."""


class BodyTooLargeError(InvalidRequestError):
    """The body is larger than a part may be."""


class NoSuchObjectError(UploadCoreError):
    """Nothing stands under that key."""

    code = "internal"


class PreconditionFailedError(UploadCoreError):
    """An object stands under the key already, and `If-None-Match: *` was signed."""

    code = "internal"


class SealedError(UploadCoreError):
    """The multipart upload is being completed and takes no more parts."""

    code = "internal"


class SupersededError(UploadCoreError):
    """A newer request took this part, or completion or abort began: this one was cut and has no effect any more."""

    code = "internal"
