"""The cache spares the database reads when signing, decides nothing, and may be lost, late or broken (rule 11)."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig
from uploadcore import UploadState
from uploadcore.copies import upload_from, upload_values
from uploadcore.errors import DatabaseUnavailableError, UploadBusyError, UploadClosedError, UploadNotFoundError
from uploadcore.testing import make_upload
from uploadcore.upload import Expected, Lease
from uploadcore_memory import ManualClock, MemoryCache, checksum_of


@pytest.fixture
async def cached() -> AsyncIterator[Rig]:
    clock = ManualClock()
    rig = Rig(cache=MemoryCache(clock=clock), clock=clock)
    async with rig.core:
        yield rig


async def sign(rig: Rig, upload_id: str, owner: str = OWNER) -> int:
    return len(await rig.core.uploads.sign_parts(upload_id, owner=owner, part_numbers=[1]))


async def reads(rig: Rig, upload_id: str, times: int = 1) -> int:
    """How often the database is read to sign so many times."""
    before = rig.database.calls["reader"]
    for _ in range(times):
        await sign(rig, upload_id)
    return rig.database.calls["reader"] - before


async def test_without_a_cache_every_signing_reads_the_database(rig: Rig) -> None:
    upload = await rig.begin()

    assert await reads(rig, upload.id, 3) == 3


async def test_a_hit_reads_no_database_for_five_seconds(cached: Rig) -> None:
    upload = await cached.begin()

    assert await reads(cached, upload.id, 3) == 0
    cached.after(seconds=5)
    assert await reads(cached, upload.id, 3) == 1


async def test_a_flushed_cache_costs_one_read(cached: Rig) -> None:
    upload = await cached.begin()
    assert isinstance(cached.cache, MemoryCache)

    cached.cache.flush()

    assert await reads(cached, upload.id, 3) == 1


async def test_a_copy_is_the_same_upload(cached: Rig) -> None:
    for asked in (
        {"size": 5},
        {"size": None},
        {"size": 25, "checksum": checksum_of(BODY), "fingerprint": "f", "metadata": {"ü": '"'}},
    ):
        upload = await cached.begin(**asked)
        await cached.core.uploads._cached.remember(cached.upload(upload.id), as_of=cached.clock.monotonic())
        cached.database.faults.fail("reader", DatabaseUnavailableError("not asked"))

        assert await cached.core.uploads._cached.get(upload.id) == cached.upload(upload.id)
        cached.database.faults.heal()


async def test_a_copy_of_every_state_is_the_same_upload(cached: Rig) -> None:
    completed = await cached.completed(checksum=checksum_of(BODY))
    aborted = await cached.abort((await cached.begin()).id)

    for upload_id in (completed.upload.id, aborted.id):
        assert await cached.core.uploads._cached.get(upload_id) == cached.upload(upload_id)


def test_a_copy_has_the_digest_of_the_parts_and_one_of_the_version_before_has_none() -> None:
    expected = Expected(3, 25, checksum_of(BODY), parts_digest="0" * 64)
    values = upload_values(make_upload("a", expected=expected))

    assert upload_from(copy.deepcopy(values)).expected == expected
    del values["expected"][3]
    assert upload_from(values).expected == replace(expected, parts_digest=None)


async def test_rule_11_a_stale_copy_of_an_open_upload_signs_a_url_that_is_dead_at_the_store(cached: Rig) -> None:
    upload = await cached.begin()
    assert isinstance(cached.cache, MemoryCache)
    cached.cache = None  # another instance, whose writes do not reach this cache
    await cached.another_core().uploads.abort(upload.id, owner=OWNER)

    (part,) = await cached.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1])

    assert (await cached.store.put(part.request, BODY[:10])).status == 404
    cached.after(seconds=5)
    with pytest.raises(UploadClosedError):
        await sign(cached, upload.id)


async def test_rule_11_a_stale_copy_does_not_refuse(cached: Rig) -> None:
    upload = await cached.begin()
    stale = cached.only()
    held = cached.store.faults.hold("complete_multipart")
    await cached.send(upload.id)
    completing = asyncio.ensure_future(cached.complete(upload.id))
    await held.reached.wait()
    with pytest.raises(UploadBusyError):
        await sign(cached, upload.id)
    other, cached.cache = cached.cache, None
    async with cached.database.inner.transaction() as tx:
        back = await tx.uploads.save(cached.only().assembly_rejected())
    cached.cache = other

    assert back.version > stale.version
    assert await sign(cached, upload.id) == 1
    completing.cancel()
    await cached.core.uploads.close()


async def test_rule_13_a_copy_is_shown_to_its_owner_only(cached: Rig) -> None:
    upload = await cached.begin()
    await sign(cached, upload.id)

    with pytest.raises(UploadNotFoundError):
        await sign(cached, upload.id, "u_2")


async def test_rule_11_state_shown_is_the_databases(cached: Rig) -> None:
    upload = await cached.begin()
    await sign(cached, upload.id)
    async with cached.database.inner.transaction() as tx:
        await tx.uploads.save(cached.only().abort_requested(Lease("other", timedelta(seconds=30))))

    assert (await cached.core.uploads.get(upload.id, owner=OWNER)).state is UploadState.ABORTING


async def test_fifty_readers_of_one_upload_are_one_read(rig: Rig) -> None:
    upload = await rig.begin()
    before = rig.database.calls["reader"]

    await asyncio.gather(*(sign(rig, upload.id) for _ in range(50)))

    assert rig.database.calls["reader"] - before == 1


async def test_a_reader_that_goes_away_takes_nobody_with_it(rig: Rig) -> None:
    upload = await rig.begin()
    held = rig.database.faults.hold("reader")
    one, two = (asyncio.ensure_future(sign(rig, upload.id)) for _ in range(2))
    await held.reached.wait()

    one.cancel()
    held.let_go()

    assert await two == 1


async def test_rule_11_what_a_read_brings_after_two_seconds_is_not_kept(cached: Rig) -> None:
    upload = await cached.begin()
    assert isinstance(cached.cache, MemoryCache)
    cached.cache.flush()
    held = cached.database.faults.hold("reader")
    late = asyncio.ensure_future(sign(cached, upload.id))
    await held.reached.wait()

    cached.after(seconds=2.1)
    held.let_go()
    await late

    assert await reads(cached, upload.id) == 1


async def test_rule_11_what_a_save_brings_after_two_seconds_is_not_kept(cached: Rig) -> None:
    upload = await cached.begin()
    assert isinstance(cached.cache, MemoryCache)
    held = cached.database.faults.hold("transaction")
    aborting = asyncio.ensure_future(cached.abort(upload.id))
    await held.reached.wait()
    cached.cache.flush()

    cached.after(seconds=2.1)
    cached.store.faults.fail("abort_multipart", DatabaseUnavailableError("so that nothing is saved after it"))
    held.let_go()
    with pytest.raises(DatabaseUnavailableError):
        await aborting

    assert await cached.cache.get(f"upload:{upload.id}") is None


async def test_rule_11_who_asks_two_seconds_later_does_not_share_a_stalled_read(rig: Rig) -> None:
    upload = await rig.begin()
    stalled = rig.database.faults.hold("reader")
    early = asyncio.ensure_future(sign(rig, upload.id))
    await stalled.reached.wait()
    rig.after(seconds=2.1)
    before = rig.database.calls["reader"]
    second = rig.database.faults.hold("reader")
    later = asyncio.ensure_future(sign(rig, upload.id))
    await second.reached.wait()

    stalled.let_go()  # the end of the old read is not the end of the new one
    await early
    joined = asyncio.ensure_future(sign(rig, upload.id))
    second.let_go()

    assert (await later, await joined) == (1, 1)
    assert rig.database.calls["reader"] - before == 1


async def test_a_failed_read_is_every_waiters_failure_and_the_next_reads_again(rig: Rig) -> None:
    upload = await rig.begin()
    rig.after(minutes=15)  # longer than what is known will do
    rig.database.faults.fail("reader", DatabaseUnavailableError("away"))

    answers = await asyncio.gather(*(sign(rig, upload.id) for _ in range(3)), return_exceptions=True)

    assert all(isinstance(answer, DatabaseUnavailableError) for answer in answers)
    assert await sign(rig, upload.id) == 1


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xff", b"[]", b"{}", b"null", "checksum", "another version"],
)
async def test_a_copy_that_can_not_be_read_is_a_miss(cached: Rig, damage: bytes | str) -> None:
    upload = await cached.begin(checksum=checksum_of(BODY))
    assert isinstance(cached.cache, MemoryCache)
    key = f"upload:{upload.id}"
    good = await cached.cache.get(key)
    assert good is not None
    if damage == "checksum":
        bad = good.replace(checksum_of(BODY).value.encode(), b"?")
    elif damage == "another version":
        bad = good.replace(b'"owner"', b'"principal"')
    else:
        assert isinstance(damage, bytes)
        bad = damage
    assert bad != good
    await cached.cache.set_if_newer(key, bad, 99, ttl=timedelta(seconds=5))

    assert await reads(cached, upload.id) == 1


async def test_a_cache_that_never_has_anything_costs_reads_only() -> None:
    rig = Rig(cache=BrokenCache())

    done = await rig.completed()

    assert done.file is not None


class BrokenCache:
    """Unreachable: as the port says, nothing raises."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def get(self, key: str) -> bytes | None:
        return None

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> None:
        return None

    async def delete(self, key: str, version: int) -> None:
        return None


async def test_rule_14_no_url_and_no_secret_is_cached(cached: Rig) -> None:
    upload = await cached.begin(sign=3)
    assert isinstance(cached.cache, MemoryCache)

    copy = await cached.cache.get(f"upload:{upload.id}")

    assert copy is not None
    assert b"memory://" not in copy
    assert b"token" not in copy
