"""Idempotency keys: which upload a key made."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import BigInteger, Connection, bindparam, delete, select, tuple_
from sqlalchemy.sql.dml import ReturningInsert

from uploadcore.ports import IdempotencyRecord
from uploadcore_sql.clock import database_now, to_microseconds
from uploadcore_sql.inserts import Insert, per_dialect
from uploadcore_sql.running import Run
from uploadcore_sql.tables import idempotency_keys

__all__ = ["SqlIdempotency"]

PURGED_AT_ONCE = 10_000
"""Rows one purge drops: a fraction of a second of a server's time, far below what ends a statement. Sweeps come again and again."""

_c = idempotency_keys.c


def _claiming(new: Insert) -> ReturningInsert[str]:
    claim = new.values(created_at=database_now())
    return claim.on_conflict_do_update(
        index_elements=[_c.owner, _c.key],
        set_={
            "fingerprint": new.excluded.fingerprint,
            "upload_id": new.excluded.upload_id,
            "created_at": new.excluded.created_at,
        },
        where=_c.created_at <= database_now() - bindparam("kept", type_=BigInteger),
    ).returning(_c.upload_id)


_CLAIM = per_dialect(idempotency_keys, _claiming)
_STANDING = select(_c.fingerprint, _c.upload_id).where(_c.owner == bindparam("owner_"), _c.key == bindparam("key_"))
_OLD = (
    select(_c.owner, _c.key)
    .where(_c.created_at < database_now() - bindparam("older_than", type_=BigInteger))
    .with_for_update(
        skip_locked=True
    )  # another process is dropping them; on SQLite there is none, and this says nothing
    .limit(bindparam("limit_", type_=BigInteger))
)
# A CTE, which PostgreSQL evaluates once: as a subquery with a limit it may be run again for each row, and drop more than that.
_dropped = _OLD.cte("dropped")
_PURGE = {
    "sqlite": delete(idempotency_keys).where(tuple_(_c.owner, _c.key).in_(_OLD)),
    "postgresql": delete(idempotency_keys).where(_c.owner == _dropped.c.owner, _c.key == _dropped.c.key),
}


class SqlIdempotency:
    """The idempotency keys, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def claim(self, record: IdempotencyRecord, *, kept: timedelta) -> IdempotencyRecord:
        """Write the record unless one younger than `kept` stands; return the one that stands."""
        return await self._run(_claim, record, kept)

    async def purge(self, *, older_than: timedelta) -> int:
        """Drop records older than that, `PURGED_AT_ONCE` at most; how many."""
        return await self._run(_purge, older_than)


def _claim(connection: Connection, record: IdempotencyRecord, kept: timedelta) -> IdempotencyRecord:
    values = {
        "owner": record.owner,
        "key": record.key,
        "fingerprint": record.fingerprint,
        "upload_id": record.upload_id,
        "kept": to_microseconds(kept),
    }
    if connection.execute(_CLAIM[connection.dialect.name], values).one_or_none() is not None:
        return record
    standing = connection.execute(_STANDING, {"owner_": record.owner, "key_": record.key}).one()
    return IdempotencyRecord(record.owner, record.key, fingerprint=standing.fingerprint, upload_id=standing.upload_id)


def _purge(connection: Connection, older_than: timedelta) -> int:
    values = {"older_than": to_microseconds(older_than), "limit_": PURGED_AT_ONCE}
    return connection.execute(_PURGE[connection.dialect.name], values).rowcount
