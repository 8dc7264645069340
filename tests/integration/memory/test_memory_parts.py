"""Clock, ids, publisher, cache, database and checksums in memory: what they do beyond their contracts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from awscrt import checksums as awscrt_checksums
from hypothesis import given
from hypothesis import strategies as st

from uploadcore.errors import VersionConflictError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.ports import AdapterContext
from uploadcore.testing import make_event, make_file, make_upload
from uploadcore_memory import (
    ManualClock,
    MemoryCache,
    MemoryDatabase,
    MemoryEventPublisher,
    SequentialIds,
    cache_from_url,
    checksum_of,
    database_from_url,
)

HOUR = timedelta(hours=1)


# --- clock and ids -------------------------------------------------------------------------------------------------


async def test_a_manual_clock_wakes_sleepers_it_has_passed_in_order() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (30, 10, 20, 10)]
    await clock.until_asleep(4)
    clock.advance(9.9)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(timedelta(seconds=10.1))
    await asyncio.gather(*tasks[1:])
    assert woken == [10, 10, 20]
    assert clock.sleepers == 1
    clock.advance(10)
    await tasks[0]
    assert clock.monotonic() == 30
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(10))
    await clock.until_asleep()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert clock.sleepers == 0
    clock.advance(10)


async def test_a_sleep_of_nothing_returns_at_once() -> None:
    clock = ManualClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.monotonic() == 0


async def test_a_clock_that_advances_itself_counts_overlapping_sleeps_once() -> None:
    clock = ManualClock(auto_advance=True)
    await asyncio.gather(clock.sleep(10), clock.sleep(30), clock.sleep(20))
    assert clock.monotonic() == 30


def test_a_clock_goes_forward_and_knows_its_zone() -> None:
    with pytest.raises(ValueError, match="go back"):
        ManualClock().advance(-1)
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_ids_count() -> None:
    ids = SequentialIds()
    assert [ids.new() for _ in range(3)] == ["id-1", "id-2", "id-3"]


# --- publisher -----------------------------------------------------------------------------------------------------


async def test_a_publisher_fails_as_told_and_keeps_what_it_delivered() -> None:
    publisher = MemoryEventPublisher()
    publisher.failures = [TimeoutError("first"), ValueError("second")]
    with pytest.raises(TimeoutError):
        await publisher.publish(make_event("a"))
    with pytest.raises(ValueError, match="second"):
        await publisher.publish(make_event("a"))
    await publisher.publish(make_event("a"))
    publisher.fail_with = ConnectionError("down")
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await publisher.publish(make_event("b"))
    publisher.fail_with = None
    await publisher.publish(make_event("b"))
    assert [event.id for event in publisher.events] == ["a", "b"]


# --- cache ---------------------------------------------------------------------------------------------------------


async def test_a_version_marker_lives_ten_seconds_longer_than_its_value() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock=clock)
    await cache.set_if_newer("a", b"2", 2, ttl=timedelta(seconds=60))
    clock.advance(59.9)
    assert await cache.get("a") == b"2"
    clock.advance(0.1)
    assert await cache.get("a") is None
    clock.advance(9.9)
    assert not await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
    clock.advance(0.1)
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR)


async def test_a_tombstone_lives_ten_seconds() -> None:
    clock = ManualClock()
    cache = MemoryCache(clock=clock)
    await cache.delete("a", 2)
    clock.advance(9.9)
    assert not await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
    clock.advance(0.1)
    assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR)


async def test_a_late_deletion_of_an_older_version_costs_the_value_and_no_more() -> None:
    cache = MemoryCache(clock=ManualClock())
    await cache.set_if_newer("a", b"5", 5, ttl=HOUR)
    await cache.delete("a", 3)
    assert await cache.get("a") is None
    assert not await cache.set_if_newer("a", b"4", 4, ttl=HOUR), "5 was seen"
    assert await cache.set_if_newer("a", b"5", 5, ttl=HOUR), "5 was never deleted"


async def test_a_full_cache_drops_the_longest_unused() -> None:
    cache = MemoryCache(max_entries=2)
    await cache.set_if_newer("a", b"a", 1, ttl=HOUR)
    await cache.set_if_newer("b", b"b", 1, ttl=HOUR)
    await cache.get("a")
    await cache.set_if_newer("c", b"c", 1, ttl=HOUR)
    assert [await cache.get(key) for key in "abc"] == [b"a", None, b"c"]


async def test_a_flushed_cache_has_forgotten_tombstones_too() -> None:
    cache = cache_from_url("memory://", AdapterContext(data_dir=Path("unused"), public_url=""))
    await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
    await cache.delete("a", 3)
    cache.flush()
    assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR)


# --- database ------------------------------------------------------------------------------------------------------


async def test_a_test_sees_what_was_committed() -> None:
    database = database_from_url("memory://", AdapterContext(data_dir=Path("unused"), public_url=""))
    async with database.transaction() as tx:
        upload = await tx.uploads.add(make_upload("u"), lifetime=HOUR, lease=None)
        file = await tx.files.add(make_file("f"))
        await tx.outbox.add(make_event("e"))
        await tx.quotas.reserve("u_1", size=25, max_uploads=None, max_bytes=None)
        assert (database.uploads, database.files, database.events) == ({}, {}, [])
    async with database.transaction() as tx:
        await tx.outbox.number([], 10)
    assert database.uploads == {"u": upload}
    assert database.files == {"f": file}
    assert [event.id for event in database.events] == ["e"]
    assert (database.open_quota("u_1"), database.open_quota("u_2")) == ((1, 25), (0, 0))


async def test_what_a_reader_writes_is_lost() -> None:
    database = MemoryDatabase()
    async with database.reader() as tx:
        await tx.files.add(make_file("f"))
    assert database.files == {}


async def test_an_id_is_added_once() -> None:
    database = MemoryDatabase(installation_id="here")
    assert await database.installation_id() == "here"
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("u"), lifetime=HOUR, lease=None)
        await tx.files.add(make_file("f"))
        await tx.outbox.add(make_event("e"))
        with pytest.raises(VersionConflictError):
            await tx.uploads.add(make_upload("u"), lifetime=HOUR, lease=None)
        with pytest.raises(VersionConflictError):
            await tx.files.add(make_file("f"))
        with pytest.raises(VersionConflictError):
            await tx.outbox.add(make_event("e"))


async def test_deadlines_follow_the_databases_clock() -> None:
    clock = ManualClock()
    database = MemoryDatabase(clock=clock)
    async with database.transaction() as tx:
        await tx.uploads.add(make_upload("u"), lifetime=HOUR, lease=None)
        assert await tx.uploads.due(1) == []
        clock.advance(HOUR)
        assert [upload.id for upload in await tx.uploads.due(1)] == ["u"]


# --- checksums -----------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=300))
def test_checksums_are_those_of_an_independent_implementation(data: bytes) -> None:
    expected = {
        ChecksumAlgorithm.CRC64NVME: awscrt_checksums.crc64nvme(data).to_bytes(8, "big"),
        ChecksumAlgorithm.CRC32C: awscrt_checksums.crc32c(data).to_bytes(4, "big"),
        ChecksumAlgorithm.SHA256: hashlib.sha256(data).digest(),
    }
    for algorithm, digest in expected.items():
        assert checksum_of(data, algorithm).value == base64.b64encode(digest).decode()
