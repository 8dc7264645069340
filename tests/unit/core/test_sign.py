"""Sign: what a URL binds, how long it lives, and that signing costs one read and no call to the store (rules 1, 11, 15)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.core.rig import BODY, OWNER, PART, Rig
from uploadcore import ChecksumAlgorithm, SignedPart
from uploadcore.errors import InvalidRequestError, PartOutOfRangeError, UploadClosedError
from uploadcore_memory import MEMORY_CAPABILITIES, checksum_of


async def signed(rig: Rig, upload_id: str, *numbers: int, **said: Any) -> tuple[SignedPart, ...]:
    return await rig.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=numbers, **said)


async def test_signing_is_one_read_no_write_and_no_call_to_the_store(rig: Rig) -> None:
    upload = await rig.begin()
    store, database = rig.store.calls.copy(), rig.database.calls.copy()

    await signed(rig, upload.id, 1, 2, 3)

    assert rig.store.calls - store == {"presign": 1}
    assert rig.database.calls - database == {"reader": 1, "read": 1}


async def test_parts_come_back_in_the_order_asked_for(rig: Rig) -> None:
    upload = await rig.begin()

    assert [part.part_number for part in await signed(rig, upload.id, 3, 1)] == [3, 1]


@pytest.mark.parametrize("numbers", [(), (1, 1), tuple(range(1, 1_002))])
async def test_one_to_a_thousand_different_parts_are_signed_at_once(rig: Rig, numbers: tuple[int, ...]) -> None:
    upload = await rig.begin(1_001, 1)

    with pytest.raises(InvalidRequestError):
        await signed(rig, upload.id, *numbers)
    assert len(await signed(rig, upload.id, *range(2, 1_002))) == 1_000


@pytest.mark.parametrize("number", [0, -1, 4])
async def test_a_part_outside_the_plan_is_not_signed(rig: Rig, number: int) -> None:
    upload = await rig.begin()

    with pytest.raises(PartOutOfRangeError):
        await signed(rig, upload.id, number)


async def test_rule_15_a_url_binds_its_length(rig: Rig) -> None:
    upload = await rig.begin()
    (part,) = await signed(rig, upload.id, 3)

    assert (await rig.store.put(part.request, b"ABCD")).status == 400
    assert (await rig.store.put(part.request, b"ABCDE")).status == 200


async def test_a_checksum_of_a_part_is_bound_into_its_url(rig: Rig) -> None:
    upload = await rig.begin()
    (part,) = await signed(rig, upload.id, 3, checksums={3: checksum_of(b"ABCDE", ChecksumAlgorithm.SHA256)})

    assert (await rig.store.put(part.request, b"ABCDX")).status == 400
    assert (await rig.store.put(part.request, b"ABCDE")).status == 200


async def test_a_checksum_the_store_can_not_verify_is_refused() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, part_checksums=frozenset()))
    upload = await rig.begin()

    with pytest.raises(InvalidRequestError):
        await signed(rig, upload.id, 1, checksums={1: checksum_of(BODY[:PART])})


async def test_a_single_put_can_not_overwrite_and_carries_the_upload_as_its_marker(rig: Rig) -> None:
    upload = await rig.begin(5)
    (part,) = await signed(rig, upload.id, 1)

    assert (await rig.store.put(part.request, b"hello")).status == 200
    assert (await rig.store.put(part.request, b"HELLO")).status == 412
    found = await rig.store.head(rig.only().address)
    assert found is not None
    assert found.metadata == {"uploadcore-upload": upload.id}


async def test_a_checksum_declared_for_the_whole_is_bound_into_the_url_of_a_single_put(rig: Rig) -> None:
    upload = await rig.begin(5, checksum=checksum_of(b"hello"))
    (part,) = await signed(rig, upload.id, 1)

    assert (await rig.store.put(part.request, b"HELLO")).status == 400
    assert (await rig.store.put(part.request, b"hello")).status == 200


async def test_it_is_not_bound_where_the_store_verifies_no_checksum_of_a_put() -> None:
    rig = Rig(capabilities=replace(MEMORY_CAPABILITIES, part_checksums=frozenset()))
    upload = await rig.begin(5, checksum=checksum_of(b"hello"))
    (part,) = await signed(rig, upload.id, 1)

    assert (await rig.store.put(part.request, b"HELLO")).status == 200


# --- open plans ---------------------------------------------------------------------------------------------------


async def test_a_length_given_for_a_part_of_an_open_plan_is_bound(rig: Rig) -> None:
    upload = await rig.begin(None)

    one, two = await signed(rig, upload.id, 1, 2, lengths={2: 4})

    assert (one.length, two.length) == (None, 4)
    assert (await rig.store.put(one.request, b"of any length")).status == 200
    assert (await rig.store.put(two.request, b"five!")).status == 400


@pytest.mark.parametrize("length", [-1, 5 * 1024**3 + 1])
async def test_a_length_no_part_can_have_is_refused(rig: Rig, length: int) -> None:
    upload = await rig.begin(None)

    with pytest.raises(PartOutOfRangeError):
        await signed(rig, upload.id, 1, lengths={1: length})


async def test_the_length_of_a_part_of_a_declared_plan_is_the_plans(rig: Rig) -> None:
    upload = await rig.begin()

    with pytest.raises(PartOutOfRangeError, match="10 bytes by the plan"):
        await signed(rig, upload.id, 1, lengths={1: 9})
    assert (await signed(rig, upload.id, 1, lengths={1: 10}))[0].length == 10


# --- how long a URL lives -----------------------------------------------------------------------------------------


async def test_a_url_lives_fifteen_minutes(rig: Rig) -> None:
    upload = await rig.begin()
    (part,) = await signed(rig, upload.id, 1)

    assert part.request.expires_at == rig.clock.now() + timedelta(minutes=15)
    rig.after(minutes=15)
    assert (await rig.store.put(part.request, BODY[:PART])).status == 403


async def test_a_url_never_outlives_the_upload(rig: Rig) -> None:
    upload = await rig.begin()
    rig.after(hours=23, minutes=50)

    (part,) = await signed(rig, upload.id, 1)

    assert part.request.expires_at == upload.expires_at


async def test_after_the_deadline_nothing_is_signed_even_before_the_sweeper_comes(rig: Rig) -> None:
    upload = await rig.begin()
    rig.after(days=1)

    with pytest.raises(UploadClosedError) as caught:
        await signed(rig, upload.id, 1)
    assert caught.value.reason == "expired"


async def test_rule_14_no_view_and_no_signed_request_shows_its_url_in_its_repr(rig: Rig) -> None:
    upload = await rig.begin(sign=3)

    assert "memory://" not in repr(upload)
    assert rig.only().address.key not in repr(upload) + repr(rig.only())
