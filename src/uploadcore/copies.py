"""Records as JSON values, and back: how copies of them lie in a cache. They hold no URL, token or secret.

What decodes trusts what it is given to be whole, and raises whatever it meets otherwise: `cached` takes any of it for a miss. So another
version of this code may write a record in another way.
"""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Any

from uploadcore.address import Address
from uploadcore.file import Checksum, ChecksumAlgorithm, File, FileStatus, VerifiedBy, Visibility
from uploadcore.plan import PartPlan
from uploadcore.states import UploadState
from uploadcore.upload import Expected, Reason, Strategy, Timer, Upload

__all__ = ["file_from", "file_values", "upload_from", "upload_values"]

_UPLOAD_PLAIN = (
    "id",
    "owner",
    "file_id",
    "filename",
    "content_type",
    "fingerprint",
    "reserved_bytes",
    "version",
    "lease_owner",
)
# Without `called_at`, which the version before does not know and nobody who reads copies asks for.
_UPLOAD_TIMES = ("created_at", *(timer.value for timer in Timer if timer is not Timer.CALLED))
_FILE_PLAIN = (
    "id",
    "owner",
    "name",
    "upload_id",
    "content_type",
    "size",
    "title",
    "description",
    "manifest_url",
    "version",
)
_FILE_TIMES = ("created_at", "updated_at", "lease_until")


def upload_values(upload: Upload) -> dict[str, Any]:
    """An upload as JSON values."""
    values = _plain(upload, _UPLOAD_PLAIN, _UPLOAD_TIMES)
    plan, address, expected = upload.plan, upload.address, upload.expected
    values["plan"] = [plan.part_size, plan.size, plan.max_parts]
    values["address"] = [address.bucket, address.key, address.storage_upload_id]
    values["state"], values["strategy"], values["reason"] = upload.state, upload.strategy, upload.reason
    values["metadata"] = dict(upload.metadata)
    values["checksum"] = _checksum_values(upload.checksum)
    if expected is not None:
        values["expected"] = [
            expected.part_count,
            expected.size,
            _checksum_values(expected.checksum),
            expected.parts_digest,
        ]
    return values


def upload_from(values: dict[str, Any]) -> Upload:
    """The upload that `upload_values` was given."""
    _read_times(values, _UPLOAD_TIMES)
    expected = values.get("expected")
    values["plan"] = PartPlan(*values["plan"])
    values["address"] = Address(*values["address"])
    values["state"], values["strategy"] = UploadState(values["state"]), Strategy(values["strategy"])
    values["reason"] = None if values["reason"] is None else Reason(values["reason"])
    values["metadata"] = MappingProxyType(values["metadata"])
    values["checksum"] = _checksum_from(values["checksum"])
    if expected is not None:
        part_count, size, checksum, *parts_digest = expected  # the version before wrote three
        values["expected"] = Expected(part_count, size, _checksum_from(checksum), *parts_digest)
    return Upload(**values)


def file_values(file: File) -> dict[str, Any]:
    """A file as JSON values."""
    values = _plain(file, _FILE_PLAIN, _FILE_TIMES)
    values["address"] = [file.address.bucket, file.address.key]
    values["status"], values["visibility"], values["verified_by"] = file.status, file.visibility, file.verified_by
    values["labels"] = file.labels
    values["metadata"] = dict(file.metadata)
    values["checksum"] = _checksum_values(file.checksum)
    return values


def file_from(values: dict[str, Any]) -> File:
    """The file that `file_values` was given."""
    _read_times(values, _FILE_TIMES)
    values["address"] = Address(*values["address"])
    values["status"], values["visibility"] = FileStatus(values["status"]), Visibility(values["visibility"])
    values["verified_by"] = None if values["verified_by"] is None else VerifiedBy(values["verified_by"])
    values["labels"] = tuple(values["labels"])
    values["metadata"] = MappingProxyType(values["metadata"])
    values["checksum"] = _checksum_from(values["checksum"])
    return File(**values)


def _plain(record: Upload | File, plain: tuple[str, ...], times: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in plain}
    for name in times:
        moment = getattr(record, name)
        values[name] = None if moment is None else moment.isoformat()
    return values


def _read_times(values: dict[str, Any], times: tuple[str, ...]) -> None:
    for name in times:
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])


def _checksum_values(checksum: Checksum | None) -> list[str] | None:
    return None if checksum is None else [checksum.algorithm, checksum.value]


def _checksum_from(values: list[str] | None) -> Checksum | None:
    return None if values is None else Checksum(ChecksumAlgorithm(values[0]), values[1])
