"""Files: their statements, and what a row means."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, bindparam, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from uploadcore.errors import VersionConflictError
from uploadcore.file import File, FileStatus, VerifiedBy
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import checksum_from, checksum_values, json_text, mapping_from
from uploadcore_sql.running import Run
from uploadcore_sql.tables import files

__all__ = ["SqlFiles"]

_c = files.c

_INSERT = (
    insert(files)
    .values(version=0, created_at=database_now(), updated_at=database_now(), lease_until=None)
    .returning(_c.created_at, _c.updated_at)
)
_GET = select(files).where(_c.id == bindparam("id_"))
_DUE = (
    select(files)
    .where(_c.status == FileStatus.DELETING.value, _c.lease_until <= database_now())
    .order_by(_c.lease_until)
    .limit(bindparam("limit_", type_=BigInteger))
)


class SqlFiles:
    """The files, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def add(self, file: File) -> File:
        """Insert; return it as it is now. Raises `VersionConflictError` where its id is there already."""
        return await self._run(_add, file)

    async def get(self, file_id: str) -> File | None:
        """The file, whoever owns it."""
        return await self._run(_get, file_id)

    async def save(self, file: File, *, lease: timedelta | None = None, lease_passed: bool = False) -> File:
        """Update where `file.version` still stands; return it as it is now."""
        return await self._run(_save, file, lease, lease_passed)

    async def due(self, limit: int) -> list[File]:
        """Files that are `deleting` and whose lease has passed."""
        return await self._run(_due, limit)


def _add(connection: Connection, file: File) -> File:
    row = connection.execute(_INSERT, {"id": file.id, "owner": file.owner} | _values(file)).one()
    return replace(
        file,
        version=0,
        created_at=from_microseconds(row.created_at),
        updated_at=from_microseconds(row.updated_at),
        lease_until=None,
    )


def _get(connection: Connection, file_id: str) -> File | None:
    row = connection.execute(_GET, {"id_": file_id}).one_or_none()
    return None if row is None else _file(row)


def _save(connection: Connection, file: File, lease: timedelta | None, lease_passed: bool) -> File:
    values: dict[str, Any] = {f"new_{name}": value for name, value in _values(file).items()}
    values["id_"] = file.id
    values["version_"] = file.version
    values["lease"] = None if lease is None else to_microseconds(lease)
    row = connection.execute(_update(lease_passed=lease_passed), values).one_or_none()
    if row is None:
        if_so = " or somebody else holds its lease" if lease_passed else ""
        raise VersionConflictError(f"somebody else changed file {file.id!r}{if_so}: read it again", file_id=file.id)
    return replace(
        file,
        version=row.version,
        created_at=from_microseconds(row.created_at),
        updated_at=from_microseconds(row.updated_at),
        lease_until=from_microseconds(row.lease_until),
    )


@cache
def _update(*, lease_passed: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    now = database_now()
    statement = update(files).where(_c.id == bindparam("id_"), _c.version == bindparam("version_"))
    if lease_passed:
        statement = statement.where(_c.lease_until <= now)
    changes: dict[str, Any] = {name: bindparam(f"new_{name}", type_=_c[name].type) for name in _CHANGING}
    changes["version"] = _c.version + 1
    changes["updated_at"] = now
    changes["lease_until"] = now + bindparam("lease", type_=BigInteger)  # NULL clears it
    return statement.values(changes).returning(_c.version, _c.created_at, _c.updated_at, _c.lease_until)


_CHANGING = sorted(set(_c.keys()) - {"id", "owner", "version", "created_at", "updated_at", "lease_until"})


def _due(connection: Connection, limit: int) -> list[File]:
    return [_file(row) for row in connection.execute(_DUE, {"limit_": limit})]


def _values(file: File) -> dict[str, Any]:
    """The columns a save may change: all but id, owner and what the database sets."""
    return {
        "status": file.status.value,
        "name": file.name,
        "upload_id": file.upload_id,
        "content_type": file.content_type,
        "size": file.size,
        **checksum_values(file.checksum),
        "verified_by": None if file.verified_by is None else file.verified_by.value,
        "title": file.title,
        "description": file.description,
        "labels": json_text(file.labels),
        "metadata": json_text(file.metadata),
        "manifest_url": file.manifest_url,
    }


def _file(row: Row[*tuple[Any, ...]]) -> File:
    return File(
        id=row.id,
        owner=row.owner,
        name=row.name,
        upload_id=row.upload_id,
        content_type=row.content_type,
        status=FileStatus(row.status),
        size=row.size,
        checksum=checksum_from(row.checksum_algorithm, row.checksum),
        verified_by=None if row.verified_by is None else VerifiedBy(row.verified_by),
        title=row.title,
        description=row.description,
        labels=tuple(json.loads(row.labels)),
        metadata=mapping_from(row.metadata),
        manifest_url=row.manifest_url,
        version=row.version,
        created_at=from_microseconds(row.created_at),
        updated_at=from_microseconds(row.updated_at),
        lease_until=from_microseconds(row.lease_until),
    )
