"""Uploads: their statements, and what a row means.

A transition is one UPDATE, conditional on the version and on timers, which sets the timers by the database's clock and returns them.
Statements are built once for each shape (which timers, which conditions; a dozen in all), so that SQLAlchemy compiles them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, Select, Text, bindparam, select, tuple_, update
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from uploadcore.errors import VersionConflictError
from uploadcore.plan import PartPlan
from uploadcore.states import UploadState
from uploadcore.upload import Address, Expected, Reason, Strategy, Timer, Transition, Upload
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import checksum_from, checksum_values, json_text, mapping_from
from uploadcore_sql.events import event_values, insert_events, write_events
from uploadcore_sql.inserts import Insert, per_dialect
from uploadcore_sql.running import Run, one_statement
from uploadcore_sql.tables import uploads

__all__ = ["SqlUploads"]

_c = uploads.c
_TIMERS = [_c[timer.value] for timer in Timer]


def _adding(new: Insert) -> ReturningInsert[*tuple[Any, ...]]:
    add = new.values(
        version=1,
        created_at=database_now(),
        expires_at=database_now() + bindparam("lifetime", type_=BigInteger),
        lease_until=database_now() + bindparam("lease", type_=BigInteger),  # NULL stays NULL
    )
    # A broken constraint would end the transaction on PostgreSQL; this leaves it as it was, on both.
    return add.on_conflict_do_nothing().returning(_c.version, _c.created_at, _c.lease_owner, *_TIMERS)


_INSERT = per_dialect(uploads, _adding)
_GET = select(uploads).where(_c.id == bindparam("id_"))
_DUE = (
    select(uploads).where(_c.due_at <= database_now()).order_by(_c.due_at).limit(bindparam("limit_", type_=BigInteger))
)
_BY_KEYS = select(uploads).where(_c.key.in_(bindparam("keys", expanding=True)))

_FROZEN = frozenset({"id", "owner", "key", "fingerprint"})
"""What no transition changes, and what lies in an index that need not be touched, then."""


class SqlUploads:
    """The uploads, within one transaction.

    Args:
        run: Runs their queries.
        wrote: Called when an event was written.
    """

    __slots__ = ("_run", "_wrote")

    def __init__(self, run: Run, wrote: Callable[[], None]) -> None:
        self._run = run
        self._wrote = wrote

    async def add(self, upload: Upload, *, lifetime: timedelta, lease: timedelta | None) -> Upload:
        """Insert; return it as it is now. Raises `VersionConflictError` where its id or storage key is there already."""
        return await self._run(_add, upload, lifetime, lease)

    async def get(self, upload_id: str) -> Upload | None:
        """The upload, whoever owns it."""
        return await self._run(_get, upload_id)

    async def save(self, transition: Transition) -> Upload:
        """Carry out a transition in one conditional statement, and write its events."""
        saved = await self._run(_save, transition)
        if transition.events:
            self._wrote()
        return saved

    async def find(
        self,
        *,
        owner: str,
        state: UploadState | None,
        fingerprint: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Upload]:
        """An owner's uploads, newest first, strictly after the cursor."""
        return await self._run(_find, owner=owner, state=state, fingerprint=fingerprint, before=before, limit=limit)

    async def due(self, limit: int) -> list[Upload]:
        """Uploads somebody should see to, oldest timer first."""
        return await self._run(_due, limit)

    async def by_keys(self, keys: Sequence[str]) -> dict[str, Upload]:
        """The uploads at these storage keys, by key."""
        return await self._run(_by_keys, keys)


def _add(connection: Connection, upload: Upload, lifetime: timedelta, lease: timedelta | None) -> Upload:
    values = _values(upload) | {
        "id": upload.id,
        "owner": upload.owner,
        "key": upload.address.key,
        "fingerprint": upload.fingerprint,
        "lease_owner": upload.lease_owner,
        "lifetime": to_microseconds(lifetime),
        "lease": None if lease is None else to_microseconds(lease),
    }
    row = connection.execute(_INSERT[connection.dialect.name], values).one_or_none()
    if row is None:
        raise VersionConflictError(
            "an upload of that id, or at that storage key, is there already", upload_id=upload.id
        )
    return _with_timers(replace(upload, created_at=from_microseconds(row.created_at)), row)


@one_statement
def _get(connection: Connection, upload_id: str) -> Upload | None:
    row = connection.execute(_GET, {"id_": upload_id}).one_or_none()
    return None if row is None else _upload(row)


@one_statement
def _save(connection: Connection, transition: Transition) -> Upload:
    upload = transition.upload
    values: dict[str, Any] = {f"new_{name}": value for name, value in _values(upload).items()}
    values["id_"] = upload.id
    values["version_"] = upload.version
    values["held_by"] = upload.lease_owner
    if Timer.LEASE in transition.timers:
        values["new_lease_owner"] = transition.lease_owner
    for timer, after in transition.timers.items():
        values[f"{timer.value}_after"] = None if after is None else to_microseconds(after)
    for number, condition in enumerate(transition.conditions):
        values[f"margin_{number}"] = to_microseconds(condition.margin)
    shape = tuple((condition.timer, condition.passed) for condition in transition.conditions)
    timers, events = tuple(transition.timers), transition.events
    # PostgreSQL takes the change and its events in one statement, which saves a round trip.
    is_together = bool(events) and connection.dialect.name == "postgresql"
    if is_together:
        for number, event in enumerate(events):
            values |= event_values(event, f"_of_{number}")
        row = connection.execute(_update_and_tell(timers, shape, len(events)), values).one_or_none()
    else:
        row = connection.execute(_update(timers, shape), values).one_or_none()
    if row is None:
        if_so = " or a time condition does not hold" if shape else ""
        raise VersionConflictError(
            f"somebody else changed upload {upload.id!r}{if_so}: read it again", upload_id=upload.id
        )
    if not is_together:
        write_events(connection, events)
    return _with_timers(upload, row)


@cache
def _update(timers: tuple[Timer, ...], conditions: tuple[tuple[Timer, bool], ...]) -> ReturningUpdate[*tuple[Any, ...]]:
    """The statement that saves a transition which sets or clears these timers if these conditions hold."""
    now = database_now()
    statement = update(uploads).where(
        _c.id == bindparam("id_"),
        _c.version == bindparam("version_"),
        _c.lease_owner.is_not_distinct_from(bindparam("held_by", type_=Text)),
    )
    for number, (timer, passed) in enumerate(conditions):
        moment = _c[timer.value] + bindparam(f"margin_{number}", type_=BigInteger)
        statement = statement.where(moment <= now if passed else moment > now)
    changes: dict[str, Any] = {name: bindparam(f"new_{name}", type_=_c[name].type) for name in _CHANGING}
    changes["version"] = _c.version + 1
    for timer in timers:
        changes[timer.value] = now + bindparam(f"{timer.value}_after", type_=BigInteger)  # NULL clears it
    if Timer.LEASE in timers:
        changes["lease_owner"] = bindparam("new_lease_owner", type_=Text)
    return statement.values(changes).returning(_c.version, _c.lease_owner, *_TIMERS)


@cache
def _update_and_tell(
    timers: tuple[Timer, ...], conditions: tuple[tuple[Timer, bool], ...], events: int
) -> Select[*tuple[Any, ...]]:
    """The same, with so many events, for PostgreSQL."""
    saved = _update(timers, conditions).cte("saved")
    return select(saved).add_cte(insert_events(saved, events).cte("told"))


@one_statement
def _find(
    connection: Connection,
    *,
    owner: str,
    state: UploadState | None,
    fingerprint: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[Upload]:
    values: dict[str, Any] = {"owner_": owner, "limit_": limit}
    if state is not None:
        values["state_"] = state.value
    if fingerprint is not None:
        values["fingerprint_"] = fingerprint
    if before is not None:
        values["before_at"], values["before_id"] = to_microseconds(before[0]), before[1]
    statement = _search(by_state=state is not None, by_fingerprint=fingerprint is not None, paged=before is not None)
    return [_upload(row) for row in connection.execute(statement, values)]


@cache
def _search(*, by_state: bool, by_fingerprint: bool, paged: bool) -> Select[*tuple[Any, ...]]:
    statement = select(uploads).where(_c.owner == bindparam("owner_"))
    if by_fingerprint:
        statement = statement.where(_c.fingerprint == bindparam("fingerprint_"))
    if by_state:
        # Few uploads have one fingerprint, and SQLite, which counts nothing, might take them by their state: not what is an expression.
        state = _c.state + "" if by_fingerprint else _c.state
        statement = statement.where(state == bindparam("state_"))
    if paged:
        cursor = tuple_(bindparam("before_at", type_=BigInteger), bindparam("before_id", type_=Text))
        statement = statement.where(tuple_(_c.created_at, _c.id) < cursor)
    newest_first = statement.order_by(_c.created_at.desc(), _c.id.desc())
    return newest_first.limit(bindparam("limit_", type_=BigInteger))


@one_statement
def _due(connection: Connection, limit: int) -> list[Upload]:
    return [_upload(row) for row in connection.execute(_DUE, {"limit_": limit})]


@one_statement
def _by_keys(connection: Connection, keys: Sequence[str]) -> dict[str, Upload]:
    found = [_upload(row) for row in connection.execute(_BY_KEYS, {"keys": list(keys)})]
    return {upload.address.key: upload for upload in found}


def _values(upload: Upload) -> dict[str, Any]:
    """The columns a transition may change: all but the `_FROZEN` and those the database sets."""
    plan, expected = upload.plan, upload.expected
    return {
        "state": upload.state.value,
        "file_id": upload.file_id,
        "filename": upload.filename,
        "content_type": upload.content_type,
        "metadata": json_text(upload.metadata),
        "strategy": upload.strategy.value,
        "part_size": plan.part_size,
        "size": plan.size,
        "max_parts": plan.max_parts,
        "bucket": upload.address.bucket,
        "storage_upload_id": upload.address.storage_upload_id,
        **checksum_values(upload.checksum),
        "expected_part_count": None if expected is None else expected.part_count,
        "expected_size": None if expected is None else expected.size,
        **checksum_values(None if expected is None else expected.checksum, "expected_"),
        "expected_parts_digest": _stamped(upload),
        "reason": None if upload.reason is None else upload.reason.value,
        "reserved_bytes": upload.reserved_bytes,
    }


def _stamped(upload: Upload) -> str | None:
    """The digest of parts with the version it is saved with.

    Code of revision 0003 does not know the column: what it saves leaves there what was, and that is of other parts perhaps.
    """
    digest = None if upload.expected is None else upload.expected.parts_digest
    return None if digest is None else f"{upload.version + 1} {digest}"


def _unstamped(row: Row[*tuple[Any, ...]]) -> str | None:
    stamp, _, digest = (row.expected_parts_digest or "").partition(" ")
    return digest if stamp == str(row.version) else None


_CHANGING = sorted(
    set(_c.keys()) - _FROZEN - {"version", "created_at", "due_at", "lease_owner", *(timer.value for timer in Timer)}
)


def _upload(row: Row[*tuple[Any, ...]]) -> Upload:
    expected = None
    if row.expected_size is not None:
        checksum = checksum_from(row.expected_checksum_algorithm, row.expected_checksum)
        expected = Expected(row.expected_part_count, row.expected_size, checksum, _unstamped(row))
    upload = Upload(
        id=row.id,
        owner=row.owner,
        file_id=row.file_id,
        filename=row.filename,
        content_type=row.content_type,
        plan=PartPlan(part_size=row.part_size, size=row.size, max_parts=row.max_parts),
        strategy=Strategy(row.strategy),
        address=Address(bucket=row.bucket, key=row.key, storage_upload_id=row.storage_upload_id),
        state=UploadState(row.state),
        metadata=mapping_from(row.metadata),
        fingerprint=row.fingerprint,
        checksum=checksum_from(row.checksum_algorithm, row.checksum),
        expected=expected,
        reason=None if row.reason is None else Reason(row.reason),
        reserved_bytes=row.reserved_bytes,
        created_at=from_microseconds(row.created_at),
    )
    return _with_timers(upload, row)


def _with_timers(upload: Upload, row: Row[*tuple[Any, ...]]) -> Upload:
    """The upload with what the database has set."""
    return replace(
        upload,
        version=row.version,
        expires_at=from_microseconds(row.expires_at),
        lease_until=from_microseconds(row.lease_until),
        lease_owner=row.lease_owner,
        fenced_at=from_microseconds(row.fenced_at),
        called_at=from_microseconds(row.called_at),
        lost_at=from_microseconds(row.lost_at),
        recheck_at=from_microseconds(row.recheck_at),
    )
