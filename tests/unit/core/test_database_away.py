"""Signing while the database is away: for uploads this process knows, up to a URL's life, and never worse than that (rule 11)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.unit.core.rig import BODY, OWNER, FaultyCache, Rig, until
from uploadcore import UploadConfig, known
from uploadcore.errors import DatabaseUnavailableError, UploadNotFoundError
from uploadcore_memory import ManualClock

AWAY = DatabaseUnavailableError("away")
LIFE = timedelta(minutes=15)


async def sign(rig: Rig, upload_id: str, owner: str = OWNER) -> int:
    return len(await rig.core.uploads.sign_parts(upload_id, owner=owner, part_numbers=[1]))


def go_away(rig: Rig) -> None:
    """Nothing is answered until it is healed."""
    for call in ("reader", "transaction"):
        rig.database.faults.fail(call, AWAY, times=1_000)


async def answered_after(rig: Rig, upload_id: str) -> float:
    """Seconds until signing was answered, by the clock."""
    before = rig.clock.monotonic()
    await rig.within(sign(rig, upload_id), step=0.05)
    return rig.clock.monotonic() - before


async def test_rule_11_a_known_upload_is_signed_for_up_to_a_urls_life(rig: Rig) -> None:
    upload = await rig.begin()
    go_away(rig)

    rig.clock.advance(LIFE - timedelta(seconds=1))
    assert await sign(rig, upload.id) == 1
    rig.clock.advance(1)
    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_what_is_known_is_what_the_database_was_last_asked_for(rig: Rig) -> None:
    upload = await rig.begin()
    rig.clock.advance(LIFE)
    await sign(rig, upload.id)
    go_away(rig)

    rig.clock.advance(LIFE - timedelta(seconds=1))

    assert await sign(rig, upload.id) == 1


async def test_the_url_signed_then_works(rig: Rig) -> None:
    upload = await rig.begin()
    go_away(rig)
    rig.after(minutes=5)

    (part,) = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[3])

    await rig.redeem(part, BODY[20:])


async def test_an_upload_this_process_does_not_know_is_refused(rig: Rig) -> None:
    upload = await rig.begin()
    go_away(rig)
    rig.core = rig.another_core()

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_one_that_hangs_is_waited_for_a_second_once_and_then_hardly_at_all(rig: Rig) -> None:
    upload = await rig.begin()
    hanging = [rig.database.faults.hold("reader") for _ in range(2)]

    assert await answered_after(rig, upload.id) == pytest.approx(1.0, abs=0.06)
    assert await answered_after(rig, upload.id) == pytest.approx(0.05, abs=0.06)
    rig.clock.advance(2)  # what is under way then is too old to be shared
    assert await answered_after(rig, upload.id) == pytest.approx(0.05, abs=0.06)
    for held in hanging:
        held.let_go()


async def test_one_that_was_slow_and_answers_is_waited_for_again(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.database.faults.hold("reader")
    assert await answered_after(rig, upload.id) == pytest.approx(1.0, abs=0.06)
    held.let_go()
    await until(lambda: not rig.core.uploads._cached._reading)
    slow = rig.database.faults.hold("read")
    signing = asyncio.ensure_future(sign(rig, upload.id))
    await slow.reached.wait()
    rig.clock.advance(0.08)
    for _ in range(50):
        await asyncio.sleep(0)

    is_waiting = not signing.done()  # not answered from what was known
    slow.let_go()
    assert (is_waiting, await signing) == (True, 1)


async def test_for_an_unknown_upload_one_that_hangs_is_waited_for_less_than_two_seconds(rig: Rig) -> None:
    upload = await rig.begin()
    rig.core = rig.another_core()
    held = rig.database.faults.hold("reader")
    before = rig.clock.monotonic()

    with pytest.raises(DatabaseUnavailableError, match=r"within 1\.5 s"):
        await rig.within(sign(rig, upload.id), step=0.05)

    assert rig.clock.monotonic() - before < 2
    held.let_go()
    assert await sign(rig, upload.id) == 1


async def test_a_database_that_is_back_is_believed_at_once(rig: Rig) -> None:
    upload = await rig.begin()
    go_away(rig)
    rig.after(minutes=1)
    await sign(rig, upload.id)
    rig.database.faults.heal()
    async with rig.database.inner.transaction() as tx:  # another instance
        await tx.uploads.save(rig.only().reopened("new", confirmed_after=timedelta(0)))

    (part,) = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1])

    assert "new" in part.request.url


async def test_rule_13_what_is_known_is_shown_to_its_owner_only(rig: Rig) -> None:
    upload = await rig.begin()
    go_away(rig)

    with pytest.raises(UploadNotFoundError):
        await sign(rig, upload.id, "u_2")


async def test_one_that_was_closed_here_is_not_signed_for(rig: Rig) -> None:
    upload = await rig.begin()
    await rig.abort(upload.id)
    go_away(rig)

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_one_whose_change_is_in_doubt_is_not_signed_for(rig: Rig) -> None:
    upload = await rig.begin()
    rig.database.faults.fail("transaction", AWAY, after_effect=True)
    with pytest.raises(DatabaseUnavailableError):
        await rig.abort(upload.id)
    go_away(rig)

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_one_overtaken_while_the_database_is_waited_for_is_not_signed_for(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.database.faults.hold("reader")
    signing = asyncio.ensure_future(sign(rig, upload.id))
    await until(lambda: bool(rig.clock.sleepers))
    rig.core.uploads._cached.doubt(rig.only())

    rig.clock.advance(1)

    with pytest.raises(DatabaseUnavailableError):
        await signing
    held.let_go()


async def test_a_read_that_was_overtaken_brings_nothing_back(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.database.faults.hold("read")
    signing = asyncio.ensure_future(sign(rig, upload.id))
    await held.reached.wait()
    rig.core.uploads._cached.doubt(rig.only())  # a change was begun meanwhile, and nobody knows whether it is made
    held.let_go()
    await signing
    go_away(rig)

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_of_two_versions_the_newer_is_known_whichever_comes_last(rig: Rig) -> None:
    upload = await rig.begin()
    before = rig.only()
    await rig.abort(upload.id)

    await rig.core.uploads._cached.remember(before, as_of=rig.clock.monotonic())
    go_away(rig)

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)


async def test_what_another_process_put_into_the_cache_is_known_here_once_it_was_asked_for() -> None:
    clock = ManualClock()
    rig = Rig(cache=FaultyCache(clock=clock), clock=clock)
    upload = await rig.begin()
    other, rig.core = rig.core, rig.another_core()
    assert await sign(rig, upload.id) == 1
    assert isinstance(rig.cache, FaultyCache)
    rig.cache.is_deaf = True
    go_away(rig)

    rig.clock.advance(LIFE - timedelta(seconds=6))  # counted from when it may have been read there
    assert await sign(rig, upload.id) == 1
    rig.clock.advance(1)

    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, upload.id)
    await other.uploads.close()


async def test_a_bounded_number_is_known_those_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST", 2)
    rig = Rig(config=UploadConfig())
    first, second, third = [(await rig.begin()).id for _ in range(3)]
    go_away(rig)

    assert await sign(rig, second) == await sign(rig, third) == 1
    with pytest.raises(DatabaseUnavailableError):
        await sign(rig, first)


async def test_files_are_not_shown_from_before(rig: Rig) -> None:
    done = await rig.completed()
    go_away(rig)

    with pytest.raises(DatabaseUnavailableError):
        await rig.core.files.get(done.upload.file_id, owner=OWNER)
