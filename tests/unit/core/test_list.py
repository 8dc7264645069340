"""Reading: one upload, an owner's uploads page by page, and what the store has (rule 4)."""

from __future__ import annotations

import asyncio
import base64

import pytest

from tests.unit.core.rig import OWNER, Rig
from uploadcore import UploadState
from uploadcore.errors import InvalidRequestError, StoreUnavailableError, UploadClosedError


async def test_an_upload_is_shown_as_the_database_has_it(rig: Rig) -> None:
    upload = await rig.begin(fingerprint="f", metadata={"camera": "x100"})

    assert await rig.core.uploads.get(upload.id, owner=OWNER) == upload


async def test_uploads_are_found_again_by_owner_state_and_fingerprint(rig: Rig) -> None:
    one = await rig.begin(fingerprint="f")
    two = await rig.begin(fingerprint="g")
    await rig.abort(two.id)
    await rig.core.uploads.initiate(owner="u_2", filename="b", size=1, fingerprint="f")
    find = rig.core.uploads.find

    assert [found.id for found in (await find(owner=OWNER)).uploads] == sorted([one.id, two.id], reverse=True)
    assert [found.id for found in (await find(owner=OWNER, fingerprint="f")).uploads] == [one.id]
    assert [found.id for found in (await find(owner=OWNER, state=UploadState.ABORTED)).uploads] == [two.id]
    assert (await find(owner="nobody")).uploads == ()


async def test_pages_hold_every_upload_once_newest_first(rig: Rig) -> None:
    begun = []
    for _ in range(7):
        begun.append((await rig.begin(1)).id)
        rig.after(seconds=1)

    found, cursor = [], None
    for _ in range(4):
        page = await rig.core.uploads.find(owner=OWNER, cursor=cursor, limit=2)
        found += [upload.id for upload in page.uploads]
        cursor = page.next

    assert found == begun[::-1]
    assert cursor is None


@pytest.mark.parametrize("limit", [0, 1_001])
async def test_a_page_has_one_to_a_thousand_uploads(rig: Rig, limit: int) -> None:
    with pytest.raises(InvalidRequestError):
        await rig.core.uploads.find(owner=OWNER, limit=limit)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "é",
        "AAAA",
        base64.urlsafe_b64encode(b"2026-01-01T00:00:00+00:00").decode(),
        base64.urlsafe_b64encode(b"2026-01-01T00:00:00+00:00 \x00").decode(),
        base64.urlsafe_b64encode(b"0001-01-01T00:00:00+23:00 id").decode(),
        base64.urlsafe_b64encode(b"yesterday id").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
async def test_a_cursor_that_was_not_given_out_is_refused(rig: Rig, cursor: str) -> None:
    with pytest.raises(InvalidRequestError, match="cursor"):
        await rig.core.uploads.find(owner=OWNER, cursor=cursor)


async def test_a_fingerprint_no_upload_can_have_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidRequestError, match="fingerprint"):
        await rig.core.uploads.find(owner=OWNER, fingerprint="a\x00b")


async def test_rule_4_the_store_is_the_truth_for_parts(rig: Rig) -> None:
    upload = await rig.begin()
    await rig.send(upload.id, 2)

    listed = await rig.core.uploads.list_parts(upload.id, owner=OWNER)

    assert [part.part_number for part in listed.ledger.parts] == [2]
    assert (listed.ledger.missing, listed.ledger.uploaded_bytes) == (((1, 1), (3, 3)), 10)


@pytest.mark.parametrize("count", [1_000, 1_001, 10_000])
async def test_rule_4_a_thousand_and_ten_thousand_parts_list_and_complete(rig: Rig, count: int) -> None:
    body = bytes(index % 251 for index in range(count))
    upload = await rig.begin(count, 1)
    for first in range(1, count + 1, 1_000):
        await rig.send(upload.id, *range(first, min(first + 1_000, count + 1)), body=body)

    listed = await rig.core.uploads.list_parts(upload.id, owner=OWNER)
    await rig.complete(upload.id)

    assert len(listed.ledger.parts) == count
    assert rig.bodies == [body]


async def test_of_a_single_put_the_object_is_the_one_part(rig: Rig) -> None:
    upload = await rig.begin(5)
    before = await rig.core.uploads.list_parts(upload.id, owner=OWNER)
    await rig.send(upload.id, body=b"hello")

    after = await rig.core.uploads.list_parts(upload.id, owner=OWNER)

    assert before.ledger.missing == ((1, 1),)
    assert [(part.part_number, part.size) for part in after.ledger.parts] == [(1, 5)]


async def test_an_upload_the_store_lost_shows_no_parts_and_is_left_as_it_is(rig: Rig) -> None:
    upload = await rig.sent()
    rig.store.lose(rig.only().address)
    before = rig.only()

    listed = await rig.core.uploads.list_parts(upload.id, owner=OWNER)

    assert listed.ledger.missing == ((1, 3),)
    assert rig.only() == before


async def test_an_upload_completed_between_the_read_and_the_listing_is_closed_not_empty(rig: Rig) -> None:
    upload = await rig.sent()
    held = rig.store.faults.hold("list_parts")
    listing = rig.core.uploads.list_parts(upload.id, owner=OWNER)

    async def complete() -> None:
        await held.reached.wait()
        await rig.complete(upload.id)
        held.let_go()

    outcome, _ = await asyncio.gather(listing, complete(), return_exceptions=True)

    assert isinstance(outcome, UploadClosedError)
    assert outcome.state == UploadState.COMPLETED


async def test_a_store_that_does_not_answer_is_said_so(rig: Rig) -> None:
    upload = await rig.begin()
    rig.store.faults.fail("list_parts", StoreUnavailableError("away"))

    with pytest.raises(StoreUnavailableError):
        await rig.core.uploads.list_parts(upload.id, owner=OWNER)
