"""Object store on a local folder: the embedded default.

`FilesystemObjectStore` is durable (what it acknowledges survives `kill -9` and a power cut) and serves its signed URLs through
`uploadcore_http.data.data_app`. How it lies on disk, and what is promised, is told in `docs/filesystem.md`.
"""

try:
    import awscrt.checksums  # noqa: F401 - asked for here, so that its absence is told once and helpfully
except ImportError as exc:
    raise ImportError(
        "uploadcore_filesystem needs packages that are not installed: pip install 'uploadcore[server]'"
    ) from exc

from uploadcore_filesystem.errors import (
    BodyTooLargeError,
    IncompleteBodyError,
    NoSuchObjectError,
    PreconditionFailedError,
    SealedError,
    SignatureMismatchError,
    SupersededError,
    UnsignedHeaderError,
    UrlExpiredError,
)
from uploadcore_filesystem.signing import GetGrant, Grant, PartGrant, PutGrant
from uploadcore_filesystem.store import FILESYSTEM_LIMITS, FilesystemObjectStore, StoredFile, from_url

__all__ = [
    "FILESYSTEM_LIMITS",
    "BodyTooLargeError",
    "FilesystemObjectStore",
    "GetGrant",
    "Grant",
    "IncompleteBodyError",
    "NoSuchObjectError",
    "PartGrant",
    "PreconditionFailedError",
    "PutGrant",
    "SealedError",
    "SignatureMismatchError",
    "StoredFile",
    "SupersededError",
    "UnsignedHeaderError",
    "UrlExpiredError",
    "from_url",
]
