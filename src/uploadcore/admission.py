"""What may be uploaded: the request to initiate, checked, and the policy that sets its limits."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

from uploadcore.errors import ContentTypeNotAllowedError, InvalidRequestError, TooLargeError
from uploadcore.file import Checksum
from uploadcore.ports import Admission, UploadRequest

__all__ = ["NewUpload", "StaticPolicy", "admit", "check_metadata", "check_text"]

MAX_SIGN = 1_000
"""Parts signed in one call, as many as one page of ListParts shows (S3 API, MaxParts)."""
MAX_FILENAME_BYTES = 1_024
MAX_TEXT = 1_024
MAX_IDEMPOTENCY_KEY = 255
MAX_FINGERPRINT = 255
MAX_METADATA_BYTES = 2_048
"""Source: S3 User Guide, "Working with object metadata": user-defined metadata is limited to 2 KB."""
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(;[ -~]{1,200})?")
"""Source: RFC 6838, section 4.2 (names of up to 127 of these characters), with optional parameters."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class NewUpload:
    """Everything a caller says when initiating. Made only of values that can be used.

    Raises:
        InvalidRequestError: Naming the first value that can't.
    """

    owner: str
    filename: str
    size: int | None
    content_type: str
    file_id: str | None = None
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fingerprint: str | None = None
    checksum: Checksum | None = None
    part_size: int | None = None

    def __post_init__(self) -> None:
        """Check every value on its own; what depends on limits is checked by `admit` and the plan."""
        check_text("owner", self.owner, MAX_TEXT)
        check_text("filename", self.filename, MAX_FILENAME_BYTES)
        if not _CONTENT_TYPE.fullmatch(self.content_type):
            raise InvalidRequestError(f"content_type is a media type such as video/mp4, not {self.content_type[:80]!r}")
        check_text("title", self.title, MAX_TEXT, empty=True)
        if self.fingerprint is not None:
            check_text("fingerprint", self.fingerprint, MAX_FINGERPRINT)
        check_metadata(self.metadata)

    def digest(self) -> str:
        """Hash of the whole request, to tell a retry from another request under the same idempotency key."""
        values = {**{name: getattr(self, name) for name in self.__slots__}, "metadata": dict(self.metadata)}
        values["checksum"] = None if self.checksum is None else asdict(self.checksum)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StaticPolicy:
    """The same limits for everybody.

    >>> policy = StaticPolicy(Admission(max_size=5 * 1024**3, content_types=("video/*",)))
    """

    limits: Admission = field(default_factory=Admission)

    async def admit(self, request: UploadRequest) -> Admission:
        """These limits, whoever asks for whatever."""
        del request
        return self.limits


def admit(request: UploadRequest, limits: Admission) -> int:
    """Hold a request against the limits; return the bytes to charge the owner's quota with.

    Raises:
        TooLargeError: The size is above the limit.
        ContentTypeNotAllowedError: The type is not among the accepted ones.
    """
    essence = request.content_type.partition(";")[0].strip().lower()
    accepted = [pattern.lower() for pattern in limits.content_types]
    if accepted and not any(
        essence == one or (one.endswith("/*") and essence.startswith(one[:-1])) for one in accepted
    ):
        raise ContentTypeNotAllowedError(f"{essence} is not accepted here; accepted: {', '.join(limits.content_types)}")
    if request.size is None:
        # What it is charged it may grow to: leaving the size out is no way around the limit.
        return limits.max_unknown_size if limits.max_size is None else min(limits.max_unknown_size, limits.max_size)
    if limits.max_size is not None and request.size > limits.max_size:
        raise TooLargeError(f"{request.size} bytes are more than the {limits.max_size} accepted here")
    return request.size


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse metadata that can't be kept.

    Raises:
        InvalidRequestError: A key or value can't be used, or they are more than 2 KB in all.
    """
    for key, value in metadata.items():
        check_text("a metadata key", key, MAX_METADATA_BYTES)
        check_text(f"metadata[{key!r}]", value, MAX_METADATA_BYTES, empty=True)
    if sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items()) > MAX_METADATA_BYTES:
        raise InvalidRequestError(f"metadata is at most {MAX_METADATA_BYTES} bytes in all, keys included")


def check_text(name: str, value: str, limit: int, *, empty: bool = False, lines: bool = False) -> None:
    """Refuse text that is empty, too long, or can't be kept everywhere.

    Args:
        name: What to call it.
        value: The text.
        limit: Bytes of UTF-8.
        empty: Whether it may be.
        lines: Whether it may have line ends and tabs.

    Raises:
        InvalidRequestError: It can't be used.
    """
    if not value and not empty:
        raise InvalidRequestError(f"{name} is empty")
    if (_CONTROL_IN_LINES if lines else _CONTROL).search(value):
        raise InvalidRequestError(f"{name} has a control character")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{name} is not valid Unicode") from None
    if length > limit:
        raise InvalidRequestError(f"{name} is {length} bytes long, more than {limit}")
