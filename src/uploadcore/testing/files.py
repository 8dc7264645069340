"""The contract of `Transaction.files`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from uploadcore.errors import VersionConflictError
from uploadcore.file import Checksum, ChecksumAlgorithm, File, FileStatus, VerifiedBy
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
