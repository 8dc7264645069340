"""The outbox on real databases: what the order of commits, processes that die, and relays at once do to it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from tests.integration.sql.conftest import patient
from tests.integration.sql.test_postgres import until_waiting_for_a_lock
from uploadcore import Event, UploadCore
from uploadcore.ports import Delivery, FailedDelivery, Transaction
from uploadcore.publishing import CallbackPublisher
from uploadcore.testing import make_event
from uploadcore.testing.outbox import claimed, delivered, failed, numbered, purged, relayed, written
from uploadcore_memory import MemoryEventPublisher, MemoryObjectStore
from uploadcore_sql import SqlDatabase
from uploadcore_sql.postgres import PostgresBackend

HOUR = timedelta(hours=1)


@pytest.fixture(params=["database", "emptied"], ids=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest) -> SqlDatabase:
    return cast("SqlDatabase", request.getfixturevalue(request.param))


@pytest.fixture
async def admin(emptied: SqlDatabase, emptied_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else, to the same database."""
    connection = await asyncpg.connect(emptied_url)
    yield connection
    await connection.close()


@pytest.fixture
async def somebody(emptied: SqlDatabase, emptied_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection, which holds locks."""
    connection = await asyncpg.connect(emptied_url)
    yield connection
    await connection.close()


def core_on(database: SqlDatabase, **publishers: MemoryEventPublisher) -> UploadCore:
    return UploadCore(store=MemoryObjectStore(), database=database, publishers=publishers)


# --- the order of commits -----------------------------------------------------------------------------------------


async def test_two_transactions_committed_in_the_wrong_identity_order_lose_nothing(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    publisher = MemoryEventPublisher()
    core = core_on(emptied, here=publisher)
    async with emptied.transaction() as early:
        await early.outbox.add(make_event("early", upload_id="a"))
        await written(emptied, [make_event("late", upload_id="b")])
        positions = dict(await admin.fetch("SELECT id, position FROM uploadcore_events"))
        await core.relay()
        assert [event.id for event in publisher.events] == ["late"]
        last_seen = publisher.events[-1].position or 0
    positions = dict(await admin.fetch("SELECT id, position FROM uploadcore_events"))
    assert positions["early"] < positions["late"], "the earlier position was committed last"

    await core.relay()

    assert [event.id for event in publisher.events] == ["late", "early"]
    assert publisher.events[-1].position == last_seen + 1, "and who looks for what is beyond the last one seen finds it"


async def test_whoever_follows_the_positions_sees_no_gap_and_misses_nothing(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    start: int = await admin.fetchval("SELECT last_sequence FROM uploadcore_installation")
    seen: list[int] = []

    async def write(writer: int) -> None:
        for number in range(12):
            async with emptied.transaction() as tx:
                await tx.outbox.add(make_event(f"{writer}-{number}", upload_id=f"{writer}"))
                await asyncio.sleep(0.001 * (writer % 3))  # commits overtake one another

    async def keep_numbering() -> None:
        while len(seen) < 72:
            await numbered(emptied, "here", limit=5)

    async def follow() -> None:
        while len(seen) < 72:
            last = seen[-1] if seen else start
            rows = await admin.fetch(
                "SELECT sequence FROM uploadcore_events WHERE sequence > $1 ORDER BY sequence", last
            )
            seen.extend(row[0] for row in rows)

    await asyncio.gather(follow(), keep_numbering(), keep_numbering(), *(write(writer) for writer in range(6)))

    assert seen == list(range(start + 1, start + 73))
    order = defaultdict(list)
    for row in await admin.fetch("SELECT upload_id, id FROM uploadcore_events ORDER BY sequence"):
        order[row[0]].append(row[1])
    assert order == {str(writer): [f"{writer}-{number}" for number in range(12)] for writer in range(6)}


async def test_one_numbers_at_a_time_and_nobody_waits_for_it(emptied: SqlDatabase) -> None:
    await written(emptied, [make_event("a", upload_id="a")])
    async with emptied.transaction() as one:
        assert await one.outbox.number(["here"], 10) == 1
        await written(emptied, [make_event("b", upload_id="b")])
        assert await asyncio.wait_for(numbered(emptied, "here"), 5) == 0
    assert await numbered(emptied, "here") == 1
    assert [delivery.event.id for delivery in await claimed(emptied)] == ["a", "b"]


async def test_of_two_destinations_that_finish_an_event_at_once_the_second_knows_that_it_is_the_last(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    await written(emptied, (make_event(name, upload_id=name) for name in "abc"))
    await numbered(emptied, "one", "two")
    one, two = await claimed(emptied, destination="one"), await claimed(emptied, destination="two")
    async with emptied.transaction() as tx:
        await tx.outbox.delivered(one)
        second = asyncio.create_task(delivered(emptied, *reversed(two)))
        await until_waiting_for_a_lock(admin)
    await second

    assert await admin.fetchval("SELECT count(*) FROM uploadcore_events WHERE delivered_at IS NULL") == 0
    assert await purged(emptied) == 3


# --- relays at once, and one that dies ----------------------------------------------------------------------------


class SlowAtFirst(MemoryEventPublisher):
    """Takes longer for the first event of an upload than for the others: whoever does not wait for it overtakes it."""

    async def publish(self, event: Event) -> None:
        await asyncio.sleep(0.01 if event.id.endswith("-0") else 0)
        await super().publish(event)


async def test_two_relays_at_once_deliver_each_event_once_per_destination_and_in_order(either: SqlDatabase) -> None:
    one, two = SlowAtFirst(), SlowAtFirst()
    await written(
        either, (make_event(f"{upload}-{n}", upload_id=f"{upload}") for n in range(3) for upload in range(25))
    )
    cores = [core_on(either, one=one, two=two) for _ in range(2)]

    while any(
        report.numbered or report.delivered for report in await asyncio.gather(*(core.relay() for core in cores))
    ):
        pass

    for publisher in (one, two):
        order = defaultdict(list)
        for event in publisher.events:
            order[event.upload_id].append(event.id)
        assert order == {str(upload): [f"{upload}-{n}" for n in range(3)] for upload in range(25)}


DELIVER_AND_DIE = """
import asyncio, os, signal, sys
from datetime import timedelta
from uploadcore import UploadCore, relay
from uploadcore.publishing import CallbackPublisher
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase

relay.CLAIM_LEASE = timedelta(milliseconds=1)

async def deliver(event):
    print(event.id, event.position, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    publishers = {"here": CallbackPublisher(deliver)}
    async with UploadCore(store=MemoryObjectStore(), database=SqlDatabase(sys.argv[1]), publishers=publishers) as core:
        await core.relay()

asyncio.run(main())
"""


async def test_a_relay_killed_between_delivery_and_record_delivers_again_with_the_same_id_and_position(
    database: SqlDatabase, url: str
) -> None:
    await written(database, [make_event("a")])
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DELIVER_AND_DIE, url], capture_output=True, text=True, timeout=60
    )
    assert died.stdout == "a 1\n", died.stderr
    heard: list[Event] = []
    publishers = {"here": CallbackPublisher(heard.append)}
    core = UploadCore(store=MemoryObjectStore(), database=database, publishers=publishers)

    while not heard:
        await core.relay()

    assert [(event.id, event.position) for event in heard] == [("a", 1)]
    assert (await core.relay()).delivered == 0


# --- held back --------------------------------------------------------------------------------------------------------


async def test_what_waits_for_a_failed_event_of_its_upload_is_not_looked_at_by_every_claim(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    """However long a destination is away, and however much waits for it: a claim reads what is due."""
    is_due = "SELECT count(*) FROM uploadcore_deliveries WHERE due_at <= extract(epoch FROM clock_timestamp()) * 1e6"
    await written(emptied, (make_event(f"{upload}{n}", upload_id=upload) for n in range(3) for upload in "ab"))
    await numbered(emptied, "here")
    assert await admin.fetchval(is_due) == 6

    await failed(emptied, *await claimed(emptied), retry_after=HOUR)
    assert await admin.fetchval(is_due) == 0

    await written(emptied, (make_event(f"{upload}3", upload_id=upload) for upload in "abc"))
    await numbered(emptied, "here")
    assert await admin.fetchval(is_due) == 1
    assert [delivery.event.id for delivery in await claimed(emptied)] == ["c3"]


async def late(database: SqlDatabase, first: Delivery) -> None:
    """By whoever had claimed it before, and was slow."""
    await failed(database, first, retry_after=HOUR)
    await delivered(database, first)


async def discarded(database: SqlDatabase, first: Delivery) -> None:
    await failed(database, first, retry_after=HOUR)
    async with database.transaction() as tx:
        await tx.outbox.discard("here", event_id=first.event.id, limit=10)


async def died(database: SqlDatabase, first: Delivery) -> None:
    await failed(database, first, retry_after=None)


@pytest.mark.parametrize("end", [late, discarded, died])
async def test_what_has_waited_for_an_event_is_due_as_soon_as_that_is_done_with(
    either: SqlDatabase, end: Callable[[SqlDatabase, Delivery], Awaitable[None]]
) -> None:
    await written(either, [make_event("first", upload_id="a"), make_event("second", upload_id="a")])
    await numbered(either, "here")
    [first] = await claimed(either, destination="here")
    await written(either, [make_event("third", upload_id="a")])
    await numbered(either, "here")

    await end(either, first)

    for name in ("second", "third"):
        [delivery] = await claimed(either, destination="here")
        assert delivery.event.id == name
        await delivered(either, delivery)


async def test_an_event_that_is_numbered_while_the_one_before_it_is_being_delivered_is_due_afterwards(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    await written(emptied, [make_event("first", upload_id="a")])
    await numbered(emptied, "here")
    [first] = await claimed(emptied)
    await written(emptied, [make_event("second", upload_id="a")])
    async with emptied.transaction() as tx:
        assert await tx.outbox.number(["here"], 10) == 1
        ending = asyncio.create_task(delivered(emptied, first))
        await until_waiting_for_a_lock(admin)
    await ending

    assert [delivery.event.id for delivery in await claimed(emptied)] == ["second"]


async def test_what_was_tried_itself_keeps_its_time_when_one_before_it_is_done_with(either: SqlDatabase) -> None:
    await written(either, [make_event("first", upload_id="a"), make_event("second", upload_id="a")])
    await numbered(either, "here")
    [first] = await claimed(either, destination="here")
    await failed(either, first, retry_after=None)
    [second] = await claimed(either, destination="here")
    await failed(either, second, retry_after=HOUR)
    async with either.transaction() as tx:
        await tx.outbox.replay("here", event_id="first", limit=10)
    [again] = await claimed(either, destination="here")

    await delivered(either, again)

    assert (first.event.id, second.event.id, again.event.id) == ("first", "second", "first")
    assert await claimed(either, destination="here") == []


# --- waiting for one another ----------------------------------------------------------------------------------------


async def deliver(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    await tx.outbox.delivered(deliveries)


async def fail(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    """One of them for good, the others are to be tried again."""
    first, second, third = deliveries
    await tx.outbox.failed(
        [FailedDelivery(first, HOUR, "503"), FailedDelivery(second, HOUR, "503"), FailedDelivery(third, None, "410")]
    )


async def replay(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    assert await tx.outbox.replay("here", event_id=None, limit=10) == len(deliveries)


async def discard(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    assert await tx.outbox.discard("here", event_id=None, limit=10) == len(deliveries)


async def purge(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    assert await tx.outbox.purge(older_than=HOUR, dead_older_than=-HOUR) == len(deliveries)


@pytest.mark.parametrize(
    ("change", "are_dead"),
    [(deliver, False), (fail, False), (discard, False), (discard, True), (replay, True), (purge, True)],
)
async def test_whoever_changes_many_deliveries_takes_them_in_order_so_that_none_waits_in_a_circle(
    emptied: SqlDatabase,
    admin: asyncpg.Connection,
    somebody: asyncpg.Connection,
    change: Callable[[Transaction, Sequence[Delivery]], Awaitable[None]],
    are_dead: bool,
) -> None:
    await written(emptied, (make_event(name, upload_id=name) for name in "abc"))
    await numbered(emptied, "here")
    last_first = (await claimed(emptied))[::-1]
    if are_dead:
        await failed(emptied, *last_first, retry_after=None)
    third, second, _ = (delivery.event.position for delivery in last_first)
    for delivery in last_first:  # as they lie in the table, too, the last comes first
        await admin.execute(
            "UPDATE uploadcore_deliveries SET error = 'moved' WHERE sequence = $1", delivery.event.position
        )
    await admin.execute("ANALYZE uploadcore_deliveries")  # so few that it is read as it lies

    async def change_them() -> None:
        async with emptied.transaction() as tx:
            await change(tx, last_first)

    async with somebody.transaction():
        await somebody.execute("SELECT 1 FROM uploadcore_deliveries WHERE sequence = $1 FOR UPDATE", second)
        changing = asyncio.create_task(change_them())
        await until_waiting_for_a_lock(admin)
        free = await admin.fetch("SELECT sequence FROM uploadcore_deliveries FOR UPDATE SKIP LOCKED")
    await changing

    assert [row[0] for row in free] == [third], "who waits for the second has the first, and not the third"


async def test_a_dead_letter_that_is_replayed_while_a_purge_waits_is_delivered(
    emptied: SqlDatabase, admin: asyncpg.Connection, somebody: asyncpg.Connection
) -> None:
    await written(emptied, [make_event("a")])
    await numbered(emptied, "here", "there")
    await failed(emptied, *await claimed(emptied), retry_after=None)

    async with somebody.transaction():  # as of who records that it has arrived there
        await somebody.execute("SELECT 1 FROM uploadcore_events FOR UPDATE")
        purging = asyncio.create_task(purged(emptied, dead_older_than=-HOUR))
        await until_waiting_for_a_lock(admin)
        async with emptied.transaction() as tx:
            assert await tx.outbox.replay("here", event_id=None, limit=10) == 1
    assert await purging == 0

    assert await relayed(emptied) == ["a"]


async def test_a_dead_letter_that_another_has_just_replayed_is_not_replayed_again(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    """It may have been claimed since: a second relay would get it as well."""
    await written(emptied, [make_event("a")])
    await numbered(emptied, "here")
    await failed(emptied, *await claimed(emptied), retry_after=None)

    async def replay_too() -> int:
        async with emptied.transaction() as tx:
            return await tx.outbox.replay("here", event_id="a", limit=10)

    async with emptied.transaction() as tx:
        assert await tx.outbox.replay("here", event_id="a", limit=10) == 1
        second = asyncio.create_task(replay_too())
        await until_waiting_for_a_lock(admin)
        assert len(await tx.outbox.claim("here", 10, lease=HOUR)) == 1
    assert await second == 0

    assert await claimed(emptied) == []


# --- being woken --------------------------------------------------------------------------------------------------


async def test_who_writes_events_wakes_a_relay_in_another_process(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection
) -> None:
    other = SqlDatabase(patient(emptied_url))
    await other.open()
    await listening(other, admin)
    for name in ("a", "b"):
        waiting = asyncio.create_task(other.events_written(HOUR))
        await asyncio.sleep(0)
        await written(emptied, [make_event(name, upload_id=name)])
        await asyncio.wait_for(waiting, 30)
    await other.close()


async def test_a_relay_whose_listening_connection_is_lost_looks_by_itself_and_listens_again(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_sql.postgres_wake.RECONNECT_AFTER", 0.05)
    other = SqlDatabase(patient(emptied_url))
    await other.open()
    await listening(other, admin)
    await admin.fetch(f"SELECT pg_terminate_backend(pid) FROM {LISTENERS}")

    await other.events_written(timedelta(milliseconds=1))
    await listening(other, admin)
    waiting = asyncio.create_task(other.events_written(HOUR))
    await asyncio.sleep(0)
    await written(emptied, [make_event("a")])

    await asyncio.wait_for(waiting, 30)
    await other.close()


async def test_a_relay_listens_again_once_another_server_has_taken_over(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_sql.postgres_wake.RECONNECT_AFTER", 0.05)
    other = SqlDatabase(f"{patient(emptied_url)}&target_session_attrs=read-write")
    await other.open()
    wake = cast("PostgresBackend", other._backend)._wake
    connect, refused = wake._connect, asyncio.Semaphore(0)

    async def connecting() -> asyncpg.Connection:
        try:
            return await connect()
        except Exception:
            refused.release()
            raise

    monkeypatch.setattr(wake, "_connect", connecting)
    await listening(other, admin)
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # as a standby's sessions are
    try:
        await admin.fetch(f"SELECT pg_terminate_backend(pid) FROM {LISTENERS}")
        async with asyncio.timeout(30):
            for _ in range(2):  # and after the first it tries again
                await refused.acquire()
    finally:
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    async with asyncio.timeout(30):
        await listening(other, admin)
    await other.close()


async def test_a_defect_in_hearing_or_telling_of_events_is_logged_and_ends_neither(
    emptied: SqlDatabase, emptied_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("uploadcore_sql.postgres_wake.RECONNECT_AFTER", 0.01)
    tried: list[str] = []

    def failing(what: str) -> Callable[[], Awaitable[None]]:
        async def fail() -> None:
            tried.append(what)
            raise KeyError(what)

        return fail

    other = SqlDatabase(patient(emptied_url))
    await other.open()
    wake = cast("PostgresBackend", other._backend)._wake
    monkeypatch.setattr(wake, "_notify", failing("tell"))
    monkeypatch.setattr(wake, "_listen_once", failing("listen"))
    async with asyncio.timeout(30):
        while tried.count("tell") < 2:
            await written(other, [make_event(f"e{len(tried)}")])
            await asyncio.sleep(0.1)
        while tried.count("listen") < 2:
            await other.events_written(timedelta(milliseconds=10))
    await other.close()

    logged = [record.getMessage() for record in caplog.records if record.exc_info]
    assert {"telling others of events: a defect", "listening for events: a defect"} <= set(logged)


async def test_a_process_whose_relay_was_stopped_tells_others_again(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection
) -> None:
    other = SqlDatabase(patient(emptied_url))
    await other.open()
    await listening(other, admin)
    stopping = asyncio.create_task(emptied.events_written(HOUR))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    waiting = asyncio.create_task(other.events_written(HOUR))
    await asyncio.sleep(0)

    await written(emptied, [make_event("a")])

    await asyncio.wait_for(waiting, 30)
    await other.close()


async def test_a_database_that_is_opened_again_listens_and_tells_again(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection
) -> None:
    other, heard = SqlDatabase(patient(emptied_url)), asyncio.Event()
    await admin.add_listener("uploadcore_events", lambda *_: heard.set())
    for name in ("a", "b"):
        await other.open()
        await written(other, [make_event(f"told-{name}", upload_id=f"told-{name}")])
        await asyncio.wait_for(heard.wait(), 30)  # by one that relays nothing
        heard.clear()
        async with asyncio.timeout(30):
            await listening(other, admin)
        waiting = asyncio.create_task(other.events_written(HOUR))
        await asyncio.sleep(0)
        await written(emptied, [make_event(name, upload_id=name)])
        await asyncio.wait_for(waiting, 30)
        await asyncio.wait_for(heard.wait(), 30)
        heard.clear()
        await other.close()
        async with asyncio.timeout(30):
            while await admin.fetchval(f"SELECT count(*) FROM {LISTENERS}"):  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.01)


async def test_many_events_written_at_once_are_told_of_a_few_times(
    emptied: SqlDatabase, admin: asyncpg.Connection
) -> None:
    heard: list[str] = []
    await admin.add_listener("uploadcore_events", lambda *told: heard.append(told[-1]))
    await asyncio.gather(*(written(emptied, [make_event(f"e{n}", upload_id=f"u{n}")]) for n in range(40)))
    while not heard:
        await admin.execute("SELECT 1")
    assert len(heard) < 40


async def test_behind_a_pooler_that_shares_sessions_a_relay_only_looks(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection
) -> None:
    other = SqlDatabase(f"{patient(emptied_url)}&pooler=transaction")
    await other.open()
    await other.events_written(timedelta(milliseconds=1))
    assert await admin.fetchval(f"SELECT count(*) FROM {LISTENERS}") == 0
    await other.close()


async def test_a_relay_in_the_background_delivers_what_another_process_commits(
    emptied: SqlDatabase, emptied_url: str, admin: asyncpg.Connection
) -> None:
    arrived = asyncio.Event()
    publishers = {"here": CallbackPublisher(lambda _: loop.call_soon_threadsafe(arrived.set))}
    loop = asyncio.get_running_loop()
    async with UploadCore(
        store=MemoryObjectStore(), database=SqlDatabase(patient(emptied_url)), publishers=publishers
    ) as core:
        background = asyncio.create_task(core.run_background())
        while not await admin.fetchval(f"SELECT count(*) FROM {LISTENERS}"):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.01)
        await written(emptied, [make_event("a")])
        await asyncio.wait_for(arrived.wait(), 30)
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)


LISTENERS = "pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


async def listening(database: SqlDatabase, admin: asyncpg.Connection) -> None:
    """Until it hears, and has taken note of what was written before."""
    while not await admin.fetchval(f"SELECT count(*) FROM {LISTENERS}"):
        await database.events_written(timedelta(milliseconds=10))
    await database.events_written(timedelta(milliseconds=10))


# --- SQLite -------------------------------------------------------------------------------------------------------


async def test_waiting_for_events_ends_by_itself(either: SqlDatabase) -> None:
    await either.events_written(timedelta(0))
    await either.events_written(timedelta(milliseconds=1))


async def test_opened_again_in_another_event_loop_it_waits_for_events_as_before(either: SqlDatabase) -> None:
    async def wakes() -> int:
        count = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await either.events_written(HOUR)
                    count += 1
        return count

    async def again() -> int:
        await either.open()
        try:
            return await wakes()
        finally:
            await either.close()

    await wakes()
    await either.close()

    assert await asyncio.to_thread(asyncio.run, again()) <= 1


async def test_a_relay_of_another_process_on_one_file_finds_what_was_written(database: SqlDatabase, url: str) -> None:
    other = SqlDatabase(url)
    await other.open()
    await written(database, [make_event("a")])
    assert Path(other.path) == Path(database.path)
    assert await relayed(other) == ["a"]
    assert await relayed(database) == []
    await other.close()
