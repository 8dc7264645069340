"""What the members of `/v1`'s requests may hold: types with their bounds, which stand here, once.

Those that need counting (bytes of UTF-8, 2 KB of metadata) are the core's, and answered as `invalid_request` too.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

__all__ = [
    "BASE64_4",
    "BASE64_8",
    "BASE64_32",
    "END",
    "MAX_LABEL",
    "MAX_PARTS_A_CALL",
    "MAX_PART_SIZE",
    "Description",
    "FileId",
    "Filename",
    "Fingerprint",
    "Labels",
    "MediaType",
    "Metadata",
    "PartChecksum",
    "PartNumber",
    "PartNumberKey",
    "PartNumbers",
    "PartSize",
    "Size",
    "Title",
]

MAX_INT64 = 2**63 - 1
"""What every database and every client's integer type can hold."""
MAX_PART_NUMBER = 10_000
MAX_PART_SIZE = 5 * 1024**3
"""Source of both: S3 User Guide, "Amazon S3 multipart upload limits"."""
MAX_PARTS_A_CALL = 1_000
"""As many as one page of ListParts shows (S3 API, MaxParts)."""

MAX_LABEL = 64
"""Characters."""

# Python's `$` also matches before a newline at the end, JSON Schema's (ECMA 262) does not: `(?!\n)` makes them mean the same.
END = r"$(?!\n)"
TEXT = rf"^[^\u0000-\u001f\u007f]*{END}"
"""No control characters: U+0000 can't be stored everywhere, and the others have no business in a name."""
PROSE = rf"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]*{END}"
"""The same with tabs and ends of lines."""
_PART_NUMBER = rf"^([1-9][0-9]{{0,3}}|10000){END}"
# Base64 (RFC 4648, section 4) of 4, 8 and 32 bytes; of the last character only the bits that count may be set (section 3.5).
BASE64_4 = "[A-Za-z0-9+/]{5}[AQgw]=="
BASE64_8 = "[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]="
BASE64_32 = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
_MEDIA_TYPE = rf"^[A-Za-z0-9!#$&^_.+-]{{1,127}}/[A-Za-z0-9!#$&^_.+-]{{1,127}}(;[ -~]{{1,200}})?{END}"
"""Source: RFC 6838, section 4.2."""

Size = Annotated[int, Meta(ge=0, le=MAX_INT64, description="Bytes.")]
PartNumber = Annotated[int, Meta(ge=1, le=MAX_PART_NUMBER)]
PartNumberKey = Annotated[str, Meta(pattern=_PART_NUMBER, description="A part number.")]
PartSize = Annotated[int, Meta(ge=1, le=MAX_PART_SIZE, description="Bytes per part, within the store's limits.")]
Filename = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=TEXT,
        # 255 characters never exceed the core's 1,024 bytes, and no common file system takes a longer name (NAME_MAX).
        description="Metadata only: it is no part of the storage key. 255 characters, as in common file systems.",
    ),
]
MediaType = Annotated[str, Meta(max_length=455, pattern=_MEDIA_TYPE, description="What the file is served as.")]
Title = Annotated[str, Meta(max_length=256, pattern=TEXT, description="Of the file, for people.")]
Description = Annotated[
    str, Meta(max_length=4_096, pattern=PROSE, description="Of the file, for people. May have several lines.")
]
Label = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL, pattern=TEXT)]
Labels = Annotated[
    list[Label],
    Meta(max_length=32, extra_json_schema={"uniqueItems": True}, description="Words by which files are found."),
]
Fingerprint = Annotated[
    str,
    Meta(
        min_length=1, max_length=255, pattern=TEXT, description="Any text by which the client finds the upload again."
    ),
]
FileId = Annotated[
    str, Meta(pattern=rf"^[A-Za-z0-9-]{{1,64}}{END}", description="A file of yours that gets a new version.")
]
MetadataKey = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9_.-]{{0,63}}{END}")]
MetadataValue = Annotated[str, Meta(max_length=1_024, pattern=TEXT)]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Meta(
        max_length=32,
        # Source: S3 User Guide, "Working with object metadata": 2 KB of user-defined metadata, keys in lower case.
        description="Kept with the upload and the file. At most 2,048 bytes in all, keys included.",
    ),
]
PartChecksum = Annotated[
    str,
    Meta(
        pattern=f"^({BASE64_4}|{BASE64_8}|{BASE64_32}){END}",
        description="Base64 of the digest, big-endian. Its length tells whether it is CRC32C, CRC64NVME or SHA-256.",
    ),
]
PartNumbers = Annotated[
    list[PartNumber], Meta(min_length=1, max_length=MAX_PARTS_A_CALL, extra_json_schema={"uniqueItems": True})
]
