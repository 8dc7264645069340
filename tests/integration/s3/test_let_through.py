"""What the service makes of what a store lets through. It holds for a store that refuses it as well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.s3.attacking import NINE, OTHER, Request, send
from tests.servers.s3 import S3Server
from uploadcore import UploadConfig, UploadCore, UploadView
from uploadcore.errors import PartsMissingError, UploadClosedError
from uploadcore.file import FileStatus
from uploadcore.states import UploadState
from uploadcore_memory import ManualClock, MemoryDatabase
from uploadcore_s3 import S3ObjectStore, StoreOptions

OWNER = "u_1"


@dataclass
class Service:
    """A core on a bucket of the server's, whose own time is the test's."""

    core: UploadCore
    clock: ManualClock

    async def begin(self, size: int, **options: object) -> tuple[UploadView, list[Request]]:
        """An upload, and the PUTs it allows."""
        upload = await self.core.uploads.initiate(owner=OWNER, filename="f", size=size, sign=10, **options)  # type: ignore[arg-type]
        return upload, [Request.honest(part.request, NINE) for part in upload.parts]

    async def complete(self, upload: UploadView) -> str:
        """The id of the file."""
        completion = await self.core.uploads.complete(upload.id, owner=OWNER)
        assert completion.file is not None
        return completion.file.id

    async def content(self, file_id: str) -> bytes | None:
        """What a client gets; `None` for an error."""
        answer = await send(Request.honest(await self.core.files.content(file_id, owner=OWNER)))
        return answer.body if answer.status == 200 else None


@pytest.fixture
async def service(s3_server: S3Server, s3_options: StoreOptions) -> AsyncIterator[Service]:
    clock = ManualClock(datetime.now(UTC))
    store = S3ObjectStore(s3_server.new_bucket(), **s3_options)
    database = MemoryDatabase(clock=clock)
    async with UploadCore(store=store, database=database, clock=clock, config=UploadConfig()) as core:
        yield Service(core, clock)


def longer(request: Request) -> Request:
    """A byte more than was signed, beside the length that was."""
    return replace(request, body=NINE + b"0", is_chunked=True).adding("content-length", "9")


async def test_a_part_longer_than_signed_is_not_assembled_and_can_be_sent_again(service: Service) -> None:
    upload, [first, second] = await service.begin(18, part_size=9)
    await send(longer(first))
    await send(second)

    with pytest.raises(PartsMissingError) as refused:
        await service.complete(upload)

    assert set(refused.value.mismatched) | {number for number, _ in refused.value.missing} == {1}
    assert (await send(first)).status == 200
    assert await service.content(await service.complete(upload)) == NINE + NINE


async def test_an_object_longer_than_signed_becomes_no_file_and_goes_with_its_upload(service: Service) -> None:
    upload, [put] = await service.begin(9)
    await send(longer(put))

    with pytest.raises(PartsMissingError):
        await service.complete(upload)

    assert (await service.core.uploads.abort(upload.id, owner=OWNER)).state is UploadState.ABORTED
    assert (await send(put)).status == 200, "nothing stands under the key any more"
    service.clock.advance(timedelta(hours=2))
    assert (await service.core.sweep()).rechecked == 1
    assert (await send(put)).status == 200, "nor after the recheck"


async def test_a_late_part_may_break_a_file_but_never_change_it_and_a_new_version_mends_it(service: Service) -> None:
    upload, [first, second] = await service.begin(18, part_size=9)
    for part in (first, second):
        await send(part)
    file_id = await service.complete(upload)

    await send(replace(first, body=OTHER))

    assert await service.content(file_id) in {NINE + NINE, None}
    with pytest.raises(UploadClosedError):
        await service.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1])
    service.clock.advance(timedelta(hours=2))
    assert (await service.core.sweep()).damaged == 1
    assert (await service.core.files.get(file_id, owner=OWNER)).status is FileStatus.FAILED
    again, parts = await service.begin(18, part_size=9, file_id=file_id)
    for part in parts:
        await send(part)
    assert await service.complete(again) == file_id
    assert await service.content(file_id) == NINE + NINE


async def test_one_more_part_after_completion_is_not_in_the_file(service: Service) -> None:
    upload = await service.core.uploads.initiate(owner=OWNER, filename="f", size=None, part_size=9)
    signed = await service.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1, 2])
    first, second = (Request.honest(part.request, NINE) for part in signed)
    assert (await send(first)).status == 200
    file_id = await service.complete(upload)

    await send(second)

    assert await service.content(file_id) == NINE
    assert await service.complete(upload) == file_id


async def test_what_lands_after_deletion_is_removed_when_the_last_url_has_run_out(service: Service) -> None:
    upload, [put] = await service.begin(9)
    assert (await send(put)).status == 200
    file_id = await service.complete(upload)
    deleted = await service.core.files.delete(file_id, owner=OWNER)
    assert deleted.status is FileStatus.DELETED

    await send(put)
    service.clock.advance(timedelta(hours=2))
    assert (await service.core.sweep()).rechecked == 1

    assert (await send(put)).status == 200, "nothing stands under the key any more"
