"""Events on their way: numbered, claimed in order per upload and destination, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.sql.dml import Delete, Update

from uploadcore.ports import Delivery, FailedDelivery
from uploadcore_sql.clock import database_now, to_microseconds
from uploadcore_sql.events import event_from
from uploadcore_sql.running import one_statement
from uploadcore_sql.tables import deliveries, events, installation

__all__ = ["claim", "done", "failed", "number", "position_of"]

_c, _d = events.c, deliveries.c
_earlier, _later = deliveries.alias("earlier"), deliveries.alias("later")
_BIG = BigInteger()

# --- numbering: whoever has locked the installation's row is the one who numbers, until it commits ---
_TURN = (
    select(installation.c.last_sequence)
    .where(exists().where(_c.sequence.is_(None)))
    .with_for_update(of=installation, skip_locked=True)
)
_untaken = select(_c.position).where(_c.sequence.is_(None)).order_by(_c.position).limit(bindparam("limit_", type_=_BIG))
# Locked before they are counted (and as a CTE: see `_unclaimed`), or what a purge drops after the statement began would take a number with it.
_locked = _untaken.with_for_update().cte("locked")


def _numbering(counted: Select[*tuple[Any, ...]], position: ColumnElement[int]) -> Update:
    unnumbered = counted.add_columns(func.row_number().over(order_by=position).label("number")).subquery("unnumbered")
    return (
        update(events)
        .where(_c.position == unnumbered.c.position)
        .values(sequence=bindparam("last", type_=_BIG) + unnumbered.c.number)
    )


# On SQLite nobody else is there; and its driver counts no rows of a statement that begins with a CTE.
_NUMBER = {
    "sqlite": _numbering(_untaken, _c.position),
    "postgresql": _numbering(select(_locked.c.position), _locked.c.position),
}
_NUMBER_FOR_NOBODY = {
    dialect: numbering.values(delivered_at=func.coalesce(_c.delivered_at, database_now()))
    for dialect, numbering in _NUMBER.items()
}
# An event is due no sooner than what it has to wait for: a claim looks at whatever is due. Locked, so that who is just done with that sees this one
# afterwards, and makes it due (see `_DUE_NOW`).
_waited_for = (
    select(_earlier.c.due_at)
    .where(
        _earlier.c.destination == bindparam("destination_", type_=Text),
        _earlier.c.upload_id == _c.upload_id,
        _earlier.c.dead_at.is_(None),
        _earlier.c.due_at > database_now(),
    )
    .with_for_update(read=True, key_share=True, skip_locked=True)
    .correlate(events)
    .subquery("waited_for")
)
_first_due_at = func.coalesce(select(func.max(_waited_for.c.due_at)).scalar_subquery(), database_now())
# What the code of revision 0002 has delivered has a position, but goes nowhere else.
_SEND = insert(deliveries).from_select(
    ["sequence", "destination", "upload_id", "attempts", "due_at"],
    select(_c.sequence, bindparam("destination_", type_=Text), _c.upload_id, literal(0), _first_due_at).where(
        _c.sequence > bindparam("last", type_=_BIG),
        _c.sequence <= bindparam("newest", type_=_BIG),
        _c.delivered_at.is_(None),
    ),
)
_COUNT = update(installation).values(last_sequence=bindparam("newest", type_=_BIG))

# --- claiming ---
_FIRST_DUE = (
    select(_d.sequence)
    .where(
        _d.destination == bindparam("destination_"),
        _d.dead_at.is_(None),
        _d.due_at <= database_now(),
        ~exists().where(
            _earlier.c.destination == _d.destination,
            _earlier.c.upload_id == _d.upload_id,
            _earlier.c.dead_at.is_(None),
            _earlier.c.sequence < _d.sequence,
        ),
    )
    .order_by(_d.due_at, _d.sequence)
    .limit(bindparam("limit_", type_=_BIG))
)
_leasing = (
    update(deliveries)
    .where(_d.destination == bindparam("destination_"))
    .values(attempts=_d.attempts + 1, due_at=database_now() + bindparam("lease", type_=_BIG))
    .returning(_d.sequence, _d.attempts)
)
# A CTE, which PostgreSQL evaluates once: as a subquery with a limit it may be run again for each row, and claim more than that.
_unclaimed = _FIRST_DUE.with_for_update(skip_locked=True).cte("unclaimed")
_has_event = exists().where(_c.sequence == _d.sequence)
_claimed = _leasing.where(_d.sequence == _unclaimed.c.sequence, _has_event).cte("claimed")
# The code of revision 0002 drops a day later what it has delivered, though it may still have deliveries: nothing is left to deliver then, and
# whatever follows it of its upload would wait for ever.
_orphaned = (
    delete(deliveries)
    .where(
        _d.destination == bindparam("destination_"),
        _d.sequence == _unclaimed.c.sequence,
        ~_has_event,
    )
    .cte("orphaned")
)
_CLAIM = {
    "sqlite": _leasing.where(_d.sequence.in_(_FIRST_DUE.scalar_subquery())),
    "postgresql": select(_claimed.c.attempts.label("attempt"), events)
    .join(events, _c.sequence == _claimed.c.sequence)
    .order_by(_c.sequence)
    .add_cte(_orphaned),
}
_BY_SEQUENCE = select(events).where(_c.sequence.in_(bindparam("sequences", expanding=True)))

# --- what became of it ---
_IN_ORDER = _BY_SEQUENCE.with_only_columns(_c.sequence, _c.upload_id).order_by(_c.position).with_for_update()


def _dropping(*conditions: ColumnElement[bool]) -> dict[str, Delete]:
    """Drops these deliveries to a destination in the order of their positions.

    Whoever changes many keeps to it, so that two who do wait for one another, but not each for the other.
    """
    these = (
        _d.destination == bindparam("destination_"),
        _d.sequence.in_(bindparam("sequences", expanding=True)),
        *conditions,
    )
    in_order = select(_d.sequence).where(*these).order_by(_d.sequence).with_for_update().cte("in_order")
    return {
        "sqlite": delete(deliveries).where(*these),
        "postgresql": delete(deliveries).where(
            _d.destination == bindparam("destination_"), _d.sequence == in_order.c.sequence
        ),
    }


_ARRIVED = _dropping()
_LONG_DEAD = _dropping(_d.dead_at < database_now() - bindparam("dead_older_than", type_=_BIG))
_DONE = (
    update(events)
    .where(
        _c.sequence.in_(bindparam("sequences", expanding=True)),
        _c.delivered_at.is_(None),
        ~exists().where(_d.sequence == _c.sequence),
    )
    .values(delivered_at=database_now())
)
_RETRY_AFTER = bindparam("retry_after", type_=_BIG)
"""NULL: it is a dead letter."""
_FAILED = (
    update(deliveries)
    .where(
        _d.sequence == bindparam("sequence_"),
        _d.destination == bindparam("destination_"),
        _d.attempts == bindparam("attempt"),
        _d.dead_at.is_(None),
    )
    .values(
        due_at=func.coalesce(database_now() + _RETRY_AFTER, _d.due_at),
        dead_at=case((_RETRY_AFTER.is_(None), database_now())),
        error=bindparam("error_", type_=Text),
    )
)
_AFTER_IT = (
    select(_later.c.sequence)
    .where(
        _later.c.destination == bindparam("destination_"),
        _later.c.upload_id == bindparam("upload_id_"),
        _later.c.sequence > bindparam("sequence_"),
        _later.c.dead_at.is_(None),
        _later.c.due_at < database_now() + _RETRY_AFTER,
        exists().where(
            _d.destination == bindparam("destination_"),
            _d.sequence == bindparam("sequence_"),
            _d.attempts == bindparam("attempt"),
            _d.dead_at.is_(None),
        ),
    )
    # Whoever has it is not waited for: this saves work, and decides nothing.
    .with_for_update(key_share=True, skip_locked=True)
)
_HELD_BACK = (
    update(deliveries)
    .where(_d.destination == bindparam("destination_"), _d.sequence.in_(_AFTER_IT))
    .values(due_at=database_now() + _RETRY_AFTER)
)
"""What waits for an event that has failed is due no sooner: else each claim would look at all that is held back, and pass it over.

Code of revision 0005 does not know this: what it leaves due is looked at, and what it is done with makes nothing due, but then that is due as soon
as the failed event was to be tried again, or its lease would have ended.
"""
_UNTRIED = (
    select(_later.c.sequence)
    .where(
        _later.c.destination == bindparam("destination_"),
        _later.c.upload_id.in_(bindparam("uploads", expanding=True)),
        _later.c.dead_at.is_(None),
        _later.c.due_at > database_now(),
        _later.c.attempts == 0,
    )
    .with_for_update(key_share=True, skip_locked=True)
)
_DUE_NOW = (
    update(deliveries)
    .where(_d.destination == bindparam("destination_"), _d.sequence.in_(_UNTRIED))
    .values(due_at=database_now())
)
"""What has waited for an event that is done with. What was tried itself has a reason of its own not to be due."""


def number(connection: Connection, destinations: Collection[str], limit: int) -> int:
    """Give committed events their positions and deliveries, unless another transaction is at it; how many."""
    # The row is locked by one statement and the events are looked for by the next: on PostgreSQL each sees what was committed when it began, and
    # the second must see all that the one who numbered before has done.
    last: int | None = connection.execute(_TURN).scalar_one_or_none()
    if last is None:
        return 0
    numbering = _NUMBER if destinations else _NUMBER_FOR_NOBODY
    numbered = connection.execute(numbering[connection.dialect.name], {"last": last, "limit_": limit}).rowcount
    for destination in destinations:
        connection.execute(_SEND, {"destination_": destination, "last": last, "newest": last + numbered})
    connection.execute(_COUNT, {"newest": last + numbered})
    return numbered


@one_statement
def claim(connection: Connection, destination: str, limit: int, lease: timedelta) -> list[Delivery]:
    """The oldest undelivered events that are due there, one per upload, hidden from others for `lease`."""
    values = {"destination_": destination, "limit_": limit, "lease": to_microseconds(lease)}
    rows = connection.execute(_CLAIM[connection.dialect.name], values).all()
    if connection.dialect.name == "postgresql":
        return [Delivery(event_from(row), destination, row.attempt) for row in rows]
    # SQLite returns nothing but the updated table's own columns.
    attempts = {row.sequence: row.attempts for row in rows}
    found = {row.sequence: row for row in connection.execute(_BY_SEQUENCE, {"sequences": sorted(attempts)})}
    if orphaned := sorted(attempts.keys() - found.keys()):  # see `_orphaned`
        connection.execute(_ARRIVED["sqlite"], {"destination_": destination, "sequences": orphaned})
    return [Delivery(event_from(found[at]), destination, attempts[at]) for at in sorted(found)]


def done(connection: Connection, done: Sequence[tuple[int, str]], *, dead_older_than: timedelta | None = None) -> int:
    """Nothing of these positions is to be delivered to these destinations any more; how many were.

    With `dead_older_than`, only what has been dead for longer: it may have been replayed since it was looked up.
    """
    drop, values = _ARRIVED[connection.dialect.name], {}
    if dead_older_than is not None:
        drop, values = _LONG_DEAD[connection.dialect.name], {"dead_older_than": to_microseconds(dead_older_than)}
    sequences = sorted({sequence for sequence, _ in done})
    # Of two that finish an event at two destinations, the second sees that it is the last; in order, so that they don't wait for each other.
    uploads = {row.sequence: row.upload_id for row in connection.execute(_IN_ORDER, {"sequences": sequences})}
    dropped = 0
    for destination in sorted({destination for _, destination in done}):
        there = [sequence for sequence, name in done if name == destination]
        dropped += connection.execute(drop, {"destination_": destination, "sequences": there, **values}).rowcount
        if dead_older_than is None:  # for a dead letter, nothing has waited
            waiting = {uploads[sequence] for sequence in there if sequence in uploads}
            connection.execute(_DUE_NOW, {"destination_": destination, "uploads": sorted(waiting)})
    connection.execute(_DONE, {"sequences": sequences})
    return dropped


def failed(connection: Connection, failures: Sequence[FailedDelivery]) -> None:
    """Each may be claimed again after a while, or is a dead letter; unless it was claimed by another meanwhile."""
    values: list[dict[str, Any]] = [
        {
            "sequence_": position_of(delivery),
            "destination_": delivery.destination,
            "upload_id_": delivery.event.upload_id,
            "attempt": delivery.attempt,
            "retry_after": None if retry_after is None else to_microseconds(retry_after),
            "error_": error,
        }
        for delivery, retry_after, error in failures
    ]
    values.sort(key=itemgetter("destination_", "sequence_"))  # one after the other, and so in order: see `_dropping`
    if values:
        connection.execute(_FAILED, values)
    if retried := [value for value in values if value["retry_after"] is not None]:
        connection.execute(_HELD_BACK, retried)
    dead = [value for value in values if value["retry_after"] is None]
    for destination in {value["destination_"] for value in dead}:
        waiting = {value["upload_id_"] for value in dead if value["destination_"] == destination}
        connection.execute(_DUE_NOW, {"destination_": destination, "uploads": sorted(waiting)})


def position_of(delivery: Delivery) -> int:
    """The position of an event that was claimed."""
    assert delivery.event.position is not None, "set when it was claimed"
    return delivery.event.position
