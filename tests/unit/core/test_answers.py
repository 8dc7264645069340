"""What each call answers in each state: every cell of the table in docs/concepts.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.unit.core.rig import OWNER, Rig
from uploadcore import UploadState
from uploadcore.errors import StorageFullError, StoreUnavailableError, UploadBusyError, UploadClosedError

State = Callable[[UploadState], Awaitable[str]]

OPEN = {UploadState.PENDING, UploadState.UPLOADING, UploadState.COMPLETING}
OVER = [
    (UploadState.ABORTING, "aborted"),
    (UploadState.ABORTED, "aborted"),
    (UploadState.EXPIRED, "expired"),
    (UploadState.FAILED, "opening_refused"),
]


Hold = Callable[[str, Awaitable[object]], Awaitable[None]]


@pytest.fixture
async def upload_that_is(rig: Rig) -> AsyncIterator[State]:
    """Brings an upload into a state, and keeps it there."""
    working: list[asyncio.Future[object]] = []

    async def held_in(name: str, work: Awaitable[object]) -> None:
        held = rig.store.faults.hold(name)
        working.append(asyncio.ensure_future(work))
        await held.reached.wait()

    async def make(state: UploadState) -> str:
        await (_open(rig, state, held_in) if state in OPEN else _over(rig, state))
        assert rig.only().state is state
        return rig.only().id

    yield make
    for work in working:
        work.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def _open(rig: Rig, state: UploadState, held_in: Hold) -> None:
    match state:
        case UploadState.PENDING:
            await held_in("create_multipart", rig.begin())
        case UploadState.UPLOADING:
            await rig.sent()
        case _:
            upload = await rig.sent()
            await held_in("complete_multipart", rig.complete(upload.id))


async def _over(rig: Rig, state: UploadState) -> None:
    match state:
        case UploadState.COMPLETED:
            await rig.completed()
        case UploadState.ABORTING:
            upload = await rig.begin()
            rig.store.faults.fail("abort_multipart", StoreUnavailableError("away"))
            await rig.abort(upload.id)
        case UploadState.ABORTED:
            await rig.abort((await rig.begin()).id)
        case UploadState.EXPIRED:
            await rig.begin()
            rig.after(days=1)
            await rig.core.sweep()
        case _:
            rig.store.faults.fail("create_multipart", StorageFullError("no room"))
            with pytest.raises(StorageFullError):
                await rig.begin()


async def test_complete_of_a_pending_upload_is_busy(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.PENDING)

    with pytest.raises(UploadBusyError, match="being opened") as caught:
        await rig.complete(upload_id)
    assert caught.value.retry_after == 1


async def test_complete_of_an_uploading_upload_runs(rig: Rig, upload_that_is: State) -> None:
    done = await rig.complete(await upload_that_is(UploadState.UPLOADING))

    assert done.upload.state is UploadState.COMPLETED
    assert done.file is not None


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_complete_of_a_completing_upload_waits_twenty_seconds_then_says_that_it_goes_on(
    rig: Rig, upload_that_is: State, elsewhere: bool
) -> None:
    upload_id = await upload_that_is(UploadState.COMPLETING)
    core = rig.another_core() if elsewhere else rig.core
    begun_at = rig.clock.monotonic()

    done = await rig.within(core.uploads.complete(upload_id, owner=OWNER))

    assert (done.upload.state, done.file) == (UploadState.COMPLETING, None)
    assert 20 <= rig.clock.monotonic() - begun_at < 22


async def test_complete_of_a_completed_upload_gives_the_same_answer(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.COMPLETED)

    first, second = await rig.complete(upload_id), await rig.complete(upload_id)

    assert first == second
    assert first.file is not None
    assert rig.store.calls["complete_multipart"] == 1


@pytest.mark.parametrize(("state", "reason"), OVER)
async def test_complete_of_an_upload_that_is_over_says_how_and_why(
    rig: Rig, upload_that_is: State, state: UploadState, reason: str
) -> None:
    upload_id = await upload_that_is(state)

    with pytest.raises(UploadClosedError) as caught:
        await rig.complete(upload_id)
    assert (caught.value.state, caught.value.reason) == (state, reason)


@pytest.mark.parametrize("state", [UploadState.PENDING, UploadState.COMPLETING])
async def test_part_urls_of_an_upload_being_opened_or_completed_are_busy(
    rig: Rig, upload_that_is: State, state: UploadState
) -> None:
    upload_id = await upload_that_is(state)

    with pytest.raises(UploadBusyError):
        await rig.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=[1])


async def test_part_urls_of_an_uploading_upload_are_signed(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.UPLOADING)

    assert len(await rig.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=[1, 3])) == 2


@pytest.mark.parametrize("state", [UploadState.COMPLETED, *(state for state, _ in OVER)])
async def test_part_urls_of_an_upload_that_is_over_are_refused(
    rig: Rig, upload_that_is: State, state: UploadState
) -> None:
    upload_id = await upload_that_is(state)

    with pytest.raises(UploadClosedError) as caught:
        await rig.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=[1])
    assert caught.value.state == state


@pytest.mark.parametrize("state", [UploadState.PENDING, UploadState.UPLOADING])
async def test_abort_of_an_open_upload_aborts_it(rig: Rig, upload_that_is: State, state: UploadState) -> None:
    view = await rig.abort(await upload_that_is(state))

    assert (view.state, view.reason) == (UploadState.ABORTED, "aborted")


async def test_abort_of_a_completing_upload_is_busy_since_that_goes_forward(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.COMPLETING)

    with pytest.raises(UploadBusyError, match="being completed"):
        await rig.abort(upload_id)


async def test_abort_of_a_completed_upload_is_refused(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.COMPLETED)

    with pytest.raises(UploadClosedError) as caught:
        await rig.abort(upload_id)
    assert (caught.value.state, caught.value.reason) == (UploadState.COMPLETED, None)


@pytest.mark.parametrize(("state", "reason"), OVER)
async def test_abort_of_an_upload_that_is_over_changes_nothing_and_the_first_reason_stands(
    rig: Rig, upload_that_is: State, state: UploadState, reason: str
) -> None:
    upload_id = await upload_that_is(state)
    before = rig.upload(upload_id)

    view = await rig.abort(upload_id)

    assert (view.state, view.reason) == (state, reason)
    assert rig.upload(upload_id) == before


async def test_parts_of_a_pending_upload_are_busy(rig: Rig, upload_that_is: State) -> None:
    upload_id = await upload_that_is(UploadState.PENDING)

    with pytest.raises(UploadBusyError):
        await rig.core.uploads.list_parts(upload_id, owner=OWNER)


@pytest.mark.parametrize("state", [UploadState.UPLOADING, UploadState.COMPLETING])
async def test_parts_are_listed_until_the_upload_is_assembled(
    rig: Rig, upload_that_is: State, state: UploadState
) -> None:
    upload_id = await upload_that_is(state)

    listed = await rig.core.uploads.list_parts(upload_id, owner=OWNER)

    assert listed.upload.state is state
    assert listed.ledger.is_whole


@pytest.mark.parametrize("state", [UploadState.COMPLETED, *(state for state, _ in OVER)])
async def test_parts_of_an_upload_that_is_over_are_refused(rig: Rig, upload_that_is: State, state: UploadState) -> None:
    upload_id = await upload_that_is(state)

    with pytest.raises(UploadClosedError):
        await rig.core.uploads.list_parts(upload_id, owner=OWNER)


@pytest.mark.parametrize("state", list(UploadState))
async def test_rule_13_another_owner_sees_nothing_in_any_state_and_costs_no_call_to_the_store(
    rig: Rig, upload_that_is: State, state: UploadState
) -> None:
    upload_id = await upload_that_is(state)
    before = rig.store.calls.copy()
    uploads = rig.core.uploads
    foreign: list[Awaitable[object]] = [
        uploads.get(upload_id, owner="u_2"),
        uploads.list_parts(upload_id, owner="u_2"),
        uploads.sign_parts(upload_id, owner="u_2", part_numbers=[1]),
        uploads.complete(upload_id, owner="u_2"),
        uploads.abort(upload_id, owner="u_2"),
        uploads.get("no-such-upload", owner=OWNER),
        uploads.sign_parts("no-such-upload", owner=OWNER, part_numbers=[1]),
        uploads.get("\x00", owner=OWNER),
    ]

    answers = await asyncio.gather(*foreign, return_exceptions=True)

    assert [getattr(answer, "code", answer) for answer in answers] == ["upload_not_found"] * len(foreign)
    assert rig.store.calls == before
