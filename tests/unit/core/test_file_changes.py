"""What is said about files: changed under a version, found again, and held to bounds (rule 16)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig, gathered
from uploadcore import FileStatus, FileView, Visibility
from uploadcore.errors import FileNotReadyError, InvalidRequestError, StoreUnavailableError, VersionConflictError
from uploadcore.file import File
from uploadcore_memory import MemoryDatabase
from uploadcore_memory.database import _Files


async def available(rig: Rig) -> FileView:
    done = await rig.completed()
    assert done.file is not None
    return done.file


ALL: dict[str, Any] = {
    "name": "sea.mp4",
    "title": "The sea",
    "description": "Waves.\n\tAnd more.\r\n",
    "labels": ("2026", "ü 🎬"),
    "visibility": Visibility.UNLISTED,
    "metadata": {"camera": "x100"},
}


async def test_every_value_can_be_changed_and_what_is_not_named_stays(rig: Rig) -> None:
    file = await available(rig)
    version = file.version
    for name, value in ALL.items():
        before = file
        file = await rig.core.files.update(file.id, owner=OWNER, **{name: value})
        version += 1
        assert (getattr(file, name), file.version) == (value, version)
        assert all(getattr(file, other) == getattr(before, other) for other in ALL if other != name)
    assert await rig.core.files.get(file.id, owner=OWNER) == file
    assert (file.status, file.size, file.created_at) == (FileStatus.AVAILABLE, len(BODY), before.created_at)
    emptied = await rig.core.files.update(
        file.id, owner=OWNER, title="", description="", labels=(), metadata={}, visibility=Visibility.PRIVATE
    )
    assert (emptied.title, emptied.description, emptied.labels, emptied.metadata) == ("", "", (), {})
    assert emptied.version == version + 1


async def test_what_changes_nothing_is_not_written_and_keeps_the_version(rig: Rig) -> None:
    file = await available(rig)
    file = await rig.core.files.update(file.id, owner=OWNER, **ALL)
    writes = rig.database.calls["transaction"]

    for asked in ({}, ALL, {"labels": list(ALL["labels"])}):
        assert await rig.core.files.update(file.id, owner=OWNER, **asked) == file
    assert await rig.core.files.update(file.id, owner=OWNER, if_version=file.version) == file
    with pytest.raises(VersionConflictError):
        await rig.core.files.update(file.id, owner=OWNER, if_version=file.version - 1)

    assert rig.database.calls["transaction"] == writes


async def test_a_change_under_a_version_that_no_longer_stands_is_refused(rig: Rig) -> None:
    file = await available(rig)
    changed = await rig.core.files.update(file.id, owner=OWNER, if_version=file.version, title="a")

    for call in (
        rig.core.files.update(file.id, owner=OWNER, if_version=file.version, title="b"),
        rig.core.files.update(file.id, owner=OWNER, if_version=changed.version + 1, title="b"),
        rig.core.files.delete(file.id, owner=OWNER, if_version=file.version),
    ):
        with pytest.raises(VersionConflictError) as refused:
            await call
        assert refused.value.file_id == file.id
    assert await rig.core.files.get(file.id, owner=OWNER) == changed
    deleted = await rig.core.files.delete(file.id, owner=OWNER, if_version=changed.version)
    assert deleted.status is FileStatus.DELETED


async def test_of_many_changes_under_one_version_exactly_one_is_made(rig: Rig) -> None:
    file = await available(rig)
    answers = await gathered(
        *(
            rig.core.files.update(file.id, owner=OWNER, if_version=file.version, title=str(number))
            for number in range(8)
        )
    )
    (made,) = (answer for answer in answers if isinstance(answer, FileView))
    assert sum(isinstance(answer, VersionConflictError) for answer in answers) == 7
    assert await rig.core.files.get(file.id, owner=OWNER) == made


async def test_changes_without_a_version_are_all_made_one_upon_the_other(rig: Rig) -> None:
    file = await available(rig)
    held = rig.database.faults.hold("transaction")
    slow = asyncio.ensure_future(rig.core.files.update(file.id, owner=OWNER, title="slow"))
    await held.reached.wait()
    await rig.core.files.update(file.id, owner=OWNER, description="quick")
    held.let_go()

    both = await slow

    assert (both.title, both.description, both.version) == ("slow", "quick", file.version + 2)


async def test_a_change_under_a_version_that_is_overtaken_while_it_is_saved_is_refused(rig: Rig) -> None:
    file = await available(rig)
    held = rig.database.faults.hold("transaction")
    slow = asyncio.ensure_future(rig.core.files.update(file.id, owner=OWNER, if_version=file.version, title="slow"))
    await held.reached.wait()
    await rig.core.files.update(file.id, owner=OWNER, title="quick")
    held.let_go()

    with pytest.raises(VersionConflictError):
        await slow


async def test_a_file_that_keeps_changing_is_a_conflict_in_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await available(rig)
    saves = 0

    async def overtaken(self: _Files, file: File, **asked: Any) -> File:
        nonlocal saves
        saves += 1
        raise VersionConflictError("somebody else changed the file", file_id=file.id)

    monkeypatch.setattr(_Files, "save", overtaken)
    for call in (
        rig.core.files.update(file.id, owner=OWNER, title="a"),
        rig.core.files.delete(file.id, owner=OWNER),
    ):
        saves = 0
        with pytest.raises(VersionConflictError, match="keeps changing"):
            await call
        assert saves == 10


async def test_a_file_that_is_changed_while_it_is_to_be_deleted_is_deleted(rig: Rig) -> None:
    file = await available(rig)
    held = rig.database.faults.hold("transaction")
    deleting = asyncio.ensure_future(rig.core.files.delete(file.id, owner=OWNER))
    await held.reached.wait()
    await rig.core.files.update(file.id, owner=OWNER, title="a")
    held.let_go()

    assert ((await deleting).status, rig.bodies) == (FileStatus.DELETED, [])


async def test_a_file_that_is_changed_while_it_is_to_be_deleted_under_its_version_stays(rig: Rig) -> None:
    file = await available(rig)
    held = rig.database.faults.hold("transaction")
    deleting = asyncio.ensure_future(rig.core.files.delete(file.id, owner=OWNER, if_version=file.version))
    await held.reached.wait()
    await rig.core.files.update(file.id, owner=OWNER, title="a")
    held.let_go()

    with pytest.raises(VersionConflictError):
        await deleting
    assert rig.bodies == [BODY]


async def test_rule_7_a_repeated_deletion_has_one_answer_whatever_version_it_names(rig: Rig) -> None:
    file = await available(rig)
    deleted = await rig.core.files.delete(file.id, owner=OWNER, if_version=file.version)
    assert await rig.core.files.delete(file.id, owner=OWNER, if_version=file.version) == deleted


async def test_a_file_without_content_can_be_changed_until_it_is_deleted(rig: Rig) -> None:
    upload = await rig.begin()
    assert (await rig.core.files.update(upload.file_id, owner=OWNER, title="a")).status is FileStatus.UPLOADING
    await rig.abort(upload.id)
    assert (await rig.core.files.update(upload.file_id, owner=OWNER, title="b")).status is FileStatus.FAILED
    file = await available(rig)
    rig.store.faults.fail("delete", StoreUnavailableError("away"))
    for status in (FileStatus.DELETING, FileStatus.DELETED):
        assert (await rig.core.files.delete(file.id, owner=OWNER)).status is FileStatus.DELETING
        if status is FileStatus.DELETED:
            rig.after(seconds=31)
            await rig.core.sweep()
        for if_version in (None, 99):
            with pytest.raises(FileNotReadyError, match=f"{status}: it takes no changes"):
                await rig.core.files.update(file.id, owner=OWNER, if_version=if_version, title="c")


# --- an upload whose file is changed meanwhile --------------------------------------------------------------------


class Overtaken:
    """The next save of a file is refused, as by a database that held it for nobody."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database: MemoryDatabase = rig.database.inner
        self.left = 1
        save = _Files.save

        async def overtaken(files: _Files, file: File, **asked: Any) -> File:
            if self.left:
                self.left -= 1
                raise VersionConflictError("somebody else changed the file", file_id=file.id)
            return await save(files, file, **asked)

        monkeypatch.setattr(_Files, "save", overtaken)


async def test_a_completion_whose_outcome_was_refused_is_settled_by_the_sweeper(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await rig.sent()
    Overtaken(rig, monkeypatch)

    assert (await rig.within(rig.complete(upload.id))).file is None
    rig.after(seconds=31)
    assert (await rig.core.sweep()).settled == 1

    assert rig.file(upload.file_id).status is FileStatus.AVAILABLE


# --- found again --------------------------------------------------------------------------------------------------


async def test_an_owner_finds_their_files_newest_first_a_page_at_a_time(rig: Rig) -> None:
    names = []
    for _ in range(5):
        rig.after(seconds=1)
        names.append((await rig.begin()).file_id)
    await rig.core.uploads.initiate(owner="u_2", filename="theirs", size=1)

    first = await rig.core.files.find(owner=OWNER, limit=3)
    assert first.next is not None
    second = await rig.core.files.find(owner=OWNER, limit=3, cursor=first.next)

    assert [file.id for file in first.files + second.files] == names[::-1]
    assert second.next is None
    assert (await rig.core.files.find(owner=OWNER, limit=5)).next is None


async def test_files_are_found_by_status_and_label(rig: Rig) -> None:
    sea, hills = await available(rig), await available(rig)
    await rig.core.files.update(sea.id, owner=OWNER, labels=["holiday", "sea"])
    await rig.core.files.update(hills.id, owner=OWNER, labels=["holiday"], visibility=Visibility.PUBLIC)
    uploading = await rig.begin()

    async def found(owner: str = OWNER, **asked: Any) -> set[str]:
        return {file.id for file in (await rig.core.files.find(owner=owner, **asked)).files}

    assert await found(label="sea") == {sea.id}
    assert await found(label="holiday", status=FileStatus.AVAILABLE) == {sea.id, hills.id}
    assert await found(status=FileStatus.UPLOADING) == {uploading.file_id}
    assert await found(owner="u_2", label="holiday") == set(), "a public file is in its owner's list only"
    await rig.core.files.delete(sea.id, owner=OWNER)
    assert await found() == {hills.id, uploading.file_id}
    assert await found(label="holiday", status=FileStatus.DELETED) == {sea.id}


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"name": ""},
        {"name": "a\x00"},
        {"name": "a\nb"},
        {"name": "x" * 1_025},
        {"title": "a\x00"},
        {"title": "a\nb"},
        {"title": "x" * 1_025},
        {"title": "🎬" * 257},
        {"title": "\ud800"},
        {"description": "a\x00"},
        {"description": "a\x1b"},
        {"description": "x" * 16_385},
        {"description": "\ud800"},
        {"labels": "one"},
        {"labels": [""]},
        {"labels": ["a\x00"]},
        {"labels": ["a\nb"]},
        {"labels": ["x" * 65]},
        {"labels": ["🎬" * 65]},
        {"labels": ["\ud800"]},
        {"labels": ["a", "a"]},
        {"labels": [str(number) for number in range(33)]},
        {"metadata": {"a": "\x00"}},
        {"metadata": {"": "a"}},
        {"metadata": {"a": "x" * 2_048}},
    ],
    ids=str,
)
async def test_rule_16_a_value_that_can_not_be_kept_is_refused_and_nothing_changes(
    rig: Rig, asked: dict[str, Any]
) -> None:
    file = await available(rig)

    with pytest.raises(InvalidRequestError):
        await rig.core.files.update(file.id, owner=OWNER, **asked)

    assert await rig.core.files.get(file.id, owner=OWNER) == file


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "x" * 1_024},
        {"title": "🎬" * 256},
        {"description": "🎬" * 4_096},
        {"labels": tuple(f"{number:x>64}" for number in range(32))},
        {"labels": ("🎬" * 64,)},
        {"metadata": {"a": "x" * 2_047}},
    ],
    ids=lambda asked: next(iter(asked)),
)
async def test_the_largest_values_are_kept_as_they_are(rig: Rig, asked: dict[str, Any]) -> None:
    file = await available(rig)

    await rig.core.files.update(file.id, owner=OWNER, **asked)

    ((name, value),) = asked.items()
    assert getattr(await rig.core.files.get(file.id, owner=OWNER), name) == value


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"limit": 1_001},
        {"label": ""},
        {"label": "a\x00"},
        {"label": "x" * 65},
        {"cursor": "?"},
        {"cursor": "AAAA"},
        {"cursor": "MjAyNi0wMS0wMSAvLw=="},
    ],
    ids=str,
)
async def test_rule_16_a_search_that_makes_no_sense_is_refused(rig: Rig, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        await rig.core.files.find(owner=OWNER, **asked)
