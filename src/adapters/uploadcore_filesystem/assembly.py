"""How parts become the data of one object."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from uploadcore.errors import PartsRejectedError
from uploadcore.plan import StoredPart
from uploadcore_filesystem.disk import copy_range, sync_file, unlink_if_there
from uploadcore_filesystem.records import PartRecord

__all__ = ["assemble", "assembled_etag"]


def assembled_etag(named: Sequence[StoredPart]) -> str:
    """The object's ETag: opaque, and the same whenever the same parts are named."""
    digest = hashlib.sha256("".join(part.etag for part in named).encode()).hexdigest()
    return f'"{digest[:32]}-{len(named)}"'


def assemble(folder: Path, records: Sequence[PartRecord]) -> str:
    """Make one durable file of the parts; return its name below `folder`.

    Costs nothing where the parts lie behind one another in `data`, or there is one only. Otherwise (their lengths were not known when their
    URLs were signed, or are not what was planned) they are copied, and stay as they are.

    Raises:
        PartsRejectedError: A file is shorter than its part.
    """
    if _is_contiguous(records):
        size = sum(record.size for record in records)
        if os.stat(folder / "data").st_size < size:
            raise PartsRejectedError("the data file is shorter than its parts: something else changed it")
        return "data"
    if len(records) == 1 and records[0].offset is None:
        return f"chunks/{records[0].etag}"
    target = folder / "assembled"
    unlink_if_there(target)
    try:
        _copy(folder, records, target)
    except OSError:
        unlink_if_there(target)
        raise
    return target.name


def _is_contiguous(records: Sequence[PartRecord]) -> bool:
    position = 0
    for record in records:
        if record.offset != position:
            return False
        position += record.size
    return True


def _copy(folder: Path, records: Sequence[PartRecord], target: Path) -> None:
    """All parts, one behind the other. A part that is shorter than its record ends in an `OSError`."""
    position = 0
    output = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for record in records:
            own = record.offset is None
            source = os.open(folder / "chunks" / record.etag if own else folder / "data", os.O_RDONLY)
            try:
                copy_range(source, record.offset or 0, output, position, record.size)
            finally:
                os.close(source)
            position += record.size
        sync_file(output)
    finally:
        os.close(output)
