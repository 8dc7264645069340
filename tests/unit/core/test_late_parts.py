"""A store that takes parts of a completed upload: once the last URL has run out, what stands is held against what was completed (rule 10)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig
from uploadcore import FileStatus, UploadState
from uploadcore.errors import FileNotReadyError, NoSuchMultipartError, StoreUnavailableError
from uploadcore.plan import StoredPart
from uploadcore.upload import Address
from uploadcore_memory import MEMORY_CAPABILITIES

LENIENT = replace(MEMORY_CAPABILITIES, late_parts_refused=False)


@pytest.fixture
def lenient() -> Rig:
    return Rig(capabilities=LENIENT)


async def completed_then_late(rig: Rig, late: bytes, *, number: int = 3, size: int | None = len(BODY)) -> str:
    """The file of an upload of three parts, one of which was sent after completion; the last URL has run out since."""
    upload = await rig.begin(size)
    await rig.send(upload.id)
    [part] = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[number])
    await rig.complete(upload.id)
    await rig.redeem(part, late)
    rig.clock.advance(rig.config.recheck_after)
    return upload.file_id


async def test_rule_10_a_file_whose_content_was_changed_fails_and_says_so_once(lenient: Rig) -> None:
    file_id = await completed_then_late(lenient, b"EVIL!")
    assert (await lenient.core.sweep(dry_run=True)).damaged == 1

    report = await lenient.core.sweep()
    again = await lenient.core.sweep()

    assert (report.damaged, report.rechecked, again.damaged) == (1, 0, 0)
    assert lenient.file(file_id).status is FileStatus.FAILED
    assert lenient.events == ["upload.completed", "file.damaged"]
    assert lenient.only().state is UploadState.COMPLETED
    with pytest.raises(FileNotReadyError):
        await lenient.core.files.content(file_id, owner=OWNER)


async def test_nothing_of_it_is_deleted_until_its_owner_says_so(lenient: Rig) -> None:
    file_id = await completed_then_late(lenient, b"EVIL!")
    await lenient.core.sweep()
    assert len(lenient.bodies) == 1

    await lenient.core.files.delete(file_id, owner=OWNER)

    assert lenient.bodies == []
    assert lenient.file(file_id).status is FileStatus.DELETED


async def test_a_new_version_mends_it(lenient: Rig) -> None:
    file_id = await completed_then_late(lenient, b"EVIL!")
    await lenient.core.sweep()

    done = await lenient.completed(b"new content", file_id=file_id)
    lenient.clock.advance(lenient.config.recheck_after)
    await lenient.core.sweep()

    assert done.file is not None
    assert (lenient.file(file_id).status, lenient.bodies) == (FileStatus.AVAILABLE, [b"new content"])


async def test_the_same_part_again_is_no_damage(lenient: Rig) -> None:
    file_id = await completed_then_late(lenient, BODY[20:])

    report = await lenient.core.sweep()

    assert (report.rechecked, report.damaged) == (1, 0)
    assert lenient.file(file_id).status is FileStatus.AVAILABLE
    assert lenient.only().recheck_at is None


async def test_where_the_store_tells_no_checksum_another_size_is_seen() -> None:
    rig = Rig(capabilities=replace(LENIENT, object_checksums=frozenset()))
    await completed_then_late(rig, b"longer", size=None)

    assert (await rig.core.sweep()).damaged == 1


LISTING = replace(LENIENT, object_checksums=frozenset(), forgets_completed=False)


async def test_where_the_store_tells_no_checksum_but_goes_on_listing_another_part_of_that_size_is_seen() -> None:
    rig = Rig(capabilities=LISTING)
    file_id = await completed_then_late(rig, b"EVIL!")

    assert (await rig.core.sweep()).damaged == 1
    assert rig.file(file_id).status is FileStatus.FAILED


async def test_the_same_part_again_is_listed_as_before() -> None:
    rig = Rig(capabilities=LISTING)
    await completed_then_late(rig, BODY[20:])

    assert (await rig.core.sweep()).damaged == 0


@pytest.mark.parametrize("listings", [[[]], [["2"]], [["1", "2"]], [["1", "2", "late"], ["1", "2", "3"]]])
async def test_a_listing_without_parts_or_one_that_is_old_is_no_damage(
    listings: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(capabilities=LISTING)
    await completed_then_late(rig, BODY[20:])
    true = {str(part.part_number): part for part in await rig.store.list_parts(rig.only().address)}
    true["late"] = replace(true["3"], etag='"another"')
    answers = iter([[true[name] for name in names] for names in listings])

    async def listed(address: Address) -> list[StoredPart]:
        return next(answers)

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "list_parts", listed)
        report = await rig.core.sweep()

    assert (report.damaged, report.rechecked) == (0, 1)
    assert list(answers) == [], "looked as often as was needed"


async def test_a_store_that_has_forgotten_the_parts_meanwhile_tells_nothing() -> None:
    rig = Rig(capabilities=LISTING)
    await completed_then_late(rig, b"EVIL!")
    rig.store.faults.fail("list_parts", NoSuchMultipartError("forgotten"))

    assert (await rig.core.sweep()).rechecked == 1


async def test_where_the_store_lists_completed_parts_no_more_it_is_not_asked() -> None:
    rig = Rig(capabilities=replace(LISTING, forgets_completed=True))
    await completed_then_late(rig, BODY[20:])
    before = rig.store.calls["list_parts"]

    assert (await rig.core.sweep()).rechecked == 1
    assert rig.store.calls["list_parts"] == before


async def test_a_part_that_no_file_has_is_no_damage() -> None:
    rig = Rig(capabilities=LISTING)
    await completed_then_late(rig, b"one more", number=4, size=None)

    assert (await rig.core.sweep()).damaged == 0


async def test_a_part_sent_again_before_somebody_took_over_is_what_was_completed() -> None:
    rig = Rig(capabilities=LISTING)
    upload = await rig.sent()
    [part] = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[3])
    rig.store.faults.fail("complete_multipart", StoreUnavailableError("away"))
    rig.store.faults.fail("head", StoreUnavailableError("away"))
    assert (await rig.complete(upload.id)).file is None
    await rig.redeem(part, b"other")
    rig.clock.advance(rig.config.second_completion_after)

    assert (await rig.another_core().sweep()).settled == 1
    rig.clock.advance(rig.config.recheck_after)

    assert (await rig.core.sweep()).damaged == 0
    assert rig.bodies == [BODY[:20] + b"other"]
    assert rig.only().state is UploadState.COMPLETED


async def test_an_object_that_is_gone_is_damage_too(lenient: Rig) -> None:
    await completed_then_late(lenient, BODY[20:])
    await lenient.store.delete(lenient.only().address)

    assert (await lenient.core.sweep()).damaged == 1


async def test_an_object_that_seems_gone_is_no_damage_where_the_bucket_seems_gone_too(
    lenient: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await completed_then_late(lenient, BODY[20:])

    async def nothing(address: Address) -> None: ...

    with monkeypatch.context() as away:
        away.setattr(lenient.store, "head", nothing)
        lenient.store.faults.fail("list_multiparts", StoreUnavailableError("no such bucket"), times=2)
        report = await lenient.core.sweep()
    lenient.store.faults.heal()

    assert (report.damaged, lenient.file(file_id).status) == (0, FileStatus.AVAILABLE)
    lenient.clock.advance(lenient.config.sweep_interval)
    assert (await lenient.core.sweep()).rechecked == 1


async def test_a_store_that_does_not_answer_is_asked_again_next_time(lenient: Rig) -> None:
    await completed_then_late(lenient, b"EVIL!")
    lenient.store.faults.pass_by("head", 2)  # the marker's
    lenient.store.faults.fail("head", StoreUnavailableError("away"))

    assert (await lenient.core.sweep()).failed == 1
    lenient.clock.advance(lenient.config.sweep_interval)

    assert (await lenient.core.sweep()).damaged == 1


async def test_two_instances_at_once_say_it_once(lenient: Rig) -> None:
    await completed_then_late(lenient, b"EVIL!")

    reports = await asyncio.gather(lenient.core.sweep(), lenient.another_core().sweep())

    assert sum(report.damaged for report in reports) == 1
    assert lenient.events == ["upload.completed", "file.damaged"]


async def test_where_late_parts_are_refused_nothing_is_looked_at(rig: Rig) -> None:
    await rig.completed()

    assert rig.only().recheck_at is None


async def test_a_single_put_can_not_be_overwritten_and_is_not_looked_at(lenient: Rig) -> None:
    await lenient.completed(b"hello")

    assert lenient.only().recheck_at is None
