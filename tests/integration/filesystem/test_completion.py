"""How parts become an object: without copying where that is sound, by copying where it is not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.integration.filesystem.serving import Served, files_below
from uploadcore.errors import ChecksumMismatchError, NoSuchMultipartError, PartsRejectedError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import StoredPart
from uploadcore.upload import Address

A, B, C = b"a" * 5000, b"b" * 5000, b"c" * 123


def _folder(served: Served, address: Address) -> Path:
    return served.root / "multiparts" / (address.storage_upload_id or "")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every copy that is made."""
    made: list[int] = []
    real = os.copy_file_range

    def recorded(source: int, target: int, count: int, *offsets: int) -> int:
        made.append(count)
        return real(source, target, count, *offsets)

    monkeypatch.setattr(os, "copy_file_range", recorded)
    return made


async def test_parts_of_signed_length_are_assembled_without_copying(served: Served, copies: list[int]) -> None:
    address = await served.begin()
    for number, body, offset in ((3, C, 10_000), (1, A, 0), (2, B, 5000)):
        await served.put_part(address, number, body, offset=offset)
    inode = (_folder(served, address) / "data").stat().st_ino

    await served.complete(address)

    file = await served.store.find("up/a")
    assert file.path.read_bytes() == A + B + C
    assert file.path.stat().st_ino == inode
    assert copies == []


async def test_a_single_part_of_unknown_length_is_not_copied_either(served: Served, copies: list[int]) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A, offset=None)
    await served.complete(address)
    assert await served.content() == A
    assert copies == []


async def test_parts_of_unknown_length_are_put_together(served: Served, copies: list[int]) -> None:
    address = await served.begin()
    for number, body in ((3, C), (2, B), (1, A)):
        await served.put_part(address, number, body, offset=None)
    await served.complete(address)
    assert await served.content() == A + B + C
    assert sum(copies) == len(A + B + C)


async def test_parts_of_known_and_unknown_length_can_be_mixed(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.put_part(address, 2, B, offset=None)
    await served.put_part(address, 3, C, offset=10_000)
    await served.complete(address)
    assert await served.content() == A + B + C


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
async def test_parts_whose_planned_places_meet_do_not_overwrite_each_other(
    served: Served, order: tuple[int, ...]
) -> None:
    """An open plan takes parts to lie at (n - 1) * part_size; a client that sends other lengths must not lose a byte."""
    bodies = {1: A, 2: B, 3: C}
    address = await served.begin()
    for number in order:
        await served.put_part(address, number, bodies[number], offset=(number - 1) * 4000)
    await served.complete(address)
    assert await served.content() == A + B + C


async def test_places_that_meet_are_noticed_while_both_are_being_written(served: Served) -> None:
    address = await served.begin()
    first = await served.connect(await served.sign(address, 1, 5000), length=5000)
    await first.send(A[:1])
    second = await served.connect(await served.sign(address, 2, 5000, offset=4000), length=5000)
    await second.send(B[:1])
    await first.send(A[1:])
    await second.send(B[1:])
    assert (await first.status(), await second.status()) == (200, 200)
    await served.complete(address)
    assert await served.content() == A + B


async def test_a_gap_between_planned_places_is_closed(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.put_part(address, 2, B, offset=100_000)
    await served.complete(address)
    assert await served.content() == A + B


async def test_what_lies_beyond_the_named_parts_is_cut_off(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.put_part(address, 2, B, offset=5000)
    first, _ = await served.store.list_parts(address)
    await served.store.complete_multipart(address, [first], size=5000, checksum=None)
    assert await served.content() == A


async def test_a_last_part_sent_again_shorter_leaves_nothing_of_the_longer(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.put_part(address, 1, C)
    await served.complete(address)
    assert await served.content() == C


async def test_fifty_completions_at_once_have_one_effect_and_one_answer(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A, offset=None)
    await served.put_part(address, 2, B, offset=None)
    listed = await served.store.list_parts(address)
    await asyncio.gather(
        *(served.store.complete_multipart(address, listed, size=10_000, checksum=None) for _ in range(50))
    )
    assert await served.content() == A + B
    assert len(files_below(served.root)) == 2


@pytest.mark.parametrize("attempt", range(10))
async def test_of_completion_and_abort_at_once_one_wins(served: Served, attempt: int) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    listed = await served.store.list_parts(address)
    both = [
        served.store.complete_multipart(address, listed, size=5000, checksum=None),
        served.store.abort_multipart(address),
    ]
    outcomes = await asyncio.gather(*(both if attempt % 2 else reversed(both)), return_exceptions=True)
    completed = await served.store.head(address) is not None
    failed = [outcome for outcome in outcomes if outcome is not None]
    assert completed == (failed == [])
    assert all(isinstance(outcome, NoSuchMultipartError) for outcome in failed)
    assert len(files_below(served.root)) == (2 if completed else 0)


async def test_completing_again_with_other_parts_is_refused(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.complete(address)
    other = StoredPart(1, 5000, '"another"')
    with pytest.raises(NoSuchMultipartError):
        await served.store.complete_multipart(address, [other], size=5000, checksum=None)


async def test_a_caller_that_goes_away_stops_no_completion(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    listed = await served.store.list_parts(address)
    gone = asyncio.create_task(served.store.complete_multipart(address, listed, size=5000, checksum=None))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await served.store.complete_multipart(address, listed, size=5000, checksum=None)
    assert await served.content() == A


async def test_a_second_upload_under_the_key_replaces_the_object(served: Served) -> None:
    first, second = await served.begin(), await served.begin()
    await served.put_part(first, 1, A)
    await served.put_part(second, 1, B)
    await served.complete(first)
    await served.complete(second)
    assert await served.content() == B
    assert len(files_below(served.root)) == 2


async def test_the_declared_checksum_is_compared_before_anything_is_assembled(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A, offset=None)
    await served.put_part(address, 2, B, offset=None)
    listed = await served.store.list_parts(address)
    before = files_below(served.root)
    with pytest.raises(ChecksumMismatchError):
        await served.store.complete_multipart(
            address, listed, size=10_000, checksum=Checksum(ChecksumAlgorithm.CRC64NVME, "AAAAAAAAAAA=")
        )
    assert files_below(served.root) == before


async def test_a_data_file_that_something_else_cut_short_is_rejected(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    os.truncate(_folder(served, address) / "data", 10)
    with pytest.raises(PartsRejectedError):
        await served.complete(address)


async def test_deleting_leaves_no_file(served: Served) -> None:
    address = await served.begin()
    await served.put_part(address, 1, A)
    await served.complete(address)
    await served.store.delete(address)
    assert files_below(served.root) == set()
