"""The table of parts: moved by the core's state machine, written to the journal, recalled from it and from the store's listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from uploadcore.errors import IllegalTransitionError
from uploadcore.plan import PartPlan
from uploadcore.states import PartInput, PartState
from uploadcore_client.checksums import combine, crc64nvme, to_checksum
from uploadcore_client.journal import Identity, Journal, Journals
from uploadcore_client.parts import PartTable
from uploadcore_client.wire import Arrived

PLAN = PartPlan(part_size=10, size=25, max_parts=3)
WHOLE = b"0123456789abcdefghij-last"
IDENTITY = Identity("http://s", "/f", 25, 1, "x")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journals(tmp_path).open(IDENTITY)
    journal.opened("u1")
    return journal


def reopened(journal: Journal, tmp_path: Path) -> Journal:
    journal.close()
    return Journals(tmp_path).open(IDENTITY)


def test_a_part_that_is_sent_ends_assembled_and_leaves_its_crc_behind(journal: Journal, tmp_path: Path) -> None:
    table = PartTable(PLAN, journal)

    table.move(1, PartInput.SIGNED, PartInput.SENT)
    table.move(2, PartInput.SIGNED, PartInput.SENT, PartInput.STORED)
    table.verify(2, 0xABC)

    later = reopened(journal, tmp_path)
    assert later.states == {1: PartState.SENDING, 2: PartState.VERIFIED}
    assert later.crcs == {2: 0xABC}
    later.close()


def test_a_step_the_core_does_not_know_changes_nothing(journal: Journal) -> None:
    table = PartTable(PLAN, journal)

    with pytest.raises(IllegalTransitionError):
        table.move(1, PartInput.SENT)

    assert table.state(1) is PartState.PLANNED
    journal.close()


@pytest.mark.parametrize(
    "happened",
    [
        (),
        (PartInput.SIGNED,),
        (PartInput.SIGNED, PartInput.SENT),
        (PartInput.SIGNED, PartInput.SENT, PartInput.URL_EXPIRED),
        (PartInput.SIGNED, PartInput.SENT, PartInput.MISMATCHED),
        (PartInput.STORED,),
        (PartInput.STORED, PartInput.CHECKED),
    ],
)
def test_whatever_a_part_is_it_can_be_planned_again(journal: Journal, happened: tuple[PartInput, ...]) -> None:
    table = PartTable(PLAN, journal)
    table.move(3, *happened)

    table.plan_again(3)

    assert table.state(3) is PartState.PLANNED
    journal.close()


def test_the_listing_decides_and_the_journal_only_lends_its_crcs(journal: Journal, tmp_path: Path) -> None:
    table = PartTable(PLAN, journal)
    for number, crc in ((1, 11), (2, 22), (3, 33)):
        table.move(number, PartInput.SIGNED, PartInput.SENT, PartInput.STORED)
        table.verify(number, crc)
    later = reopened(journal, tmp_path)

    recalled = PartTable(PLAN, later)
    unread = recalled.recall([Arrived(1, 10, to_checksum(11)), Arrived(2, 10, to_checksum(999))])

    assert unread == []
    assert recalled.to_do() == [2, 3]  # 2 is another at the store, 3 is not there
    later.close()


def test_parts_of_unknown_crc_must_be_read_and_those_of_wrong_size_sent(journal: Journal) -> None:
    table = PartTable(PLAN, journal)

    unread = table.recall([Arrived(1, 10, None), Arrived(2, 9, None), Arrived(7, 10, None)])

    assert unread == [1]
    assert [table.state(number) for number in (1, 2)] == [PartState.UPLOADED, PartState.PLANNED]
    journal.close()


def test_the_crc_of_the_whole_is_put_together_from_the_parts(journal: Journal) -> None:
    table = PartTable(PLAN, journal)
    pieces = {1: WHOLE[:10], 2: WHOLE[10:20], 3: WHOLE[20:]}
    for number in (3, 1):
        table.move(number, PartInput.SIGNED, PartInput.SENT, PartInput.STORED)
        table.verify(number, crc64nvme(pieces[number]))

    assert table.crc(lambda number: crc64nvme(pieces[number])) == crc64nvme(WHOLE)
    journal.close()


def test_an_empty_file_has_the_crc_of_nothing(journal: Journal) -> None:
    table = PartTable(PartPlan(part_size=10, size=0, max_parts=1), journal)
    table.move(1, PartInput.SIGNED, PartInput.SENT, PartInput.STORED)
    table.verify(1, crc64nvme(b""))

    assert table.crc(lambda _: pytest.fail("it is known")) == combine([]) == 0
    journal.close()
