"""What an S3 store is told: by keyword, or in its URL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

from uploadcore.errors import InvalidRequestError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import S3_LIMITS, StoreLimits
from uploadcore.ports import AdapterContext, StoreCapabilities
from uploadcore_s3.credentials import WallClock
from uploadcore_s3.signing import Credentials

__all__ = ["PRESETS", "S3Configuration", "StoreOptions", "Timeouts", "configured", "parse_capabilities", "split_url"]

Addressing = Literal["auto", "path", "virtual"]

AWS = StoreCapabilities(
    conditional_put=True,
    late_parts_refused=True,
    list_by_prefix=True,
    object_checksums=frozenset({ChecksumAlgorithm.CRC64NVME}),
    part_checksums=frozenset({ChecksumAlgorithm.CRC64NVME}),
    forgets_completed=True,
)
"""Amazon S3. Sources: S3 User Guide, "How to prevent object overwrites with conditional writes" (PutObject, If-None-Match); S3 API,
UploadPart ("NoSuchUpload … might have been aborted or completed"), ListParts and ListMultipartUploads (prefix); S3 User Guide, "Checking object
integrity for data uploads" (full-object CRC64NVME; a part's checksum has the upload's algorithm). What it says nothing of is left out."""
SWIFT = StoreCapabilities(
    conditional_put=True,
    repeatable_complete=True,
    list_by_prefix=True,
    part_checksums=frozenset({ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.SHA256}),
)
"""OpenStack Swift 2.38 with `s3api`, by experiment (tests/integration/s3). A late part changes the object, and ListParts goes on listing."""
MINIO = StoreCapabilities(late_parts_refused=True, forgets_completed=True)
"""MinIO, the last community release. Sources: its `cmd/erasure-multipart.go`: a completed upload's folder is gone, so that PutObjectPart and
ListObjectParts answer NoSuchUpload; ListMultipartUploads finds whole keys only."""
PRESETS: Mapping[str, StoreCapabilities] = {"aws": AWS, "swift": SWIFT, "minio": MINIO, "none": StoreCapabilities()}

_FLAGS = frozenset(
    {
        "concurrent_complete",
        "conditional_put",
        "forgets_completed",
        "get_signs_head",
        "late_parts_refused",
        "list_by_prefix",
        "repeatable_complete",
    }
)
_STORE_FLAGS = {"conditional_complete": "conditional_complete", "object_size": "declare_object_size"}
_WHOLE = frozenset({ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C})
"""Checksums S3 has of whole multipart objects. Source: S3 User Guide, "Full object and composite checksum types"."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
"""S3 takes 3 to 63 characters; what older regions and other stores take is theirs to say."""
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_MIN_PART_SIZE = 1


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds of what is sent to the store, in seconds.

    Attributes:
        connect: To connect, TLS included.
        call: Any call but completion, its wait for a thread included; one attempt of several.
        retries: All attempts of a call that may be repeated, together.
        completion: CompleteMultipartUpload. "Could take several minutes" (S3 API); less than the ten minutes after which the core calls again.
    """

    connect: float = 5.0
    call: float = 20.0
    retries: float = 40.0
    completion: float = 480.0


class StoreOptions(TypedDict, total=False):
    """Keywords of both stores. `docs/s3.md` tells what each is for; `S3Configuration` what each is by default."""

    endpoint: str | None
    public_endpoint: str | None
    region: str | None
    addressing: Addressing
    capabilities: StoreCapabilities | str
    conditional_complete: bool
    declare_object_size: bool
    part_size_min: int | None
    sse: str | None
    sse_kms_key_id: str | None
    storage_class: str | None
    tagging: str | None
    profile: str | None
    write_profile: str | None
    write_role: str | None
    write_role_external_id: str | None
    sts_endpoint: str | None
    credentials: Credentials | None
    write_credentials: Credentials | None
    ca_certs: str | None
    threads: int
    timeouts: Timeouts
    page_size: int
    clock: WallClock | None


@dataclass(frozen=True, slots=True)
class S3Configuration:
    """All of it, checked.

    Attributes:
        bucket: Its name.
        endpoint: Where the service reaches the store; `None`: AWS, in `region`.
        public_endpoint: Where clients reach it; `None`: `endpoint`.
        region: Named by signatures; `None`: what the SDK is configured for, or `us-east-1`.
        addressing: Bucket in the path, or in the host's name; `auto`: in the path where an `endpoint` is given or the name has a dot.
        capabilities: What the store can do. Nothing is taken for granted.
        conditional_complete: Send `If-None-Match: *` with completions.
        declare_object_size: Send `x-amz-mp-object-size` with completions, for the store to compare.
        part_size_min: Smallest part in bytes; `None`: S3's 5 MiB.
        sse: `AES256` or `aws:kms`; `None`: what the bucket does by default.
        sse_kms_key_id: Key for `aws:kms`; `None`: the account's own.
        storage_class: Of the objects.
        tagging: Of the objects, as `key=value&…`, percent-encoded.
        profile: Of the SDK's configuration file, for control; `None`: its default.
        write_profile: For the identity that signs PUTs; `None`: the same as for control.
        write_role: ARN of a role to assume for it, instead.
        write_role_external_id: Told when assuming it.
        sts_endpoint: Where to assume it; `None`: AWS, or with minio-py the store.
        credentials: For control, instead of the SDK's chain.
        write_credentials: For signing PUTs, instead.
        ca_certs: A bundle of certificates to trust; `None`: the SDK's.
        threads: Calls at a time; four times as many may wait.
        timeouts: Bounds of what is sent.
        page_size: Of listings; 1,000 is the most S3 gives.
        clock: When URLs are signed; `None`: the system's.
    """

    bucket: str
    endpoint: str | None = None
    public_endpoint: str | None = None
    region: str | None = None
    addressing: Addressing = "auto"
    capabilities: StoreCapabilities = field(default_factory=StoreCapabilities)
    conditional_complete: bool = False
    declare_object_size: bool = False
    part_size_min: int | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    tagging: str | None = None
    profile: str | None = None
    write_profile: str | None = None
    write_role: str | None = None
    write_role_external_id: str | None = None
    sts_endpoint: str | None = None
    credentials: Credentials | None = None
    write_credentials: Credentials | None = None
    ca_certs: str | None = None
    threads: int = 32
    timeouts: Timeouts = Timeouts()
    page_size: int = 1_000
    clock: WallClock | None = None

    def __post_init__(self) -> None:
        """Refuse what could never work."""
        if not _BUCKET.fullmatch(self.bucket):
            raise InvalidRequestError(f"{self.bucket!r} can't be a bucket")
        if self.addressing not in {"auto", "path", "virtual"}:
            raise InvalidRequestError(f"addressing is auto, path or virtual, not {self.addressing!r}")
        for name in ("endpoint", "public_endpoint", "sts_endpoint"):
            _check_endpoint(name, getattr(self, name))
        self._check_options()
        whole = self.capabilities.object_checksums
        if len(whole) > 1 or not whole <= _WHOLE:
            raise InvalidRequestError("an S3 upload has one checksum of the whole: crc64nvme or crc32c")
        if self.threads < 1 or not 1 <= self.page_size <= 1_000:
            raise InvalidRequestError("threads are 1 or more, a page 1 to 1,000 entries")
        ways = [self.write_profile, self.write_role, self.write_credentials]
        if sum(way is not None for way in ways) > 1:
            raise InvalidRequestError("write_profile, write_role and write_credentials exclude each other")
        if self.write_role_external_id is not None and self.write_role is None:
            raise InvalidRequestError("write_role_external_id is for a write_role")
        self.limits  # noqa: B018 - refuses a part size that fits no plan

    def _check_options(self) -> None:
        if self.sse not in {None, "AES256", "aws:kms"}:
            raise InvalidRequestError("sse is AES256 or aws:kms")
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise InvalidRequestError("sse_kms_key_id is for sse=aws:kms")
        for name, value in self.object_headers.items():
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidRequestError(f"{name} is printable ASCII, without blanks around it")

    @property
    def limits(self) -> StoreLimits:
        """S3's, with the smallest part as told."""
        if self.part_size_min is None:
            return S3_LIMITS
        if not _MIN_PART_SIZE <= self.part_size_min <= S3_LIMITS.max_part_size:
            raise InvalidRequestError(
                f"a smallest part has 1 to {S3_LIMITS.max_part_size} bytes, not {self.part_size_min}"
            )
        return replace(S3_LIMITS, min_part_size=self.part_size_min)

    @property
    def is_path_style(self) -> bool:
        """Whether the bucket is in the path. A name with a dot matches no wildcard certificate (S3 User Guide, "Virtual hosting")."""
        return self.addressing == "path" or (
            self.addressing == "auto" and (self.endpoint is not None or "." in self.bucket)
        )

    @property
    def object_headers(self) -> dict[str, str]:
        """What every object is stored with, by header."""
        headers = {
            "x-amz-server-side-encryption": self.sse,
            "x-amz-server-side-encryption-aws-kms-key-id": self.sse_kms_key_id,
            "x-amz-storage-class": self.storage_class,
            "x-amz-tagging": self.tagging,
        }
        return {name: value for name, value in headers.items() if value is not None}


def configured(bucket: str, options: StoreOptions) -> S3Configuration:
    """The configuration from keywords.

    Raises:
        InvalidRequestError: Something can't be used.
    """
    given: dict[str, Any] = dict(options)
    if isinstance(given.get("capabilities"), str):
        given.update(parse_capabilities(given["capabilities"]))
    return S3Configuration(bucket, **given)


def parse_capabilities(text: str) -> StoreOptions:
    """Capabilities in words between commas: names of presets, of capabilities, and of checksums.

    `crc64nvme` is of whole objects and of parts, `object_crc64nvme` and `part_crc64nvme` of one of them. `conditional_complete` and
    `object_size` switch on what is sent with completions. A `-` before a word takes it away again.

    Raises:
        InvalidRequestError: There is no such word.

    >>> parse_capabilities("swift,-conditional_put,object_size")["declare_object_size"]
    True
    >>> sorted(parse_capabilities("part_sha256,part_crc32c")["capabilities"].part_checksums)
    [<ChecksumAlgorithm.CRC32C: 'crc32c'>, <ChecksumAlgorithm.SHA256: 'sha256'>]
    """
    capabilities = StoreCapabilities()
    options: dict[str, Any] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, is_on = word.removeprefix("-"), not word.startswith("-")
        if name in PRESETS and is_on:
            capabilities = PRESETS[name]
        elif name in _FLAGS:
            flag: dict[str, Any] = {name: is_on}
            capabilities = replace(capabilities, **flag)
        elif name in _STORE_FLAGS:
            options[_STORE_FLAGS[name]] = is_on
        else:
            capabilities = _with_checksum(capabilities, name, is_on=is_on)
    return cast("StoreOptions", {"capabilities": capabilities, **options})


def _with_checksum(capabilities: StoreCapabilities, name: str, *, is_on: bool) -> StoreCapabilities:
    kind, _, last = name.rpartition("_")
    kinds = {"": ("object_checksums", "part_checksums"), "object": ("object_checksums",), "part": ("part_checksums",)}
    if last not in set(ChecksumAlgorithm) or kind not in kinds:
        known = sorted([*PRESETS, *_FLAGS, *_STORE_FLAGS, *ChecksumAlgorithm])
        raise InvalidRequestError(
            f"{name!r} is no capability: {', '.join(known)} (and object_… or part_… of a checksum)"
        )
    algorithm = ChecksumAlgorithm(last)
    changed: dict[str, Any] = {}
    for attribute in kinds[kind]:
        if attribute == "object_checksums" and not kind and algorithm not in _WHOLE:
            continue
        before: frozenset[ChecksumAlgorithm] = getattr(capabilities, attribute)
        changed[attribute] = before | {algorithm} if is_on else before - {algorithm}
    return replace(capabilities, **changed)


_TEXTS = (
    "endpoint",
    "public_endpoint",
    "region",
    "addressing",
    "sse",
    "sse_kms_key_id",
    "storage_class",
    "tagging",
    "profile",
    "write_profile",
    "write_role",
    "write_role_external_id",
    "sts_endpoint",
    "ca_certs",
)
_PARSED: Mapping[str, Callable[[str], Any]] = {"part_size_min": int, "threads": int}


def split_url(
    url: str, context: AdapterContext, *, more: frozenset[str] = frozenset()
) -> tuple[SplitResult, dict[str, str], StoreOptions]:
    """A store's URL: its parts, the query's values named in `more`, and the options in the rest of the query.

    Raises:
        InvalidRequestError: It holds a password, a fragment, or a query that is not understood.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InvalidRequestError(
            "credentials come from the SDK's own chain (environment, profile, role), never from the URL"
        )
    if parts.fragment:
        raise InvalidRequestError("a store URL has no fragment")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InvalidRequestError("a store URL names each option once")
    known = {*_TEXTS, *_PARSED, "capabilities", *more}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidRequestError(f"a store URL has no option {unknown[0]!r}; there are {', '.join(sorted(known))}")
    options: dict[str, Any] = {name: values[name] for name in _TEXTS if values.get(name)}
    for name, parse in _PARSED.items():
        if values.get(name):
            try:
                options[name] = parse(values[name])
            except ValueError as exc:
                raise InvalidRequestError(f"{name} is a number") from exc
    if context.part_size_min is not None:
        options.setdefault("part_size_min", context.part_size_min)
    if values.get("capabilities"):
        options.update(parse_capabilities(values["capabilities"]))
    return parts, {name: values[name] for name in more if name in values}, cast("StoreOptions", options)


def _check_endpoint(name: str, url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise InvalidRequestError(
            f"{name} is a web address such as https://s3.example.com, without user, query or fragment"
        )
    try:
        parts.port  # noqa: B018 - raises where it is none
    except ValueError as exc:
        raise InvalidRequestError(f"{name} names no port") from exc
