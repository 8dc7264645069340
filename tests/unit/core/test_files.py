"""Files: read, fetch, delete; and that deleting is verified like an abort (rules 9, 10, 13)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from tests.unit.core.rig import BODY, OWNER, Rig
from uploadcore import FileStatus, Visibility
from uploadcore.errors import FileNotReadyError, NoSuchFileError, StoreUnavailableError, VersionConflictError
from uploadcore.ports import ObjectHeaders
from uploadcore_memory import MemoryObjectStore


async def test_the_content_is_served_as_an_attachment_under_its_name_for_fifteen_minutes(rig: Rig) -> None:
    upload = await rig.core.uploads.initiate(
        owner=OWNER, filename='Ünï "x".txt', size=5, content_type="text/plain", sign=1
    )
    await rig.redeem(upload.parts[0], b"hello")
    await rig.complete(upload.id)

    signed = await rig.core.files.content(upload.file_id, owner=OWNER)
    response = await rig.store.get(signed)

    assert response.body == b"hello"
    assert response.headers["content-type"] == "text/plain"
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%9Cn%C3%AF%20%22x%22.txt"
    rig.after(minutes=15)
    assert (await rig.store.get(signed)).status == 403


@pytest.mark.parametrize("status", [FileStatus.UPLOADING, FileStatus.FAILED, FileStatus.DELETED])
async def test_a_file_without_content_has_none_to_read(rig: Rig, status: FileStatus) -> None:
    if status is FileStatus.DELETED:
        file_id = (await rig.completed()).upload.file_id
        await rig.core.files.delete(file_id, owner=OWNER)
    else:
        upload = await rig.begin()
        file_id = upload.file_id
        if status is FileStatus.FAILED:
            await rig.abort(upload.id)

    with pytest.raises(FileNotReadyError) as caught:
        await rig.core.files.content(file_id, owner=OWNER)
    assert caught.value.status == status


async def test_rule_13_another_owners_file_is_as_unknown_as_one_that_never_was(rig: Rig) -> None:
    file_id = (await rig.completed()).upload.file_id
    before, writes = rig.store.calls.copy(), rig.database.calls["transaction"]
    files = rig.core.files
    calls: list[Awaitable[object]] = [
        files.get(file_id, owner="u_2"),
        files.content(file_id, owner="u_2"),
        files.update(file_id, owner="u_2", title="mine"),
        files.update(file_id, owner="u_2", if_version=1, title="mine"),
        files.delete(file_id, owner="u_2"),
        files.get(file_id, owner=None),
        files.content(file_id, owner=None),
        files.update("no-such-file", owner=OWNER, title="mine"),
        files.get("no-such-file", owner=OWNER),
        files.content("a/b\x00", owner=OWNER),
        files.delete("", owner=OWNER),
    ]

    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(answer, NoSuchFileError) for answer in answers)
    assert rig.store.calls == before
    assert rig.database.calls["transaction"] == writes


@pytest.mark.parametrize("visibility", Visibility)
@pytest.mark.parametrize("caller", [OWNER, "u_2", None], ids=["owner", "another", "nobody"])
async def test_rule_13_who_sees_a_file_sees_its_content_and_changes_nothing_of_it(
    rig: Rig, visibility: Visibility, caller: str | None
) -> None:
    file_id = (await rig.completed()).upload.file_id
    await rig.core.files.update(file_id, owner=OWNER, visibility=visibility)
    seen = {
        OWNER: True,
        "u_2": visibility is not Visibility.PRIVATE,
        None: visibility is Visibility.PUBLIC,
    }[caller]

    if seen:
        assert (await rig.core.files.get(file_id, owner=caller)).visibility is visibility
        signed = await rig.core.files.content(file_id, owner=caller)
        assert (await rig.store.get(signed)).body == BODY
    else:
        for call in (rig.core.files.get, rig.core.files.content):
            with pytest.raises(NoSuchFileError):
                await call(file_id, owner=caller)
    if caller == "u_2":
        for change in (rig.core.files.update, rig.core.files.delete):
            with pytest.raises(NoSuchFileError):
                await change(file_id, owner=caller)
        assert (await rig.core.files.find(owner=caller)).files == ()


async def test_others_see_a_public_file_from_when_it_is_available_to_when_it_is_deleted(rig: Rig) -> None:
    upload = await rig.begin()
    await rig.core.files.update(upload.file_id, owner=OWNER, visibility=Visibility.PUBLIC)
    for call in (rig.core.files.get, rig.core.files.content):
        with pytest.raises(NoSuchFileError):
            await call(upload.file_id, owner=None)
    await rig.send(upload.id)
    await rig.complete(upload.id)
    assert (await rig.core.files.get(upload.file_id, owner=None)).status is FileStatus.AVAILABLE
    await rig.completed(BODY[::-1], file_id=upload.file_id)
    assert (await rig.core.files.get(upload.file_id, owner=None)).status is FileStatus.AVAILABLE
    await rig.core.files.delete(upload.file_id, owner=OWNER)
    with pytest.raises(NoSuchFileError):
        await rig.core.files.get(upload.file_id, owner=None)


async def test_a_new_version_is_served_from_where_it_lies(rig: Rig) -> None:
    first = await rig.completed()
    await rig.completed(BODY[::-1], file_id=first.upload.file_id)

    signed = await rig.core.files.content(first.upload.file_id, owner=OWNER)

    assert (await rig.store.get(signed)).body == BODY[::-1]


async def test_rule_9_a_deleted_file_has_no_object_and_one_event(rig: Rig) -> None:
    done = await rig.completed()

    view = await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    again = await rig.core.files.delete(done.upload.file_id, owner=OWNER)

    assert view == again
    assert (view.status, rig.bodies) == (FileStatus.DELETED, [])
    assert rig.events == ["upload.completed", "file.deleted"]


async def test_a_file_without_content_is_not_deleted(rig: Rig) -> None:
    upload = await rig.begin()

    with pytest.raises(FileNotReadyError):
        await rig.core.files.delete(upload.file_id, owner=OWNER)


async def test_a_deletion_is_recorded_at_once_and_finished_by_the_sweeper(rig: Rig) -> None:
    done = await rig.completed()
    rig.store.faults.fail("delete", StoreUnavailableError("away"))

    view = await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    assert view.status is FileStatus.DELETING
    assert (await rig.core.sweep()).files_deleted == 0
    rig.after(seconds=31)
    report = await rig.core.sweep()

    assert report.files_deleted == 1
    assert (await rig.core.files.get(view.id, owner=OWNER)).status is FileStatus.DELETED
    assert rig.bodies == []


async def test_a_deletion_the_store_does_not_carry_out_is_not_recorded_as_done(rig: Rig) -> None:
    done = await rig.completed()
    address = rig.only().address
    delete = MemoryObjectStore.delete

    async def comes_back(deleted: object) -> None:
        await delete(rig.store, address)
        await MemoryObjectStore.put_marker(rig.store, address, ObjectHeaders("text/plain"))

    rig.store.__dict__["delete"] = comes_back
    view = await rig.core.files.delete(done.upload.file_id, owner=OWNER)
    assert view.status is FileStatus.DELETING
    del rig.store.__dict__["delete"]
    rig.after(seconds=31)

    assert (await rig.core.sweep()).files_deleted == 1


async def test_rule_10_a_deletion_is_verified_again_when_the_last_url_has_run_out(rig: Rig) -> None:
    upload = await rig.begin(5, sign=1)
    await rig.redeem(upload.parts[0], b"hello")
    await rig.complete(upload.id)
    await rig.core.files.delete(upload.file_id, owner=OWNER)
    await rig.redeem(upload.parts[0], b"HELLO")  # its URL still lives, and there is nothing to overwrite

    rig.after(hours=2)
    report = await rig.core.sweep()

    assert (report.rechecked, rig.bodies) == (1, [])


async def test_a_deletion_taken_over_by_the_sweeper_answers_what_it_did(rig: Rig) -> None:
    done = await rig.completed()
    held = rig.store.faults.hold("delete")
    deleting = asyncio.ensure_future(rig.core.files.delete(done.upload.file_id, owner=OWNER))
    await held.reached.wait()
    rig.after(seconds=31)

    assert (await rig.core.sweep()).files_deleted == 1
    held.let_go()

    assert (await deleting).status is FileStatus.DELETED
    assert rig.events == ["upload.completed", "file.deleted"]


async def test_a_file_that_changes_while_it_is_to_be_deleted_is_a_conflict(rig: Rig) -> None:
    first = await rig.completed()
    second = await rig.sent(BODY[::-1], file_id=first.upload.file_id)
    held = rig.database.faults.hold("transaction")
    deleting = asyncio.ensure_future(rig.core.files.delete(first.upload.file_id, owner=OWNER))
    await held.reached.wait()

    await rig.complete(second.id)
    held.let_go()

    with pytest.raises(VersionConflictError):
        await deleting
    assert (await rig.core.files.get(second.file_id, owner=OWNER)).status is FileStatus.AVAILABLE


async def test_a_deletion_changes_the_upload_before_its_file_as_the_other_outcomes_do(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that completes and one that deletes could wait for each other."""
    file_id = (await rig.completed()).upload.file_id
    order: list[str] = []
    async with rig.database.inner.reader() as tx:
        kinds = {"upload": type(tx.uploads), "file": type(tx.files)}
    for name, kind in kinds.items():

        def noting(save: Any, name: str = name) -> Any:
            async def noted(self: Any, *arguments: Any, **options: Any) -> Any:
                order.append(name)
                return await save(self, *arguments, **options)

            return noted

        monkeypatch.setattr(kind, "save", noting(cast("Any", kind).save))

    await rig.core.files.delete(file_id, owner=OWNER)

    assert order == ["file", "upload", "file"], "the first is alone in its transaction"
