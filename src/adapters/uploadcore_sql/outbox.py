"""The outbox: events written with the change they tell of, numbered, and handed out in order per upload and destination.

An event is one row; what a destination still has to get is one row of `deliveries` each, which goes when it has arrived. So what is claimed from
stays as small as the backlog is, however many events are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.sql.dml import Insert, Update

from uploadcore.events import Event, EventType
from uploadcore.ports import Backlog, DeadLetter, Delivery, FailedDelivery
from uploadcore_sql.clock import database_now, from_microseconds, to_microseconds
from uploadcore_sql.columns import json_text, mapping_from
from uploadcore_sql.running import Run, one_statement
from uploadcore_sql.tables import deliveries, events, installation, uploads

__all__ = ["SqlOutbox", "event_values", "insert_events", "write_events"]

PURGED_AT_ONCE = 10_000
"""Rows one purge drops: a fraction of a second of a server's time, far below what ends a statement. Sweeps come again and again."""
HANDOVER = timedelta(minutes=1)
"""How long a new event is left alone by code of revision 0002, whose relay claims what is due and knows no destinations. Should nobody else be
there any more, it takes over."""
NEVER = timedelta(days=36_500)
"""How long it leaves alone an event of a type that it does not know: reading one would end its relay, and with that its sweeper, each time anew."""
KNOWN_TO_0002 = frozenset(
    {
        "upload.completed",
        "upload.aborted",
        "upload.expired",
        "upload.failed",
        "upload.reopened",
        "file.deleted",
    }
)

_c, _d = events.c, deliveries.c
_earlier = deliveries.alias("earlier")
_BIG = BigInteger()

_INSERT = insert(events).values(
    occurred_at=database_now(), attempts=0, due_at=database_now() + bindparam("handover", type_=_BIG)
)
_LOCK = select(uploads.c.id).where(uploads.c.id == bindparam("upload_id_")).with_for_update()

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
# What the code of revision 0002 has delivered has a position, but goes nowhere else.
_SEND = insert(deliveries).from_select(
    ["sequence", "destination", "upload_id", "attempts", "due_at"],
    select(_c.sequence, bindparam("destination_", type_=Text), _c.upload_id, literal(0), database_now()).where(
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
_IN_ORDER = _BY_SEQUENCE.with_only_columns(_c.position).order_by(_c.position).with_for_update()
_ARRIVED = delete(deliveries).where(
    _d.destination == bindparam("destination_"), _d.sequence.in_(bindparam("sequences", expanding=True))
)
_DONE = (
    update(events)
    .where(
        _c.sequence.in_(bindparam("sequences", expanding=True)),
        _c.delivered_at.is_(None),
        ~exists().where(_d.sequence == _c.sequence),
    )
    .values(delivered_at=database_now())
)
_failing = update(deliveries).where(
    _d.sequence == bindparam("sequence_"),
    _d.destination == bindparam("destination_"),
    _d.attempts == bindparam("attempt"),
    _d.dead_at.is_(None),
)
_FAILED = _failing.values(
    due_at=database_now() + bindparam("retry_after", type_=_BIG), error=bindparam("error_", type_=Text)
)
_DEAD = _failing.values(dead_at=database_now(), error=bindparam("error_", type_=Text))

# --- looking at it, and putting it right ---
_DEAD_LETTERS = (
    select(events, _d.destination, _d.attempts.label("attempt"), _d.dead_at, _d.error)
    .join(events, _c.sequence == _d.sequence)
    .where(
        _d.dead_at.is_not(None),
        tuple_(_d.sequence, _d.destination)
        > tuple_(bindparam("after_sequence", type_=_BIG), bindparam("after_destination", type_=Text)),
    )
    .order_by(_d.sequence, _d.destination)
    .limit(bindparam("limit_", type_=_BIG))
)
_DEAD_LETTERS_OF = _DEAD_LETTERS.where(_d.destination == bindparam("destination_"))
_of_destination = select(_d.sequence).where(_d.destination == bindparam("destination_"))
_of_event = _of_destination.join(events, _c.sequence == _d.sequence).where(_c.id == bindparam("id_"))
_SOME = {
    (is_dead, is_one): statement.where(_d.dead_at.is_not(None) if is_dead else _d.dead_at.is_(None)).limit(
        bindparam("limit_", type_=_BIG)
    )
    for is_one, statement in ((False, _of_destination), (True, _of_event))
    for is_dead in (False, True)
}
_REPLAY = (
    update(deliveries)
    .where(_d.destination == bindparam("destination_"), _d.sequence.in_(bindparam("sequences", expanding=True)))
    .values(attempts=0, due_at=database_now(), dead_at=None, error=None)
)
_counted = (
    select(
        _d.destination,
        func.count().filter(_d.dead_at.is_(None)).label("pending"),
        func.count().filter(_d.dead_at.is_not(None)).label("dead"),
        func.min(_d.sequence).filter(_d.dead_at.is_(None)).label("first"),
    )
    .group_by(_d.destination)
    .subquery("counted")
)
_BACKLOG = select(_counted, (database_now() - _c.occurred_at).label("age")).outerjoin(
    events, _c.sequence == _counted.c.first
)
_UNNUMBERED = select(func.count().label("pending"), (database_now() - func.min(_c.occurred_at)).label("age")).where(
    _c.sequence.is_(None), _c.delivered_at.is_(None)
)
_OLD_DEAD = (
    select(_d.sequence, _d.destination)
    .where(_d.dead_at < database_now() - bindparam("dead_older_than", type_=_BIG))
    .limit(bindparam("limit_", type_=_BIG))
)
_OLD = (
    select(_c.position)
    .where(
        _c.delivered_at < database_now() - bindparam("older_than", type_=_BIG),
        ~exists().where(_d.sequence == _c.sequence),
    )
    .with_for_update(
        skip_locked=True
    )  # another process is dropping them; on SQLite there is none, and this says nothing
    .limit(bindparam("limit_", type_=_BIG))
)
_dropped = _OLD.cte("dropped")  # see `_unclaimed`
_PURGE = {
    "sqlite": delete(events).where(_c.position.in_(_OLD.scalar_subquery())),
    "postgresql": delete(events).where(_c.position == _dropped.c.position),
}


class SqlOutbox:
    """The outbox, within one transaction.

    Args:
        run: Runs its queries.
        wrote: Called when an event was written.
    """

    __slots__ = ("_run", "_wrote")

    def __init__(self, run: Run, wrote: Callable[[], None]) -> None:
        self._run = run
        self._wrote = wrote

    async def add(self, event: Event) -> None:
        """Write an event. Raises `VersionConflictError` where one of its id is there already."""
        await self._run(_add, event)
        self._wrote()

    async def number(self, destinations: Collection[str], limit: int) -> int:
        """Give committed events their positions and deliveries, unless another transaction is at it; how many."""
        return await self._run(_number, destinations, limit)

    async def claim(self, destination: str, limit: int, *, lease: timedelta) -> list[Delivery]:
        """The oldest undelivered events that are due there, one per upload, hidden from others for `lease`."""
        return await self._run(_claim, destination, limit, lease)

    async def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """They have arrived."""
        await self._run(_done, [(_position(delivery), delivery.destination) for delivery in deliveries])

    async def failed(self, failures: Sequence[FailedDelivery]) -> None:
        """They have not: each may be claimed again after a while, or is a dead letter."""
        await self._run(_failed, failures)

    async def dead_letters(
        self, *, destination: str | None, after: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Dead letters by position and destination, strictly after that pair."""
        return await self._run(_dead_letters, destination, after, limit)

    async def replay(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Let dead letters be claimed again; how many."""
        return await self._run(_replay, destination, event_id, limit)

    async def discard(self, destination: str, *, event_id: str | None, limit: int) -> int:
        """Drop what a destination still has to get; how many."""
        return await self._run(_discard, destination, event_id, limit)

    async def purge(self, *, older_than: timedelta, dead_older_than: timedelta) -> int:
        """Drop old dead letters and events that are done with, `PURGED_AT_ONCE` of each at most; how many."""
        return await self._run(_purge, older_than, dead_older_than)

    async def backlog(self, destinations: Collection[str]) -> tuple[Backlog, ...]:
        """What is pending and dead, by name."""
        return await self._run(_backlog, destinations)


def write_events(connection: Connection, written: Sequence[Event]) -> None:
    """Write events of an upload whose row this transaction has locked, in their order."""
    for event in written:
        connection.execute(_INSERT, event_values(event))


def event_values(event: Event, suffix: str = "") -> dict[str, Any]:
    """The values of an event's row, by parameter."""
    values = {
        "id": event.id,
        "type": str(event.type),
        "owner": event.owner,
        "upload_id": event.upload_id,
        "file_id": event.file_id,
        "data": json_text(event.data),
        "handover": to_microseconds(HANDOVER if event.type in KNOWN_TO_0002 else NEVER),
    }
    return {f"{name}{suffix}": value for name, value in values.items()}


def insert_events(saved: CTE, count: int) -> Insert:
    """The statement that writes so many events if `saved` returns a row; the parameters of the first end in `_of_0`, and so on."""
    rows = [
        select(
            *(bindparam(f"{name}_of_{number}", type_=_c[name].type).label(name) for name in _WRITTEN),
            database_now().label("occurred_at"),
            bindparam("attempts", 0, type_=_c.attempts.type).label("attempts"),
            (database_now() + bindparam(f"handover_of_{number}", type_=_BIG)).label("due_at"),
        ).select_from(saved)
        for number in range(count)
    ]
    return insert(events).from_select([*_WRITTEN, "occurred_at", "attempts", "due_at"], union_all(*rows))


_WRITTEN = ("id", "type", "owner", "upload_id", "file_id", "data")


def _add(connection: Connection, event: Event) -> None:
    # Positions are given out when a row is inserted, not when it is committed: who writes an event of an upload holds the upload's row, or
    # a later event could be seen, and delivered, before an earlier one.
    connection.execute(_LOCK, {"upload_id_": event.upload_id})
    write_events(connection, (event,))


def _number(connection: Connection, destinations: Collection[str], limit: int) -> int:
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
def _claim(connection: Connection, destination: str, limit: int, lease: timedelta) -> list[Delivery]:
    values = {"destination_": destination, "limit_": limit, "lease": to_microseconds(lease)}
    rows = connection.execute(_CLAIM[connection.dialect.name], values).all()
    if connection.dialect.name == "postgresql":
        return [Delivery(_event(row), destination, row.attempt) for row in rows]
    # SQLite returns nothing but the updated table's own columns.
    attempts = {row.sequence: row.attempts for row in rows}
    found = {row.sequence: row for row in connection.execute(_BY_SEQUENCE, {"sequences": sorted(attempts)})}
    if orphaned := sorted(attempts.keys() - found.keys()):  # see `_orphaned`
        connection.execute(_ARRIVED, {"destination_": destination, "sequences": orphaned})
    return [Delivery(_event(found[at]), destination, attempts[at]) for at in sorted(found)]


def _done(connection: Connection, done: Sequence[tuple[int, str]]) -> None:
    """Nothing of these positions is to be delivered to these destinations any more."""
    sequences = sorted({sequence for sequence, _ in done})
    # Of two that finish an event at two destinations, the second sees that it is the last; in order, so that they don't wait for each other.
    connection.execute(_IN_ORDER, {"sequences": sequences}).all()
    for destination in sorted({destination for _, destination in done}):
        there = [sequence for sequence, name in done if name == destination]
        connection.execute(_ARRIVED, {"destination_": destination, "sequences": there})
    connection.execute(_DONE, {"sequences": sequences})


def _failed(connection: Connection, failures: Sequence[FailedDelivery]) -> None:
    retried, dead = [], []
    for delivery, retry_after, error in failures:
        values = {
            "sequence_": _position(delivery),
            "destination_": delivery.destination,
            "attempt": delivery.attempt,
            "error_": error,
        }
        if retry_after is None:
            dead.append(values)
        else:
            retried.append(values | {"retry_after": to_microseconds(retry_after)})
    if retried:
        connection.execute(_FAILED, retried)
    if dead:
        connection.execute(_DEAD, dead)


@one_statement
def _dead_letters(
    connection: Connection, destination: str | None, after: tuple[int, str] | None, limit: int
) -> list[DeadLetter]:
    at, name = after or (0, "")
    values = {"after_sequence": at, "after_destination": name, "limit_": limit}
    if destination is None:
        rows = connection.execute(_DEAD_LETTERS, values)
    else:
        rows = connection.execute(_DEAD_LETTERS_OF, values | {"destination_": destination})
    return [_dead_letter(row) for row in rows]


def _dead_letter(row: Row[*tuple[Any, ...]]) -> DeadLetter:
    dead_at = from_microseconds(row.dead_at)
    assert dead_at is not None, "that is what was asked for"
    return DeadLetter(_event(row), row.destination, row.attempt, dead_at, row.error or "")


def _replay(connection: Connection, destination: str, event_id: str | None, limit: int) -> int:
    rows = _some(connection, destination, event_id, limit, dead=True)
    if rows:
        connection.execute(_REPLAY, {"destination_": destination, "sequences": [row[0] for row in rows]})
    return len(rows)


def _discard(connection: Connection, destination: str, event_id: str | None, limit: int) -> int:
    rows = _some(connection, destination, event_id, limit, dead=True)
    rows += _some(connection, destination, event_id, limit - len(rows), dead=False)
    if rows:
        _done(connection, rows)
    return len(rows)


def _some(
    connection: Connection, destination: str, event_id: str | None, limit: int, *, dead: bool
) -> list[tuple[int, str]]:
    """Deliveries of a destination, dead or pending, by position."""
    values: dict[str, Any] = {"destination_": destination, "limit_": limit}
    if event_id is not None:
        values["id_"] = event_id
    return [(row.sequence, destination) for row in connection.execute(_SOME[dead, event_id is not None], values)]


def _purge(connection: Connection, older_than: timedelta, dead_older_than: timedelta) -> int:
    values = {"dead_older_than": to_microseconds(dead_older_than), "limit_": PURGED_AT_ONCE}
    dead = [(row.sequence, row.destination) for row in connection.execute(_OLD_DEAD, values)]
    if dead:
        _done(connection, dead)
    values = {"older_than": to_microseconds(older_than), "limit_": PURGED_AT_ONCE}
    return len(dead) + connection.execute(_PURGE[connection.dialect.name], values).rowcount


def _backlog(connection: Connection, destinations: Collection[str]) -> tuple[Backlog, ...]:
    unnumbered = connection.execute(_UNNUMBERED).one()
    found = {row.destination: row for row in connection.execute(_BACKLOG)}
    backlogs = []
    for name in sorted({*destinations, *found}):
        row = found.get(name)
        pending, dead, age = (row.pending, row.dead, row.age) if row else (0, 0, None)
        if name in destinations:
            pending += unnumbered.pending
            age = unnumbered.age if age is None else age  # what has its position is older than what has none
        backlogs.append(Backlog(name, pending, dead, None if age is None else timedelta(microseconds=age)))
    return tuple(backlogs)


def _position(delivery: Delivery) -> int:
    assert delivery.event.position is not None, "set when it was claimed"
    return delivery.event.position


def _event(row: Row[*tuple[Any, ...]]) -> Event:
    return Event(
        type=_type(row.type),
        owner=row.owner,
        upload_id=row.upload_id,
        file_id=row.file_id,
        id=row.id,
        data=mapping_from(row.data),
        occurred_at=from_microseconds(row.occurred_at),
        position=row.sequence,
    )


def _type(value: str) -> str:
    """An `EventType`; or what a later version of the code calls one that this version does not know."""
    try:
        return EventType(value)
    except ValueError:
        return value
