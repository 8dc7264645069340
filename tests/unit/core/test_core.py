"""The core as a whole: opening and closing its ports, the background, and what an upload costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.core.rig import BODY, Rig, until
from uploadcore import UploadConfig, UploadCore, UploadState
from uploadcore.errors import DatabaseUnavailableError, StoreUnavailableError
from uploadcore_memory import ManualClock, MemoryCache, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore


class Opening:
    """Notes what is opened and closed, in order."""

    def __init__(self, name: str, notes: list[str], error: Exception | None = None) -> None:
        self.name = name
        self.notes = notes
        self.error = error

    async def open(self) -> None:
        self.notes.append(f"open {self.name}")
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.notes.append(f"close {self.name}")


class NotedStore(Opening, MemoryObjectStore):
    def __init__(self, notes: list[str]) -> None:
        Opening.__init__(self, "store", notes)
        MemoryObjectStore.__init__(self)


class NotedDatabase(Opening, MemoryDatabase):
    def __init__(self, notes: list[str], error: Exception | None = None) -> None:
        Opening.__init__(self, "database", notes, error)
        MemoryDatabase.__init__(self)


class NotedCache(Opening, MemoryCache):
    def __init__(self, notes: list[str]) -> None:
        Opening.__init__(self, "cache", notes)
        MemoryCache.__init__(self)


async def test_ports_are_opened_in_order_and_closed_in_reverse() -> None:
    notes: list[str] = []

    async with UploadCore(store=NotedStore(notes), database=NotedDatabase(notes), cache=NotedCache(notes)):
        assert notes == ["open store", "open database", "open cache"]

    assert notes[3:] == ["close cache", "close database", "close store"]


async def test_when_one_does_not_open_those_before_it_are_closed() -> None:
    notes: list[str] = []
    database = NotedDatabase(notes, DatabaseUnavailableError("schema of the future"))

    with pytest.raises(DatabaseUnavailableError):
        async with UploadCore(store=NotedStore(notes), database=database, cache=NotedCache(notes)):
            raise AssertionError("not entered")

    assert notes == ["open store", "open database", "close database", "close store"]


async def test_leaving_gives_up_the_leases_of_what_is_being_assembled() -> None:
    rig = Rig()
    async with rig.core:
        upload = await rig.sent()
        held = rig.store.faults.hold("complete_multipart")
        caller = asyncio.ensure_future(rig.complete(upload.id))
        await held.reached.wait()

    assert (await caller).file is None
    assert rig.only().lease_until == rig.clock.now()


async def test_the_system_clock_and_random_ids_are_the_default() -> None:
    store = MemoryObjectStore()
    async with UploadCore(store=store, database=MemoryDatabase()) as core:
        one = await core.uploads.initiate(owner="u", filename="a", size=1, sign=1)
        two = await core.uploads.initiate(owner="u", filename="a", size=1)
        await store.put(one.parts[0].request, b"x")

        done = await core.uploads.complete(one.id, owner="u")

    assert done.file is not None
    assert one.id != two.id
    assert len(one.id) == 36


# --- the background -----------------------------------------------------------------------------------------------


async def running(rig: Rig) -> asyncio.Task[None]:
    return asyncio.create_task(rig.core.run_background())


async def stopped(background: asyncio.Task[None]) -> None:
    background.cancel()
    with suppress(asyncio.CancelledError):
        await background
    assert background.cancelled()


async def test_the_background_expires_uploads_and_delivers_events_until_it_is_cancelled(rig: Rig) -> None:
    await rig.begin()
    background = await running(rig)
    await until(lambda: rig.core.tally.sweeps["ok"] == 1 and rig.clock.sleepers == 2)

    rig.after(days=1)
    await until(lambda: rig.only().state is UploadState.EXPIRED)
    await until(lambda: rig.clock.sleepers == 2)
    rig.after(seconds=1)
    await until(lambda: rig.database.inner._tables.outbox != {} and _all_delivered(rig))

    await stopped(background)


def _all_delivered(rig: Rig) -> bool:
    return all(entry.delivered_at is not None for entry in rig.database.inner._tables.outbox.values())


async def test_a_pass_that_fails_is_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.database.faults.fail("reader", DatabaseUnavailableError("away"))
    rig.database.faults.fail("transaction", DatabaseUnavailableError("away"))
    background = await running(rig)
    await until(lambda: rig.clock.sleepers == 2)
    await rig.begin()

    rig.after(days=1)
    await until(lambda: rig.only().state is UploadState.EXPIRED)

    await stopped(background)
    assert "sweep failed: away" in caplog.text
    assert "relay failed: away" in caplog.text


async def test_while_there_is_more_to_do_a_pass_follows_at_once_but_does_not_spin() -> None:
    rig = Rig(config=UploadConfig(batch=1))
    for _ in range(3):
        await rig.begin()
    rig.after(days=1)
    begun_at = rig.clock.monotonic()
    background = await running(rig)

    async def expired() -> None:
        while any(upload.state is not UploadState.EXPIRED for upload in rig.database.inner.uploads.values()):
            await rig.clock.sleep(0.05)

    await rig.within(expired(), step=0.05)

    assert 0.2 <= rig.clock.monotonic() - begun_at < 2
    await stopped(background)


class CountedDatabase(MemoryDatabase):
    begun = 0

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[Any]:
        self.begun += 1
        async with super().transaction(single=single) as tx:
            yield tx


def test_it_may_be_opened_again_in_another_event_loop() -> None:
    """As by the tests of a host whose core is global: each has a loop of its own."""
    clock = ManualClock()
    database, publisher = CountedDatabase(clock=clock), MemoryEventPublisher()
    core = UploadCore(
        store=MemoryObjectStore(clock=clock), database=database, publishers={"here": publisher}, clock=clock
    )

    async def use() -> tuple[int, int]:
        async with core:
            await asyncio.gather(*(core.uploads.initiate(owner="u", filename="a", size=1) for _ in range(40)))
            clock.advance(timedelta(days=1))
            expired = (await core.sweep()).expired
            background = asyncio.create_task(core.run_background())
            await until(lambda: clock.sleepers == 3)  # the sweep, and who numbers and delivers
            begun = database.begun
            for _ in range(100):
                await asyncio.sleep(0)
            await stopped(background)
            return expired, database.begun - begun

    assert [asyncio.run(use()), asyncio.run(use())] == [(40, 0), (40, 0)]
    assert len(publisher.events) == 80


# --- what an upload costs -----------------------------------------------------------------------------------------


async def cost(body: bytes, part_size: int) -> tuple[int, dict[str, int]]:
    """Write transactions, and rows left behind, of one upload from first to last."""
    rig = Rig(clock=ManualClock())
    upload = await rig.begin(len(body), part_size, idempotency_key="k", sign=1_000)
    for part in upload.parts:
        await rig.redeem(part, body[part.offset : part.offset + part_size])
    await rig.complete(upload.id)
    tables = rig.database.inner._tables
    names = ("uploads", "files", "outbox", "idempotency", "quotas")
    return rig.database.calls["transaction"], {name: len(getattr(tables, name)) for name in names}


@pytest.mark.parametrize("parts", [2, 10, 1_000])
async def test_an_upload_costs_the_same_rows_and_write_transactions_whatever_its_part_count(parts: int) -> None:
    """docs/embedding.md says so: intent, opened, fenced, completed; and four rows, the owner's quota aside."""
    writes, rows = await cost(b"x" * parts, 1)

    assert writes == 4
    assert rows == {"uploads": 1, "files": 1, "outbox": 1, "idempotency": 1, "quotas": 1}


async def test_a_single_put_costs_one_write_transaction_less() -> None:
    writes, rows = await cost(BODY, len(BODY))

    assert writes == 3
    assert rows == {"uploads": 1, "files": 1, "outbox": 1, "idempotency": 1, "quotas": 1}


@pytest.mark.parametrize("expires", [False, True])
async def test_an_abort_or_expiry_costs_two_write_transactions_and_one_for_looking_again(
    rig: Rig, expires: bool
) -> None:
    upload = await rig.begin()
    before = rig.database.calls["transaction"]

    def written() -> int:
        return rig.database.calls["transaction"] - before

    if expires:
        rig.after(days=1)
        await rig.core.sweep()
        assert written() == 2 + 1  # the last is the sweep's own: it purges what is old
    else:
        await rig.abort(upload.id)
        assert written() == 2
    rig.after(hours=2)
    before = rig.database.calls["transaction"]
    await rig.core.sweep()

    assert written() == 1 + 1


@pytest.mark.parametrize(("publisher", "writes"), [(None, 1), (MemoryEventPublisher(), 3)])
async def test_one_pass_of_the_relay_costs_three_write_transactions_one_without_a_publisher(
    publisher: MemoryEventPublisher | None, writes: int
) -> None:
    rig = Rig(publisher=publisher)
    for _ in range(9):
        await rig.completed(b"hello")
    before = rig.database.calls["transaction"]

    assert (await rig.core.relay()).numbered == 9

    assert rig.database.calls["transaction"] - before == writes


async def test_a_failed_sweep_of_one_upload_is_logged_without_its_address(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.store.faults.fail("create_multipart", StoreUnavailableError("away"), times=2)
    with pytest.raises(StoreUnavailableError):
        await rig.begin(idempotency_key="k")

    await rig.core.sweep()

    assert f"sweep: {rig.only().id} (pending): away" in caplog.text
    assert rig.only().address.key not in caplog.text
