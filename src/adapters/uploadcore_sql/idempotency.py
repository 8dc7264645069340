"""Idempotency keys: which upload a key made."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import BigInteger, Connection, bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert  # `ON CONFLICT` is the one thing every dialect has a class of its own for

from uploadcore.ports import IdempotencyRecord
from uploadcore_sql.clock import database_now, to_microseconds
from uploadcore_sql.running import Run
from uploadcore_sql.tables import idempotency_keys

__all__ = ["SqlIdempotency"]

_c = idempotency_keys.c

_new = insert(idempotency_keys).values(created_at=database_now())
_CLAIM = _new.on_conflict_do_update(
    index_elements=[_c.owner, _c.key],
    set_={
        "fingerprint": _new.excluded.fingerprint,
        "upload_id": _new.excluded.upload_id,
        "created_at": _new.excluded.created_at,
    },
    where=_c.created_at <= database_now() - bindparam("kept", type_=BigInteger),
).returning(_c.upload_id)
_STANDING = select(_c.fingerprint, _c.upload_id).where(_c.owner == bindparam("owner_"), _c.key == bindparam("key_"))
_PURGE = delete(idempotency_keys).where(_c.created_at < database_now() - bindparam("older_than", type_=BigInteger))


class SqlIdempotency:
    """The idempotency keys, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def claim(self, record: IdempotencyRecord, *, kept: timedelta) -> IdempotencyRecord:
        """Write the record unless one younger than `kept` stands; return the one that stands."""
        return await self._run(_claim, record, kept)

    async def purge(self, *, older_than: timedelta) -> int:
        """Drop records older than that; how many."""
        return await self._run(_purge, older_than)


def _claim(connection: Connection, record: IdempotencyRecord, kept: timedelta) -> IdempotencyRecord:
    values = {
        "owner": record.owner,
        "key": record.key,
        "fingerprint": record.fingerprint,
        "upload_id": record.upload_id,
        "kept": to_microseconds(kept),
    }
    if connection.execute(_CLAIM, values).one_or_none() is not None:
        return record
    standing = connection.execute(_STANDING, {"owner_": record.owner, "key_": record.key}).one()
    return IdempotencyRecord(record.owner, record.key, fingerprint=standing.fingerprint, upload_id=standing.upload_id)


def _purge(connection: Connection, older_than: timedelta) -> int:
    return connection.execute(_PURGE, {"older_than": to_microseconds(older_than)}).rowcount
