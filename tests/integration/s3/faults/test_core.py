"""The whole core on a store that misbehaves: whatever the answers were, what stands at the store decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import (
    Answer,
    Script,
    ScriptedS3,
    cuts_body,
    error,
    refuses,
    says,
    says_nothing,
    then,
)
from tests.integration.s3.faults.stores import ALL, Bench, at_most
from uploadcore import Completion, UploadCore, UploadState, UploadView
from uploadcore.errors import PartsMissingError, StoreUnavailableError
from uploadcore.upload import Upload
from uploadcore_memory import ManualClock, MemoryDatabase

OWNER = "u_1"
BODY = b"0123456789abcdefghijABCDE"
PART = 10


class Rig:
    """A core on a store over HTTP; its own clock stands still."""

    def __init__(self, bench: Bench) -> None:
        self.far, self.bench = bench.far, bench
        self.clock = ManualClock(datetime.now(UTC))
        self.database = MemoryDatabase(clock=self.clock, installation_id="here")
        self.core = UploadCore(store=bench.store, database=self.database, clock=self.clock)

    def only(self) -> Upload:
        (upload,) = self.database.uploads.values()
        return upload

    @property
    def events(self) -> list[str]:
        return [str(event.type) for event in self.database.events]

    async def sent(self, body: bytes = BODY) -> UploadView:
        upload = await self.core.uploads.initiate(owner=OWNER, filename="a.txt", size=len(body), part_size=PART)
        await self.send(upload.id, body)
        return upload

    async def send(self, upload_id: str, body: bytes = BODY) -> None:
        numbers = range(1, max(1, -(-len(body) // PART)) + 1)
        for part in await self.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=numbers):
            answer = await self.bench.redeem(part.request, body[part.offset : part.offset + PART])
            assert answer.status_code == 200, answer.text

    async def complete(self, upload_id: str) -> Completion:
        async with at_most(30):
            return await self.core.uploads.complete(upload_id, owner=OWNER)

    @property
    def bodies(self) -> list[bytes]:
        """The bytes of every object but the installation's marker."""
        return [stored.body for key, stored in self.far.objects.items() if not key.endswith(".installation")]


@pytest.fixture
async def rig_of(bench_of: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Rig:
            rig = Rig(await bench_of(is_open=False, **options))
            await stack.enter_async_context(rig.core)
            return rig

        yield make


@pytest.fixture
async def rig(rig_of: Callable[..., Any]) -> Rig:
    rig: Rig = await rig_of()
    return rig


LOST_AFTER_THE_EFFECT: dict[str, Script] = {
    "200_with_an_error_body": then(says(error(200, "InternalError"))),
    "cut_body": cuts_body,
    "no_body": then(says(Answer(200))),
    "500": then(refuses(500, "InternalError")),
    "no_answer": then(says_nothing),
    "no_such_upload": then(refuses(404, "NoSuchUpload")),
    "412": then(refuses(412, "PreconditionFailed")),
}


@pytest.mark.parametrize("script", LOST_AFTER_THE_EFFECT.values(), ids=LOST_AFTER_THE_EFFECT)
async def test_an_effect_whose_answer_was_lost_is_found_by_looking(rig: Rig, far: ScriptedS3, script: Script) -> None:
    upload = await rig.sent()
    far.script("complete", script)

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert far.count("complete") == 1
    assert (rig.bodies, rig.events) == ([BODY], ["upload.completed"])


@pytest.mark.parametrize(
    "script",
    [says(error(200, "InternalError")), refuses(500, "InternalError"), says_nothing],
    ids=["200_with_an_error_body", "500", "no_answer"],
)
async def test_a_completion_without_effect_stays_completing_and_the_sweeper_goes_on(
    rig: Rig, far: ScriptedS3, script: Script
) -> None:
    upload = await rig.sent()
    far.script("complete", script)
    answer = await rig.complete(upload.id)
    assert (answer.upload.state, answer.file) == (UploadState.COMPLETING, None)

    report = await rig.core.sweep()

    assert report.settled == 1
    assert (await rig.complete(upload.id)).file is not None
    assert rig.bodies == [BODY]


async def test_a_store_without_concurrent_completion_is_not_asked_again_for_ten_minutes(
    rig_of: Callable[..., Any], far: ScriptedS3
) -> None:
    rig: Rig = await rig_of(capabilities=replace(ALL, concurrent_complete=False))
    upload = await rig.sent()
    far.script("complete", refuses(500, "InternalError"))
    await rig.complete(upload.id)

    rig.clock.advance(timedelta(minutes=9))
    await rig.core.sweep()
    assert far.count("complete") == 1
    rig.clock.advance(timedelta(minutes=1))
    await rig.core.sweep()

    assert (await rig.complete(upload.id)).file is not None


async def test_a_look_that_is_denied_is_no_absence(rig: Rig, far: ScriptedS3) -> None:
    """Without permission to list, a missing object is 403: nothing is reopened, nothing is failed."""
    await rig.core.sweep()
    upload = await rig.sent()
    far.script("complete", then(refuses(404, "NoSuchUpload")))
    far.always("head", says(Answer(403)))

    answer = await rig.complete(upload.id)
    rig.clock.advance(timedelta(minutes=1))
    await rig.core.sweep()
    rig.clock.advance(timedelta(minutes=1))
    await rig.core.sweep()
    assert (answer.upload.state, rig.only().state) == (UploadState.COMPLETING, UploadState.COMPLETING)
    far.heal()
    await rig.core.sweep()

    assert (await rig.complete(upload.id)).file is not None
    assert rig.events == ["upload.completed"]


async def test_an_idle_upload_reaped_by_the_store_is_reopened_with_all_parts_missing(rig: Rig, far: ScriptedS3) -> None:
    upload = await rig.sent()
    far.reap()

    with pytest.raises(PartsMissingError) as caught:
        await rig.complete(upload.id)

    assert caught.value.missing == ((1, 3),)
    await rig.send(upload.id)
    assert (await rig.complete(upload.id)).file is not None
    assert rig.events == ["upload.reopened", "upload.completed"]


async def test_an_upload_is_not_reopened_while_the_store_does_not_say_whether_there_is_an_object(
    rig: Rig, far: ScriptedS3
) -> None:
    upload = await rig.sent()
    far.reap()
    far.always("head", says(Answer(403)))
    with pytest.raises(StoreUnavailableError):
        await rig.complete(upload.id)
    assert (rig.only().state, far.count("create")) == (UploadState.UPLOADING, 1)


@pytest.mark.parametrize("after_completion", ["NoSuchUpload", "NoSuchKey", "parts"])
@pytest.mark.parametrize("repeated", ["success", "NoSuchUpload"])
async def test_an_object_that_stands_already_is_completed_whatever_a_listing_says(
    rig: Rig, far: ScriptedS3, after_completion: str, repeated: str
) -> None:
    far.after_completion, far.repeated_completion = after_completion, repeated
    upload = await rig.sent()
    far.script("complete", then(refuses(400, "InvalidPart")))
    with pytest.raises(PartsMissingError):
        await rig.complete(upload.id)
    assert rig.only().state is UploadState.UPLOADING

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert rig.bodies == [BODY]


async def test_a_creation_whose_answer_was_lost_leaves_an_orphan_that_is_swept(rig: Rig, far: ScriptedS3) -> None:
    async def initiate() -> UploadView:
        return await rig.core.uploads.initiate(
            owner=OWNER, filename="a.txt", size=len(BODY), part_size=PART, idempotency_key="again"
        )

    far.script("create", then(refuses(500, "InternalError")))
    with pytest.raises(StoreUnavailableError):
        await initiate()
    await initiate()
    assert len(far.multiparts) == 2, "one of them is nobody's"

    rig.clock.advance(timedelta(days=2))
    await rig.core.sweep()

    assert far.multiparts == {}


async def test_an_abort_that_fails_is_finished_by_the_sweeper(rig: Rig, far: ScriptedS3) -> None:
    upload = await rig.sent()
    far.always("abort", refuses(403, "AccessDenied"))
    await rig.core.uploads.abort(upload.id, owner=OWNER)
    assert (rig.only().state, len(far.multiparts)) == (UploadState.ABORTING, 1)

    far.heal()
    await rig.core.sweep()

    assert (rig.only().state, far.multiparts) == (UploadState.ABORTED, {})


async def test_a_put_that_was_repeated_may_be_refused_and_is_complete_all_the_same(rig: Rig, far: ScriptedS3) -> None:
    upload = await rig.core.uploads.initiate(owner=OWNER, filename="a.txt", size=5)
    [part] = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1])
    assert (await rig.bench.redeem(part.request, b"hello")).status_code == 200
    assert (await rig.bench.redeem(part.request, b"HELLO")).status_code == 412

    done = await rig.complete(upload.id)

    assert done.file is not None
    assert rig.bodies == [b"hello"]


async def completed_then_late(rig: Rig, body: bytes) -> str:
    """The file of an upload, one of whose parts is sent once more after completion, with a URL signed before."""
    upload = await rig.sent()
    [part] = await rig.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[3])
    done = await rig.complete(upload.id)
    assert done.file is not None
    await rig.bench.redeem(part.request, body)
    return done.file.id


async def test_a_late_part_is_refused_where_the_store_refuses_it(rig: Rig) -> None:
    await completed_then_late(rig, b"EVIL!")
    assert rig.bodies == [BODY]


async def test_where_a_late_part_lands_the_record_stays_and_a_look_at_the_object_tells(
    rig_of: Callable[..., Any], far: ScriptedS3
) -> None:
    """Swift. Whoever was given the URL can do it until the URL runs out: nobody but the owner is; downloads show what stands."""
    rig: Rig = await rig_of(capabilities=replace(ALL, late_parts_refused=False))
    far.late_parts_land = True

    file_id = await completed_then_late(rig, b"longer than before")

    assert rig.bodies == [BODY[:20] + b"longer than before"]
    assert (await rig.core.files.get(file_id, owner=OWNER)).size == len(BODY)
    found = await rig.bench.store.head(rig.only().address)
    assert found is not None
    assert found.size != len(BODY)
