"""An instance whose clock is wrong: deadlines are the database's, here too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from uploadcore import UploadCore
from uploadcore.clocks import CorrectedClock, clock_offset, set_clock
from uploadcore.errors import UploadClosedError
from uploadcore.ports import Clock
from uploadcore_memory import ManualClock, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class FarDatabase(MemoryDatabase):
    """One on another machine, which tells how far its clock is ahead of this one's."""

    def __init__(self, clock: ManualClock, offset: timedelta | None) -> None:
        super().__init__(clock=clock)
        self.clock_offset = offset


class Rig:
    """A core whose clock is wrong, on a database and a store whose clocks are right."""

    def __init__(self, wrong_by: timedelta) -> None:
        self.right, self.wrong = ManualClock(NOW), ManualClock(NOW + wrong_by)
        self.core = UploadCore(
            store=MemoryObjectStore(clock=self.right),
            database=FarDatabase(self.right, -wrong_by),
            clock=self.wrong,
        )

    def advance(self, by: timedelta) -> None:
        self.right.advance(by)
        self.wrong.advance(by)


@pytest.mark.parametrize("wrong_by", [14 * MINUTE, -14 * MINUTE], ids=["ahead", "behind"])
async def test_urls_are_signed_up_to_the_deadline_and_not_beyond(wrong_by: timedelta) -> None:
    rig = Rig(wrong_by)
    async with rig.core as core:
        upload = await core.uploads.initiate(owner="u_1", filename="a", size=3)
        deadline = NOW + DAY

        rig.advance(DAY - 5 * MINUTE)
        [part] = await core.uploads.sign_parts(upload.id, owner="u_1", part_numbers=[1])
        assert part.request.expires_at == deadline, "neither refused as too late, nor good for longer"

        rig.advance(5 * MINUTE)
        with pytest.raises(UploadClosedError):
            await core.uploads.sign_parts(upload.id, owner="u_1", part_numbers=[1])


def test_the_clock_is_this_machines_unless_it_is_known_to_be_wrong() -> None:
    here = ManualClock(NOW)
    database = FarDatabase(here, None)
    clock = CorrectedClock(here, database)
    assert clock.now() == NOW
    for offset, shown in [(timedelta(seconds=0.9), NOW), (timedelta(seconds=-0.9), NOW), (MINUTE, NOW + MINUTE)]:
        database.clock_offset = offset
        assert clock.now() == shown


def test_an_adapter_without_a_clock_of_its_own_has_no_offset() -> None:
    assert clock_offset(MemoryDatabase()) is None
    assert clock_offset(FarDatabase(ManualClock(NOW), MINUTE)) == MINUTE


def test_who_goes_by_a_clock_is_given_the_corrected_one() -> None:
    class Dated(MemoryEventPublisher):
        def use_clock(self, clock: Clock) -> None:
            self.now = clock.now

    dated, here = Dated(), ManualClock(NOW)
    database = FarDatabase(here, 14 * MINUTE)
    UploadCore(store=MemoryObjectStore(), database=database, publishers={"a": dated}, clock=here)

    assert dated.now() == NOW + 14 * MINUTE
    set_clock(MemoryEventPublisher(), here)  # tells nobody the time
