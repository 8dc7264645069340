"""Quotas: what each owner has open."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, bindparam, case, update
from sqlalchemy.sql.dml import ReturningInsert

from uploadcore.errors import QuotaExceededError
from uploadcore_sql.inserts import Insert, per_dialect
from uploadcore_sql.running import Run
from uploadcore_sql.tables import quotas

__all__ = ["SqlQuotas"]

_c = quotas.c
_size = bindparam("size", type_=BigInteger)
_max_uploads = bindparam("max_uploads", type_=BigInteger)
_max_bytes = bindparam("max_bytes", type_=BigInteger)


def _reserving(new: Insert) -> ReturningInsert[int]:
    reserve = new.values(open_uploads=1, bytes_in_flight=_size)
    return reserve.on_conflict_do_update(
        index_elements=[_c.owner],
        set_={"open_uploads": _c.open_uploads + 1, "bytes_in_flight": _c.bytes_in_flight + _size},
        where=(_max_uploads.is_(None) | (_c.open_uploads < _max_uploads))
        & (_max_bytes.is_(None) | (_c.bytes_in_flight + _size <= _max_bytes)),
    ).returning(_c.open_uploads)


_RESERVE = per_dialect(quotas, _reserving)
_RELEASE = (
    update(quotas)
    .where(_c.owner == bindparam("owner_"))
    .values(
        open_uploads=case((_c.open_uploads > 1, _c.open_uploads - 1), else_=0),
        bytes_in_flight=case((_c.bytes_in_flight > _size, _c.bytes_in_flight - _size), else_=0),
    )
)


class SqlQuotas:
    """The quotas, within one transaction."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    async def reserve(self, owner: str, *, size: int, max_uploads: int | None, max_bytes: int | None) -> None:
        """Count one upload and `size` bytes in flight, in one conditional statement."""
        await self._run(_reserve, owner, size, max_uploads, max_bytes)

    async def release(self, owner: str, *, size: int) -> None:
        """Count one upload and `size` bytes less."""
        await self._run(_release, owner, size)


def _reserve(connection: Connection, owner: str, size: int, max_uploads: int | None, max_bytes: int | None) -> None:
    # Counters are never below zero, so what is too much by itself needs no look at them; and the insert needs no condition.
    too_much = (max_uploads is not None and max_uploads < 1) or (max_bytes is not None and size > max_bytes)
    values = {"owner": owner, "size": size, "max_uploads": max_uploads, "max_bytes": max_bytes}
    if too_much or connection.execute(_RESERVE[connection.dialect.name], values).one_or_none() is None:
        limits = {"uploads open at a time": max_uploads, "bytes in flight": max_bytes}
        told = " and ".join(f"{limit} {what}" for what, limit in limits.items() if limit is not None)
        raise QuotaExceededError(f"{size} bytes more would pass the limit of {told}: finish or abort an upload first")


def _release(connection: Connection, owner: str, size: int) -> None:
    connection.execute(_RELEASE, {"owner_": owner, "size": size})
