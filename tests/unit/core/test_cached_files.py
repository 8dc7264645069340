"""Copies of files: what they spare, and that each rule of the cache holds in the interleaving it is for (rule 11)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.unit.core.rig import BODY, OWNER, FaultyCache, Rig, until
from uploadcore import FileStatus, FileView, UploadCore, Visibility, invalidation
from uploadcore.errors import DatabaseUnavailableError, NoSuchFileError, StoreUnavailableError
from uploadcore_memory import ManualClock

TTL = 60.0


@pytest.fixture
async def cached(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A core whose copies live as long as they may."""
    monkeypatch.setattr(random, "random", lambda: 0.0)
    clock = ManualClock()
    rig = Rig(cache=FaultyCache(clock=clock), clock=clock)
    async with rig.core:
        yield rig


def the_cache(rig: Rig) -> FaultyCache:
    assert isinstance(rig.cache, FaultyCache)
    return rig.cache


async def available(rig: Rig) -> str:
    """The id of a file with content."""
    return (await rig.completed()).upload.file_id


async def title(core: UploadCore, file_id: str) -> str:
    return (await core.files.get(file_id, owner=OWNER)).title


async def retitled(rig: Rig, file_id: str, to: str) -> FileView:
    return await rig.core.files.update(file_id, owner=OWNER, title=to)


async def reads(rig: Rig, file_id: str, times: int = 1) -> int:
    """How often the database is read to get the file so many times."""
    before = rig.database.calls["reader"]
    for _ in range(times):
        await rig.core.files.get(file_id, owner=OWNER)
    return rig.database.calls["reader"] - before


def has_told_all(rig: Rig) -> bool:
    """Whether nothing goes on in the background any more."""
    telling = rig.core._copies._invalidations
    return telling is not None and telling._telling is not None and telling._telling.done()


# --- what a copy spares -------------------------------------------------------------------------------------------


async def test_without_a_cache_every_read_is_the_databases(rig: Rig) -> None:
    assert await reads(rig, await available(rig), 3) == 3


async def test_a_file_is_read_once_in_the_life_of_its_copy(cached: Rig) -> None:
    file_id = await available(cached)
    assert await reads(cached, file_id, 3) == 0, "written through when it became available"
    cached.after(seconds=TTL)
    assert await reads(cached, file_id, 3) == 1


async def test_a_flushed_cache_costs_one_read(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    assert await reads(cached, file_id, 3) == 1


async def test_where_the_content_lies_is_known_without_the_database(cached: Rig) -> None:
    file_id = await available(cached)
    before = cached.database.calls["reader"]
    signed = await cached.core.files.content(file_id, owner=OWNER)
    assert (await cached.store.get(signed)).body == BODY
    assert cached.database.calls["reader"] == before


async def test_fifty_readers_of_one_file_are_one_read(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    before = cached.database.calls["reader"]
    await asyncio.gather(*(title(cached.core, file_id) for _ in range(50)))
    assert cached.database.calls["reader"] - before == 1


async def test_lives_differ_by_a_third_and_none_is_longer_than_configured() -> None:
    clock = ManualClock()
    rig = Rig(cache=FaultyCache(clock=clock), clock=clock)
    file_id = await available(rig)
    the_cache(rig).lives.clear()
    for number in range(200):
        await retitled(rig, file_id, str(number))
    lives = [life.total_seconds() for life in the_cache(rig).lives]
    assert len(lives) == 200
    assert TTL * 2 / 3 <= min(lives) < TTL * 0.7
    assert TTL * 0.95 < max(lives) <= TTL


# --- early refresh ------------------------------------------------------------------------------------------------


async def test_who_asks_near_the_end_of_a_copys_life_is_answered_from_it_and_one_read_renews_it(cached: Rig) -> None:
    file_id = await available(cached)
    cached.after(seconds=TTL * 0.89)
    assert await reads(cached, file_id) == 0
    cached.after(seconds=TTL * 0.02)
    held = cached.database.faults.hold("reader")
    before = cached.database.calls["reader"]

    for _ in range(3):
        await title(cached.core, file_id)  # nobody waits for the read
    await held.reached.wait()
    held.let_go()
    await until(lambda: the_cache(cached).lives[-1] == timedelta(seconds=TTL))
    await until(lambda: not cached.core.files._copies._reading)

    assert cached.database.calls["reader"] - before == 1
    cached.after(seconds=TTL * 0.5)
    assert await reads(cached, file_id) == 0, "its life began anew"


async def test_a_copy_is_renewed_by_who_has_put_it_there_and_by_others_only_if_that_was_not_done(cached: Rig) -> None:
    file_id = await available(cached)
    other = cached.another_core()
    cached.after(seconds=TTL * 0.94)
    before = cached.database.calls["reader"]

    await title(other, file_id)
    await until(lambda: not other.files._copies._reading)
    assert cached.database.calls["reader"] == before

    cached.after(seconds=TTL * 0.02)
    await title(other, file_id)
    await until(lambda: not other.files._copies._reading)
    assert cached.database.calls["reader"] == before + 1


async def test_a_copy_is_renewed_by_the_process_that_put_it_there_or_else_by_another(cached: Rig) -> None:
    file_id = await available(cached)
    others = cached.another_core().files
    cached.after(seconds=TTL * 0.94)
    await others.get(file_id, owner=OWNER)
    assert not others._copies._reading, "the other has not had its time yet"
    cached.after(seconds=TTL * 0.02)
    await others.get(file_id, owner=OWNER)
    assert others._copies._reading
    await others._copies.close()


async def test_a_renewal_that_fails_is_not_tried_again_until_the_copy_is_gone(cached: Rig) -> None:
    file_id = await available(cached)
    cached.after(seconds=TTL * 0.95)
    cached.database.faults.fail("reader", DatabaseUnavailableError("away"))
    assert await title(cached.core, file_id) == ""
    await until(lambda: not cached.core.files._copies._reading)
    assert await reads(cached, file_id, 3) == 0
    cached.after(seconds=TTL * 0.05)
    assert await reads(cached, file_id, 3) == 1


async def test_a_renewal_under_way_ends_before_the_database_is_closed(cached: Rig) -> None:
    file_id = await available(cached)
    cached.after(seconds=TTL * 0.95)
    held = cached.database.faults.hold("reader")
    await title(cached.core, file_id)
    await held.reached.wait()

    closing = asyncio.ensure_future(cached.core.__aexit__(None, None, None))
    for _ in range(100):
        await asyncio.sleep(0)
    assert cached.database.calls["close"] == 0
    held.let_go()
    await closing

    assert cached.database.calls["close"] == 1


# --- late fills ---------------------------------------------------------------------------------------------------


async def test_rule_11_miss_then_update_then_late_fill(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    fill = the_cache(cached).faults.hold("set_if_newer")
    late = asyncio.ensure_future(title(cached.core, file_id))
    await fill.reached.wait()

    await retitled(cached, file_id, "new")
    fill.let_go()

    assert await late == "", "it had read before the change"
    assert await title(cached.another_core(), file_id) == "new"


async def test_rule_11_delete_then_late_fill(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    fill = the_cache(cached).faults.hold("set_if_newer")
    late = asyncio.ensure_future(title(cached.core, file_id))
    await fill.reached.wait()

    await cached.core.files.delete(file_id, owner=OWNER)
    fill.let_go()
    await late

    assert (await cached.another_core().files.get(file_id, owner=OWNER)).status is FileStatus.DELETED


async def test_rule_11_a_late_fill_after_a_flush_is_dropped_after_two_seconds(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    read = cached.database.faults.hold("read")
    late = asyncio.ensure_future(title(cached.core, file_id))
    await read.reached.wait()

    await retitled(cached, file_id, "new")
    the_cache(cached).flush()  # and with it the mark of the change
    cached.after(seconds=2.1)
    read.let_go()
    await late

    assert await the_cache(cached).get(f"file:{file_id}") is None
    assert await title(cached.core, file_id) == "new"


async def test_rule_11_a_late_fill_after_a_flush_within_two_seconds_lives_no_longer_than_a_copy(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    read = cached.database.faults.hold("read")
    late = asyncio.ensure_future(title(cached.core, file_id))
    await read.reached.wait()

    await retitled(cached, file_id, "new")
    the_cache(cached).flush()
    read.let_go()
    await late

    assert await title(cached.core, file_id) == "", "the one way to an old copy: losing the cache in these two seconds"
    cached.after(seconds=TTL)
    assert await title(cached.core, file_id) == "new"


async def test_rule_11_a_save_that_takes_long_drops_the_copy_before_it(cached: Rig) -> None:
    file_id = await available(cached)
    saving = cached.database.faults.hold("transaction")
    update = asyncio.ensure_future(retitled(cached, file_id, "new"))
    await saving.reached.wait()

    cached.after(seconds=2.1)
    saving.let_go()
    await update

    assert await title(cached.another_core(), file_id) == "new"


@pytest.mark.parametrize("is_cached", [True, False])
async def test_who_asks_after_a_change_does_not_share_a_read_from_before_it(is_cached: bool) -> None:
    clock = ManualClock()
    rig = Rig(cache=FaultyCache(clock=clock) if is_cached else None, clock=clock)
    file_id = await available(rig)
    if is_cached:
        the_cache(rig).is_deaf = True
    read = rig.database.faults.hold("read")
    early = asyncio.ensure_future(title(rig.core, file_id))
    await read.reached.wait()

    rig.database.faults.pass_by("read", 1)
    await retitled(rig, file_id, "new")
    after = await title(rig.core, file_id)
    read.let_go()

    assert (await early, after) == ("", "new")
    await rig.core._copies.close()


# --- failed write-throughs ----------------------------------------------------------------------------------------


async def test_rule_11_what_the_cache_did_not_answer_for_is_made_known_to_it_once_it_does(cached: Rig) -> None:
    file_id = await available(cached)
    elsewhere = cached.another_core()
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "new")
    the_cache(cached).is_deaf = False

    assert await title(elsewhere, file_id) == "", "a stale copy, known to nobody but who made the change"
    await cached.clock.until_asleep()
    cached.after(seconds=0.1)
    await until(lambda: the_cache(cached).calls["delete"] == 1)

    assert await title(elsewhere, file_id) == "new"


async def test_who_made_a_change_sees_it_whatever_the_cache_has(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "new")
    the_cache(cached).is_deaf = False

    assert await title(cached.core, file_id) == "new"
    assert await reads(cached, file_id) == 0, "that read has filled the cache"
    cached.after(seconds=5)
    await until(lambda: has_told_all(cached))
    assert the_cache(cached).calls["delete"] == 0, "there is nothing left to make known"


async def test_a_copy_the_cache_stored_late_with_a_whole_life_is_not_used_past_its_own(cached: Rig) -> None:
    file_id = await available(cached)
    copy = await the_cache(cached).get(f"file:{file_id}")
    assert copy is not None
    cached.after(seconds=TTL)
    await the_cache(cached).set_if_newer(f"file:{file_id}", copy, 99, ttl=timedelta(seconds=TTL))

    assert await reads(cached, file_id) == 1


@pytest.mark.parametrize("is_change", [False, True])
async def test_the_life_of_a_copy_begins_when_the_database_is_asked(cached: Rig, is_change: bool) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    held = cached.database.faults.hold("transaction" if is_change else "read")
    slow: asyncio.Future[object] = asyncio.ensure_future(
        retitled(cached, file_id, "new") if is_change else title(cached.core, file_id)
    )
    await held.reached.wait()
    cached.after(seconds=1.5)
    held.let_go()
    await slow

    assert the_cache(cached).lives[-1] == timedelta(seconds=TTL - 1.5)


async def test_while_a_change_is_not_known_to_the_cache_a_copy_that_is_new_enough_is_used(cached: Rig) -> None:
    """Such as the one that a process keeps by itself while the server is away."""
    file_id = await available(cached)
    the_cache(cached).loses_answers = True
    await retitled(cached, file_id, "new")

    assert await reads(cached, file_id, 5) == 0
    assert await title(cached.core, file_id) == "new"


async def test_a_change_whose_answer_was_lost_costs_one_read(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).loses_answers = True
    await retitled(cached, file_id, "new")
    the_cache(cached).loses_answers = False
    await cached.clock.until_asleep()
    cached.after(seconds=0.1)
    await until(lambda: the_cache(cached).calls["delete"] == 1)

    assert await reads(cached, file_id, 3) == 1


async def test_attempts_to_make_a_change_known_end_with_the_life_of_a_copy(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "new")

    for _ in range(40):
        await cached.clock.until_asleep()
        cached.after(seconds=2)
        for _ in range(10):
            await asyncio.sleep(0)
        if not cached.clock.sleepers:
            break

    assert cached.clock.sleepers == 0
    assert 20 < the_cache(cached).calls["delete"] < 40
    assert cached.core._copies._invalidations.pending(f"file:{file_id}") is None  # type: ignore[union-attr]


async def test_a_newer_change_that_arrives_takes_the_place_of_one_that_did_not(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "lost")
    the_cache(cached).is_deaf = False
    await retitled(cached, file_id, "new")

    await cached.clock.until_asleep()
    cached.after(seconds=0.1)
    await until(lambda: has_told_all(cached))

    assert the_cache(cached).calls["delete"] == 0
    assert await title(cached.another_core(), file_id) == "new"


async def test_of_two_changes_that_did_not_arrive_the_newer_one_is_made_known(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "first")
    await retitled(cached, file_id, "second")
    the_cache(cached).is_deaf = False
    between = cached.file(file_id).version - 1
    await cached.clock.until_asleep()
    cached.after(seconds=0.1)
    await until(lambda: the_cache(cached).calls["delete"] == 1)

    assert await the_cache(cached).set_if_newer(f"file:{file_id}", b"", between + 1, ttl=timedelta(1)) is False


async def test_a_change_that_comes_while_the_one_before_it_is_made_known_is_made_known_too(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "first")
    telling = the_cache(cached).faults.hold("delete")
    await cached.clock.until_asleep()
    cached.after(seconds=0.1)
    await telling.reached.wait()

    await retitled(cached, file_id, "second")
    the_cache(cached).is_deaf = False
    telling.let_go()
    await cached.clock.until_asleep()
    cached.after(seconds=0.2)
    await until(lambda: the_cache(cached).calls["delete"] == 2)

    assert await title(cached.another_core(), file_id) == "second"


async def test_changes_to_make_known_are_bounded_and_the_oldest_goes_first(
    cached: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidation, "MOST", 2)
    files = [await available(cached) for _ in range(3)]
    the_cache(cached).is_deaf = True
    for file_id in files:
        await retitled(cached, file_id, "new")
    pending = cached.core._copies._invalidations
    assert pending is not None

    assert [pending.pending(f"file:{file_id}") is not None for file_id in files] == [False, True, True]


async def test_closing_ends_the_attempts(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).is_deaf = True
    await retitled(cached, file_id, "new")
    await cached.clock.until_asleep()

    await cached.core._copies.close()

    assert cached.clock.sleepers == 0


async def test_a_change_whose_caller_goes_away_before_the_cache_has_answered_is_made_known(cached: Rig) -> None:
    file_id = await available(cached)
    held = the_cache(cached).faults.hold("set_if_newer")
    update = asyncio.ensure_future(retitled(cached, file_id, "new"))
    await held.reached.wait()

    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update

    assert await title(cached.core, file_id) == "new"
    assert await title(cached.another_core(), file_id) == "new"


async def change_it(rig: Rig) -> str:
    file_id = await available(rig)
    rig.database.faults.fail("transaction", DatabaseUnavailableError("its answer was lost"), after_effect=True)
    with pytest.raises(DatabaseUnavailableError):
        await retitled(rig, file_id, "new")
    return file_id


async def complete_it(rig: Rig) -> str:
    upload = await rig.sent()
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("its answer was lost"), after_effect=True)
    with pytest.raises(DatabaseUnavailableError):
        await rig.complete(upload.id)
    return upload.file_id


async def abort_it(rig: Rig) -> str:
    upload = await rig.begin()
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("its answer was lost"), after_effect=True)
    with pytest.raises(DatabaseUnavailableError):
        await rig.abort(upload.id)
    return upload.file_id


async def delete_it(rig: Rig) -> str:
    file_id = await available(rig)
    rig.database.faults.pass_by("transaction")
    rig.database.faults.fail("transaction", DatabaseUnavailableError("its answer was lost"), after_effect=True)
    with suppress(DatabaseUnavailableError):
        await rig.core.files.delete(file_id, owner=OWNER)
    return file_id


@pytest.mark.parametrize("happens", [change_it, complete_it, abort_it, delete_it])
async def test_no_copy_stands_from_before_a_change_that_may_be_made(
    cached: Rig, happens: Callable[[Rig], Awaitable[str]]
) -> None:
    file_id = await happens(cached)
    file = cached.file(file_id)

    for told in (False, True):
        if told:
            await cached.clock.until_asleep()
            cached.after(seconds=0.1)
            await until(lambda: has_told_all(cached))
        for core in (cached.core, cached.another_core())[: 1 + told]:
            assert await core.files._copies.get(file_id) == file
            upload = await core.uploads._cached.get(file.upload_id)
            assert upload is not None
            assert upload.state is cached.upload(file.upload_id).state


async def test_an_upload_whose_save_was_not_answered_for_is_read_again(cached: Rig) -> None:
    upload = await cached.begin()
    cached.database.faults.fail("transaction", DatabaseUnavailableError("its answer was lost"), after_effect=True)
    with pytest.raises(DatabaseUnavailableError):
        await cached.abort(upload.id)

    assert await cached.core.uploads._cached.get(upload.id) == cached.upload(upload.id)


async def test_a_change_whose_caller_goes_away_while_it_is_made_is_in_doubt(cached: Rig) -> None:
    file_id = await available(cached)
    held = cached.database.faults.hold("transaction")
    update = asyncio.ensure_future(retitled(cached, file_id, "new"))
    await held.reached.wait()
    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update

    assert await reads(cached, file_id) == 1, "it was not made, as it happens"
    assert await title(cached.core, file_id) == ""


async def test_no_copy_stands_from_before_an_abort_whose_caller_goes_away_at_any_moment(cached: Rig) -> None:
    is_told, moments = False, 0
    while not is_told:
        upload = await cached.begin()
        aborting = asyncio.ensure_future(cached.abort(upload.id))
        for _ in range(moments):
            await asyncio.sleep(0)
        is_told = aborting.done()
        aborting.cancel()
        with suppress(asyncio.CancelledError):
            await aborting

        file = await cached.core.files._copies.get(upload.file_id)
        of = await cached.core.uploads._cached.get(upload.id)
        assert file == cached.file(upload.file_id), moments
        assert of is not None
        assert of.state is cached.upload(upload.id).state, moments
        moments += 1
    assert moments > 10


async def test_without_a_cache_nothing_is_in_doubt(rig: Rig) -> None:
    assert await title(rig.core, await change_it(rig)) == "new"


async def test_a_read_that_is_cancelled_is_forgotten(cached: Rig) -> None:
    file_id = await available(cached)
    the_cache(cached).flush()
    held = cached.database.faults.hold("reader")
    waiting = asyncio.ensure_future(title(cached.core, file_id))
    await held.reached.wait()
    ((_, reading),) = cached.core.files._copies._reading.values()

    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await reads(cached, file_id) == 1


# --- what is not there --------------------------------------------------------------------------------------------


async def unknown(core: UploadCore, file_id: str, owner: str | None = OWNER) -> bool:
    try:
        await core.files.get(file_id, owner=owner)
    except NoSuchFileError:
        return True
    return False


async def test_that_there_is_no_such_file_is_remembered_for_five_seconds(cached: Rig) -> None:
    before = cached.database.calls["reader"]
    for _ in range(3):
        assert await unknown(cached.core, "nothing")
    assert cached.database.calls["reader"] - before == 1
    assert the_cache(cached).lives == [timedelta(seconds=5)]
    cached.after(seconds=4.9)
    assert await unknown(cached.core, "nothing")
    assert not cached.core.files._copies._reading, "and is not read anew before"
    cached.after(seconds=0.1)
    assert await unknown(cached.core, "nothing")
    assert cached.database.calls["reader"] - before == 2


@pytest.mark.parametrize("no_id", ["", "a/b", "a b", "x" * 65, "\x00", "ü"])
async def test_what_can_not_be_an_id_is_neither_read_nor_remembered(cached: Rig, no_id: str) -> None:
    assert await unknown(cached.core, no_id)
    assert cached.database.calls["reader"] == 0
    assert not the_cache(cached).calls


async def test_a_file_born_after_it_was_asked_for_is_there_at_once(cached: Rig) -> None:
    assert await unknown(cached.core, "id-2")

    upload = await cached.begin()

    assert upload.file_id == "id-2"
    assert not await unknown(cached.another_core(), "id-2")


async def test_a_file_born_while_it_is_asked_for_is_not_hidden(cached: Rig) -> None:
    read = cached.database.faults.hold("read")
    late = asyncio.ensure_future(unknown(cached.core, "id-2"))
    await read.reached.wait()

    upload = await cached.begin()
    read.let_go()

    assert await late
    assert upload.file_id == "id-2"
    assert not await unknown(cached.another_core(), "id-2")


async def test_an_upload_that_is_not_there_is_asked_for_again(cached: Rig) -> None:
    for _ in range(2):
        assert await cached.core.uploads._cached.get("nothing") is None
    assert cached.database.calls["reader"] == 2


# --- written through ----------------------------------------------------------------------------------------------


async def fails_in_the_end(rig: Rig) -> str:
    return (await rig.abort((await rig.begin()).id)).file_id


async def is_replaced(rig: Rig) -> str:
    file_id = await available(rig)
    await rig.completed(BODY[::-1], file_id=file_id)
    return file_id


async def is_deleted(rig: Rig) -> str:
    file_id = await available(rig)
    await rig.core.files.delete(file_id, owner=OWNER)
    return file_id


async def is_being_deleted(rig: Rig) -> str:
    rig.store.faults.fail("delete", StoreUnavailableError("away"))
    return await is_deleted(rig)


async def is_deleted_by_the_sweeper(rig: Rig) -> str:
    file_id = await is_being_deleted(rig)
    rig.after(seconds=31)
    assert (await rig.core.sweep()).files_deleted == 1
    return file_id


async def is_changed(rig: Rig) -> str:
    file_id = await available(rig)
    await rig.core.files.update(
        file_id,
        owner=OWNER,
        name="ü.txt",
        title="t",
        description="a\nb",
        labels=["x", "y"],
        visibility=Visibility.PUBLIC,
        metadata={"ü": '"'},
    )
    return file_id


async def is_born(rig: Rig) -> str:
    return (await rig.begin()).file_id


@pytest.mark.parametrize(
    ("happens", "status"),
    [
        (is_born, FileStatus.UPLOADING),
        (available, FileStatus.AVAILABLE),
        (fails_in_the_end, FileStatus.FAILED),
        (is_replaced, FileStatus.AVAILABLE),
        (is_changed, FileStatus.AVAILABLE),
        (is_being_deleted, FileStatus.DELETING),
        (is_deleted, FileStatus.DELETED),
        (is_deleted_by_the_sweeper, FileStatus.DELETED),
    ],
)
async def test_every_change_of_a_file_is_written_through(
    cached: Rig, happens: Callable[[Rig], Awaitable[str]], status: FileStatus
) -> None:
    file_id = await happens(cached)
    cached.database.faults.fail("reader", DatabaseUnavailableError("not asked"))

    copy = await cached.another_core().files._copies.get(file_id)

    assert copy == cached.file(file_id)
    assert copy is not None
    assert copy.status is status


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b"{}", b"null", b"[1,2]", b"[1,2,3,{}]", b'["a",2,3,null]'])
async def test_a_copy_of_a_file_that_can_not_be_read_is_a_miss(cached: Rig, damage: bytes) -> None:
    file_id = await available(cached)
    await the_cache(cached).set_if_newer(f"file:{file_id}", damage, 99, ttl=timedelta(seconds=5))
    assert await reads(cached, file_id) == 1


async def test_rule_14_where_a_file_lies_is_in_its_copy_and_no_url_or_secret(cached: Rig) -> None:
    file_id = await available(cached)
    await cached.core.files.content(file_id, owner=OWNER)
    copy = await the_cache(cached).get(f"file:{file_id}")
    assert copy is not None
    assert b"memory://" not in copy
    assert b"token" not in copy


# --- what a copy may say ------------------------------------------------------------------------------------------


async def test_rule_13_a_copy_is_shown_to_those_who_may_see_the_file(cached: Rig) -> None:
    file_id = await available(cached)
    for visibility, stranger, nobody in (
        (Visibility.PUBLIC, False, False),
        (Visibility.UNLISTED, False, True),
        (Visibility.PRIVATE, True, True),
    ):
        await cached.core.files.update(file_id, owner=OWNER, visibility=visibility)
        assert await unknown(cached.core, file_id, "u_2") is stranger
        assert await unknown(cached.core, file_id, None) is nobody


async def test_a_stale_copy_of_a_file_that_is_available_by_now_does_not_refuse_its_owner(cached: Rig) -> None:
    upload = await cached.sent()
    cached.cache = None
    await cached.another_core().uploads.complete(upload.id, owner=OWNER)

    assert (await cached.core.files.get(upload.file_id, owner=OWNER)).status is FileStatus.UPLOADING
    signed = await cached.core.files.content(upload.file_id, owner=OWNER)

    assert (await cached.store.get(signed)).body == BODY


async def test_a_stale_copy_of_a_deleted_file_signs_a_url_that_is_dead_at_the_store(cached: Rig) -> None:
    file_id = await available(cached)
    cached.cache = None
    await cached.another_core().files.delete(file_id, owner=OWNER)

    signed = await cached.core.files.content(file_id, owner=OWNER)

    assert (await cached.store.get(signed)).status == 404
