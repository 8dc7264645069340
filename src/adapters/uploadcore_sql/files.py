"""Files: their statements, and what a row means.

A file's labels are in its row, in their order, and for searching in rows of their own, which are touched only when the labels change:
`indexed_labels`, as it was before the save, tells.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    case,
    delete,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from uploadcore.address import Address
from uploadcore.errors import VersionConflictError
from uploadcore.file import File, FileStatus, VerifiedBy, Visibility
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import checksum_from, checksum_values, json_text, mapping_from
from uploadcore_sql.running import Run, one_statement
from uploadcore_sql.tables import file_labels, files, uploads

__all__ = ["SqlFiles"]

_c = files.c
_label = file_labels.c


def _of_content(own: Column[Any], uploads_own: Column[Any]) -> ColumnElement[Any]:
    """A column of the address: the file's own, or its upload's where revision 0001 has made the row or changed its content."""
    from_upload = select(uploads_own).where(uploads.c.id == _c.upload_id).scalar_subquery()
    return case((_c.address_upload_id == _c.upload_id, own), else_=from_upload).label(own.name)


_ADDRESS = (_of_content(_c.bucket, uploads.c.bucket), _of_content(_c.key, uploads.c.key))
_READ = select(*(column for column in _c if column.name not in {"bucket", "key", "indexed_labels"}), *_ADDRESS)
_INSERT = (
    insert(files)
    .values(version=0, created_at=database_now(), updated_at=database_now(), lease_until=None)
    .returning(_c.created_at, _c.updated_at)
)
_GET = _READ.where(_c.id == bindparam("id_"))
_HOLD = _GET.with_for_update(of=files)  # SQLite has one writer at a time, and no words for this
_DUE = (
    _READ.where(_c.status == FileStatus.DELETING.value, _c.lease_until <= database_now())
    .order_by(_c.lease_until)
    .limit(bindparam("limit_", type_=BigInteger))
)
_ADD_LABELS = insert(file_labels)
_DROP_LABELS = delete(file_labels).where(
    _label.owner == bindparam("owner_"),
    _label.label.in_(bindparam("labels_", expanding=True)),
    _label.created_at == bindparam("created_at_", type_=BigInteger),
    _label.file_id == bindparam("id_"),
)
_NOTE_LABELS = update(files).where(_c.id == bindparam("id_")).values(indexed_labels=bindparam("labels_"))


class SqlFiles:
    """The files, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def add(self, file: File) -> File:
        """Insert; return it as it is now. Raises `VersionConflictError` where its id is there already."""
        return await self._run(_add, file)

    async def get(self, file_id: str, *, hold: bool = False) -> File | None:
        """The file, whoever owns it; `hold`: nobody else changes it until this transaction ends."""
        return await self._run(_get, file_id, hold)

    async def save(self, file: File, *, lease: timedelta | None = None, lease_passed: bool = False) -> File:
        """Update where `file.version` still stands; return it as it is now."""
        return await self._run(_save, file, lease, lease_passed)

    async def find(
        self,
        *,
        owner: str,
        status: FileStatus | None,
        label: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[File]:
        """An owner's files, newest first, strictly after the cursor `before`."""
        return await self._run(_find, owner=owner, status=status, label=label, before=before, limit=limit)

    async def due(self, limit: int) -> list[File]:
        """Files that are `deleting` and whose lease has passed."""
        return await self._run(_due, limit)


def _add(connection: Connection, file: File) -> File:
    values = {"id": file.id, "owner": file.owner, "indexed_labels": json_text(file.labels)} | _values(file)
    row = connection.execute(_INSERT, values).one()
    _add_labels(connection, file, set(file.labels), row.created_at)
    return replace(
        file,
        version=0,
        created_at=from_microseconds(row.created_at),
        updated_at=from_microseconds(row.updated_at),
        lease_until=None,
    )


@one_statement
def _get(connection: Connection, file_id: str, hold: bool) -> File | None:
    row = connection.execute(_HOLD if hold else _GET, {"id_": file_id}).one_or_none()
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
    if row.indexed_labels != values["new_labels"]:
        _index_labels(connection, file, row)
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
    return statement.values(changes).returning(
        _c.version, _c.created_at, _c.updated_at, _c.lease_until, _c.indexed_labels
    )


_CHANGING = sorted(
    set(_c.keys()) - {"id", "owner", "version", "created_at", "updated_at", "lease_until", "indexed_labels"}
)


def _index_labels(connection: Connection, file: File, row: Row[*tuple[Any, ...]]) -> None:
    """Make the rows of the labels those of the file, whose row this transaction has just written."""
    before, after = set(json.loads(row.indexed_labels)), set(file.labels)
    if dropped := sorted(before - after):
        values = {"owner_": file.owner, "labels_": dropped, "created_at_": row.created_at, "id_": file.id}
        connection.execute(_DROP_LABELS, values)
    _add_labels(connection, file, after - before, row.created_at)
    connection.execute(_NOTE_LABELS, {"id_": file.id, "labels_": json_text(file.labels)})


def _add_labels(connection: Connection, file: File, labels: set[str], created_at: int) -> None:
    if labels:
        row = {"owner": file.owner, "created_at": created_at, "file_id": file.id}
        connection.execute(_ADD_LABELS, [row | {"label": label} for label in sorted(labels)])


@one_statement
def _find(
    connection: Connection,
    *,
    owner: str,
    status: FileStatus | None,
    label: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[File]:
    values: dict[str, Any] = {"owner_": owner, "limit_": limit}
    if status is not None:
        values["status_"] = status.value
    if label is not None:
        values["label_"] = label
    if before is not None:
        values["before_at"], values["before_id"] = to_microseconds(before[0]), before[1]
    statement = _search(by_status=status is not None, by_label=label is not None, paged=before is not None)
    return [_file(row) for row in connection.execute(statement, values)]


@cache
def _search(*, by_status: bool, by_label: bool, paged: bool) -> Select[*tuple[Any, ...]]:
    statement = _READ
    owner, created_at, file_id = _c.owner, _c.created_at, _c.id
    if by_label:
        statement = statement.join_from(file_labels, files, _c.id == _label.file_id)
        statement = statement.where(_label.label == bindparam("label_"))
        owner, created_at, file_id = _label.owner, _label.created_at, _label.file_id
    statement = statement.where(owner == bindparam("owner_"))
    if by_status:
        statement = statement.where(_c.status == bindparam("status_"))
    else:
        # Spelt as in the index, which is partial: a parameter would not show that it will do.
        statement = statement.where(text("uploadcore_files.status <> 'deleted'"))
    if paged:
        cursor = tuple_(bindparam("before_at", type_=BigInteger), bindparam("before_id", type_=Text))
        statement = statement.where(tuple_(created_at, file_id) < cursor)
    newest_first = statement.order_by(created_at.desc(), file_id.desc())
    return newest_first.limit(bindparam("limit_", type_=BigInteger))


@one_statement
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
        "visibility": file.visibility.value,
        "bucket": file.address.bucket,
        "key": file.address.key,
        "address_upload_id": file.upload_id,
    }


def _file(row: Row[*tuple[Any, ...]]) -> File:
    return File(
        id=row.id,
        owner=row.owner,
        name=row.name,
        upload_id=row.upload_id,
        content_type=row.content_type,
        address=Address(bucket=row.bucket, key=row.key),
        status=FileStatus(row.status),
        visibility=Visibility(row.visibility),
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
