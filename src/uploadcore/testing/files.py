"""The contract of `Transaction.files`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from uploadcore.address import Address
from uploadcore.errors import VersionConflictError
from uploadcore.file import Checksum, ChecksumAlgorithm, File, FileStatus, VerifiedBy, Visibility
from uploadcore.ports import Database
from uploadcore.testing.builders import make_file
from uploadcore.testing.uploads import SENTINELS

__all__ = ["FileRecordsContract"]

HOUR = timedelta(hours=1)


async def added_file(database: Database, file: File | None = None) -> File:
    """The file, inserted in a transaction of its own."""
    async with database.transaction() as tx:
        return await tx.files.add(file or make_file())


async def saved_file(
    database: Database, file: File, *, lease: timedelta | None = None, lease_passed: bool = False
) -> File:
    """The file, updated in a transaction of its own."""
    async with database.transaction() as tx:
        return await tx.files.save(file, lease=lease, lease_passed=lease_passed)


async def stored_file(database: Database, file_id: str) -> File | None:
    """The file as a reader sees it."""
    async with database.reader() as tx:
        return await tx.files.get(file_id)


class FileRecordsContract:
    """What every `FileRecords` does. Part of `DatabaseContract`."""

    async def test_add_sets_both_times_and_leaves_version_0(self, database: Database) -> None:
        added = await added_file(database, make_file("f"))
        assert added.version == 0
        assert added.created_at is not None
        assert added.created_at.utcoffset() == timedelta(0)
        assert added.updated_at == added.created_at
        assert replace(added, created_at=None, updated_at=None) == make_file("f")
        assert await stored_file(database, "f") == added

    async def test_one_that_is_held_can_be_saved_as_it_was_read_however_many_change_it(
        self, database: Database
    ) -> None:
        await added_file(database, make_file("f"))

        async def label(number: int) -> None:
            async with database.transaction() as tx:
                file = await tx.files.get("f", hold=True)
                assert file is not None
                await tx.files.save(replace(file, labels=(*file.labels, str(number))))

        await asyncio.gather(*(label(number) for number in range(8)))

        changed = await stored_file(database, "f")
        assert changed is not None
        assert sorted(changed.labels) == [str(number) for number in range(8)]

    async def test_a_file_never_added_is_unknown(self, database: Database) -> None:
        await added_file(database, make_file("f"))
        for unknown in ("g", "F", "", "f%"):
            assert await stored_file(database, unknown) is None

    @pytest.mark.parametrize("text", SENTINELS)
    async def test_text_of_a_file_comes_back_as_it_was(self, database: Database, text: str) -> None:
        file = make_file(
            "f",
            owner=text,
            name=text,
            content_type=text,
            title=text,
            description=text,
            labels=(text, "b", text),
            metadata={text: text},
            manifest_url=text,
        )
        added = await added_file(database, file)
        assert await stored_file(database, "f") == added
        assert (added.name, added.title, added.description, added.manifest_url) == (text, text, text, text)
        assert added.labels == (text, "b", text)

    async def test_every_field_of_a_file_is_saved(self, database: Database) -> None:
        added = await added_file(database, make_file("f"))
        available = replace(
            added.becomes_available(
                upload_id="upload-2",
                address=Address("other-bucket", "up/upload-2"),
                size=53_687_091_200_000,
                content_type="image/png",
                checksum=Checksum(ChecksumAlgorithm.CRC64NVME, "rosUhgp5mIg="),
                verified_by=VerifiedBy.STORE,
            ),
            name="other",
            title="t",
            description="d",
            labels=("x", "y"),
            metadata={"k": "v"},
            manifest_url="https://cdn.example/m.m3u8",
            visibility=Visibility.UNLISTED,
        )
        saved = await saved_file(database, available)
        assert saved.version == 1
        assert saved.created_at == added.created_at
        assert saved.updated_at is not None
        assert added.updated_at is not None
        assert saved.updated_at >= added.updated_at
        assert saved == replace(available, version=1, updated_at=saved.updated_at)
        assert await stored_file(database, "f") == saved

    async def test_a_file_of_an_older_version_is_not_saved(self, database: Database) -> None:
        added = await added_file(database, make_file("f"))
        saved = await saved_file(database, added)
        with pytest.raises(VersionConflictError):
            await saved_file(database, added.fails())
        assert await stored_file(database, "f") == saved

    async def test_a_file_never_added_is_not_saved(self, database: Database) -> None:
        with pytest.raises(VersionConflictError):
            await saved_file(database, make_file("f"))
        assert await stored_file(database, "f") is None

    async def test_of_many_concurrent_saves_of_a_file_exactly_one_wins(self, database: Database) -> None:
        added = await added_file(database)
        attempts = (saved_file(database, replace(added, title=str(number))) for number in range(12))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        won = [outcome for outcome in outcomes if isinstance(outcome, File)]
        assert len(won) == 1
        assert sum(isinstance(outcome, VersionConflictError) for outcome in outcomes) == 11
        assert await stored_file(database, added.id) == won[0]

    async def test_a_files_lease_is_set_from_now_and_cleared(self, database: Database) -> None:
        file = await saved_file(database, await added_file(database), lease=HOUR)
        assert file.updated_at is not None
        assert file.lease_until == file.updated_at + HOUR
        assert await stored_file(database, file.id) == file
        file = await saved_file(database, file)
        assert file.lease_until is None
        assert await stored_file(database, file.id) == file

    async def test_a_files_lease_is_taken_over_only_when_it_has_passed(self, database: Database) -> None:
        never_set = await added_file(database)
        with pytest.raises(VersionConflictError):
            await saved_file(database, never_set, lease=HOUR, lease_passed=True)
        running = await saved_file(database, never_set, lease=HOUR)
        with pytest.raises(VersionConflictError):
            await saved_file(database, running, lease=HOUR, lease_passed=True)
        assert await stored_file(database, running.id) == running
        over = await saved_file(database, running, lease=-HOUR)
        taken = await saved_file(database, over, lease=HOUR, lease_passed=True)
        assert await stored_file(database, taken.id) == taken

    async def test_files_are_due_that_are_deleting_and_whose_lease_has_passed(self, database: Database) -> None:
        for status in FileStatus:
            for name, lease in (("over", -HOUR), ("running", HOUR), ("none", None)):
                file = await added_file(database, make_file(f"{status} {name}", status=status))
                await saved_file(database, file, lease=lease)
        second = await added_file(database, make_file("another", status=FileStatus.DELETING))
        await saved_file(database, second, lease=-HOUR)
        async with database.reader() as tx:
            assert {file.id for file in await tx.files.due(10)} == {"deleting over", "another"}
            assert len(await tx.files.due(1)) == 1

    # --- finding --------------------------------------------------------------------------------------------------

    async def test_an_owners_files_are_found_newest_first_without_the_deleted_ones(self, database: Database) -> None:
        for number in range(5):
            await added_file(database, make_file(f"f{number}"))
        await added_file(database, make_file("another's", owner="u_2"))
        gone = await saved_file(database, await added_file(database, make_file("gone", status=FileStatus.DELETED)))
        found = await found_files(database)
        assert {file.id for file in found} == {f"f{number}" for number in range(5)}
        assert found == newest_first(found)
        assert await found_files(database, status=FileStatus.DELETED) == [gone]

    async def test_files_are_found_by_status(self, database: Database) -> None:
        for status in FileStatus:
            for number in range(2):
                await added_file(database, make_file(f"{status}-{number}", status=status))
        for status in FileStatus:
            found = await found_files(database, status=status)
            assert {file.id for file in found} == {f"{status}-0", f"{status}-1"}
            assert found == newest_first(found)

    async def test_files_are_found_by_label_as_it_is_spelt(self, database: Database) -> None:
        await added_file(database, make_file("a", labels=("x", "y")))
        await added_file(database, make_file("b", labels=("y", "X")))
        await added_file(database, make_file("c", labels=("xy",)))
        await added_file(database, make_file("d"))
        await added_file(database, make_file("e", labels=("x",), owner="u_2"))
        await added_file(database, make_file("f", labels=("x",), status=FileStatus.DELETED))
        await added_file(database, make_file("g", labels=("x",), status=FileStatus.AVAILABLE))
        for label, expected in (("x", "ag"), ("y", "ab"), ("X", "b"), ("xy", "c"), ("%", ""), ("", "")):
            assert {file.id for file in await found_files(database, label=label)} == set(expected), label
        assert [file.id for file in await found_files(database, label="x", status=FileStatus.AVAILABLE)] == ["g"]
        assert [file.id for file in await found_files(database, label="x", status=FileStatus.DELETED)] == ["f"]

    @pytest.mark.parametrize("text", SENTINELS)
    async def test_any_text_can_be_a_label_to_search_by(self, database: Database, text: str) -> None:
        file = await added_file(database, make_file("a", labels=(text, "b")))
        await added_file(database, make_file("b", labels=("b",)))
        assert await found_files(database, label=text) == [file]

    async def test_a_file_is_found_by_the_labels_it_now_has(self, database: Database) -> None:
        file = await added_file(database, make_file("a", labels=("x", "y")))
        for labels in (("y", "z"), ("y", "z"), ("z", "y"), (), ("x",), ("x", "y", "z")):
            file = await saved_file(database, replace(file, labels=labels))
            assert file.labels == labels
            for label in "xyz":
                assert await found_files(database, label=label) == ([file] if label in labels else [])

    async def test_labels_of_a_save_that_is_rolled_back_or_refused_are_not_found(self, database: Database) -> None:
        file = await added_file(database, make_file("a", labels=("x",)))
        with pytest.raises(RuntimeError, match="boom"):
            async with database.transaction() as tx:
                await tx.files.save(replace(file, labels=("y",)))
                raise RuntimeError("boom")
        file = await saved_file(database, file)
        with pytest.raises(VersionConflictError):
            await saved_file(database, replace(file, version=0, labels=("z",)))
        assert await found_files(database, label="x") == [file]
        assert await found_files(database, label="y") == []
        assert await found_files(database, label="z") == []

    @pytest.mark.parametrize("asked", [{}, {"status": FileStatus.UPLOADING}, {"label": "x"}], ids=str)
    async def test_pages_of_files_follow_one_another_without_gap_or_overlap(
        self, database: Database, asked: dict[str, Any]
    ) -> None:
        async with database.transaction() as tx:  # in one, so that some are made in the same moment
            for number in range(7):
                await tx.files.add(make_file(f"f{number}", labels=("x",)))
        everything = await found_files(database, **asked)
        assert len(everything) == 7
        paged: list[File] = []
        while page := await found_files(database, before=_place(paged[-1]) if paged else None, limit=3, **asked):
            assert len(page) <= 3
            paged += page
        assert paged == everything


async def found_files(
    database: Database,
    *,
    owner: str = "u_1",
    status: FileStatus | None = None,
    label: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[File]:
    """The page of files as a reader sees it."""
    async with database.reader() as tx:
        return await tx.files.find(owner=owner, status=status, label=label, before=before, limit=limit)


def newest_first(files: list[File]) -> list[File]:
    """The same files in the order a list has."""
    return sorted(files, key=_place, reverse=True)


def _place(file: File) -> tuple[datetime, str]:
    assert file.created_at is not None
    return file.created_at, file.id
