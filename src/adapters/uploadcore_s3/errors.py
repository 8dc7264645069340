"""What a store's errors mean: the one place where they become the core's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from uploadcore.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    NoSuchMultipartError,
    PartsRejectedError,
    StorageFullError,
    StoreOverloadedError,
    StoreUnavailableError,
    UploadCoreError,
)
from uploadcore_s3.xml import NotXmlError, children, parse_xml

__all__ = [
    "NoRoomError",
    "S3CallError",
    "TransportError",
    "is_absent",
    "is_transient",
    "map_completion",
    "map_creation",
    "map_errors",
]

_UNKNOWN_MULTIPART = frozenset({"NoSuchUpload", "NoSuchKey"})
"""The second is what some stores say once the upload was completed (Swift: AbortMultipartUpload)."""
_REFUSED_REQUESTS = frozenset(
    {
        "InvalidArgument",
        "InvalidObjectName",
        "InvalidURI",
        "KeyTooLongError",
        "MetadataTooLarge",
        "RequestHeaderSectionTooLarge",
        "XMinioInvalidObjectName",
    }
)
"""What is wrong with a key, a type or metadata. Source: S3 API, "Error responses"; Ceph's (rgw_common.cc) and MinIO's (cmd/api-errors.go) words for a key.

All others are matters for the operator, who may put them right: a key of KMS that is disabled, a token that was not renewed, a proxy's page.
`InvalidRequest` too: S3 says it of signatures, of endpoints, and of how the bucket is set up.
"""
_REJECTED_PARTS = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidArgument",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidRequest",
        "MalformedXML",
    }
)
"""A definite refusal to assemble. Source: S3 API, CompleteMultipartUpload, "Special errors"; MalformedXML: no part is named."""
_WRONG_CHECKSUM = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})
"""Source: S3 API, "Error responses"; the second is MinIO's word (cmd/api-errors.go, ErrContentChecksumMismatch)."""
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})
"""Ceph's and MinIO's words (rgw_common.cc, cmd/api-errors.go); S3 itself is never full."""
_TRANSIENT = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "TooManyRequests",
    }
)
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})

_ADVICE = {
    "AccessDenied": "the credentials may not do this: compare their policy with docs/policies",
    "AllAccessDisabled": "the bucket is closed to everybody: ask its owner",
    "AuthorizationHeaderMalformed": "the signature names another region than the bucket's: set `region`",
    "ExpiredToken": "the credentials have expired and were not renewed",
    "IllegalLocationConstraintException": "the bucket is in another region: set `region`",
    "InvalidAccessKeyId": "the store does not know the access key",
    "InvalidToken": "the session token does not belong to the access key",
    "NoSuchBucket": "there is no such bucket: make it, or correct its name",
    "PermanentRedirect": "the bucket is reached at another endpoint or region: set `endpoint` or `region`",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ too much: synchronise it",
    "SignatureDoesNotMatch": "the secret key is wrong, or something between here and the store changes requests",
    "SlowDown": "it asks for fewer requests",
    "TemporaryRedirect": "the bucket is reached at another endpoint for now",
}
"""What an operator can do about it."""
_STATUS_CODES = {301: "PermanentRedirect", 302: "TemporaryRedirect", 307: "TemporaryRedirect", 403: "AccessDenied"}
"""What a status means that came without a document: HEAD never has one."""
_CODE = re.compile(r"[A-Za-z0-9.]+")
"""With a dot: `KMS.DisabledException`."""
_NONE: Mapping[str, str] = MappingProxyType({})


class S3CallError(Exception):
    """The store refused a call.

    Attributes:
        status: HTTP's; 200 where the error came after the head was sent.
        code: S3's word; empty where none was sent and the status means nothing by itself.
        region: Where the store says the bucket is; empty if it does not.
        headers: Of the answer, names in lower case.
    """

    def __init__(self, status: int, code: str, *, region: str = "", headers: Mapping[str, str] = _NONE) -> None:
        super().__init__(f"{code or 'no code'}, status {status}")
        self.status = status
        self.code = code
        self.region = region
        self.headers = headers

    @classmethod
    def parsed(cls, status: int, headers: Mapping[str, str], body: bytes) -> S3CallError:
        """What an answer says. Its message is left out: stores put keys, hosts, and what they were sent into it."""
        try:
            told = children(parse_xml(body))
        except NotXmlError:
            told = {}
        # The header is MinIO's, for a HEAD (cmd/api-response.go, writeErrorResponseHeadersOnly).
        code = (told.get("Code") or headers.get("x-minio-error-code", ""))[:64] or _STATUS_CODES.get(status, "")
        region = headers.get("x-amz-bucket-region", "") or told.get("Region", "")
        return cls(status, code if _CODE.fullmatch(code) else "", region=region[:64], headers=headers)


class TransportError(Exception):
    """No answer, or not a whole one: what the call did is not known. The message says which, and no address."""

    def __init__(self, message: str, *, is_retryable: bool = True) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


class NoRoomError(TransportError):
    """So many calls wait already that this one was not made."""

    def __init__(self) -> None:
        super().__init__("too many calls wait for the store already", is_retryable=False)


def is_transient(error: Exception) -> bool:
    """Whether the same call may go well in a moment."""
    if isinstance(error, TransportError):
        return error.is_retryable
    return isinstance(error, S3CallError) and (error.code in _TRANSIENT or error.status in _TRANSIENT_STATUS)


def is_absent(error: S3CallError) -> bool:
    """Whether it says that the object is not there. A bucket that isn't is something else, and so is 403.

    Without permission to list the bucket S3 answers 403 to HEAD of an absent object (S3 API, HeadObject, "Permissions"). That can't be told
    from a wrong policy, so it is not taken for an absence: an upload would be given up for lost because somebody edited a policy.
    """
    return error.status == 404 and error.code in {"", "NoSuchKey", "NotFound"}


@contextmanager
def map_errors(doing: str) -> Iterator[None]:
    """Raise the core's error for what a call raises inside the block.

    Raises:
        NoSuchMultipartError: The store knows no such multipart upload.
        StorageFullError: There is no room.
        StoreOverloadedError: Too many calls wait already.
        StoreUnavailableError: Everything else: it did not answer, or its refusal is a matter for the operator.
    """
    try:
        yield
    except NoRoomError as exc:
        raise StoreOverloadedError(f"{doing}: {exc}") from exc
    except TransportError as exc:
        raise StoreUnavailableError(f"{doing}: {exc}") from exc
    except S3CallError as exc:
        raise _meaning(exc, doing) from exc


@contextmanager
def map_creation(doing: str) -> Iterator[None]:
    """As `map_errors`, for a call that may be refused for what was asked for.

    Raises:
        InvalidRequestError: The store definitely refuses this key, type or metadata. The upload ends with it, so no other refusal is taken for that.
    """
    with map_errors(doing):
        try:
            yield
        except S3CallError as exc:
            if exc.status == 400 and exc.code in _REFUSED_REQUESTS:
                raise InvalidRequestError(f"{doing}: the store refuses it ({exc})") from exc
            raise


@contextmanager
def map_completion(doing: str) -> Iterator[None]:
    """As `map_errors`, for CompleteMultipartUpload. The word counts, whatever status came before it; with a 5xx nothing is known.

    Raises:
        PartsRejectedError: The store definitely refused to assemble.
        ChecksumMismatchError: The whole has another checksum.
    """
    with map_errors(doing):
        try:
            yield
        except S3CallError as exc:
            if exc.status < 500 and exc.code in _REJECTED_PARTS:
                raise PartsRejectedError(f"{doing}: the store says {exc.code}") from exc
            if exc.status < 500 and exc.code in _WRONG_CHECKSUM:
                raise ChecksumMismatchError(f"{doing}: the store says {exc.code}") from exc
            raise


def _meaning(error: S3CallError, doing: str) -> UploadCoreError:
    if error.code in _UNKNOWN_MULTIPART and error.status < 500:
        return NoSuchMultipartError(f"{doing}: the store says {error.code}")
    if error.code in _FULL or error.status == 507:
        return StorageFullError(f"{doing}: the store has no room left ({error})")
    advice = _ADVICE.get(error.code, "")
    because = f"the store says {error}"
    if advice:
        because = f"{because}: {advice}"
    if error.region:
        because = f"{because}; the bucket's region is {error.region}"
    return StoreUnavailableError(f"{doing}: {because}")
