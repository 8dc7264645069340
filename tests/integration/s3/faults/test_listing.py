"""Listings: pages of any size, in any order, that end; and what is no listing is no answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest

from tests.integration.s3.faults.scripted import (
    Answer,
    Multipart,
    Script,
    ScriptedS3,
    cuts_body,
    edits_body,
    ignores_markers,
    refuses,
    says,
)
from tests.integration.s3.faults.stores import Bench, at_most, refused
from uploadcore.errors import NoSuchMultipartError, StoreUnavailableError
from uploadcore.upload import Address
from uploadcore_s3.configuration import Timeouts

NO_LISTING: dict[str, Script] = {
    "html": says(Answer(200, b"<html><body>It works!</body></html>", {"Content-Type": "text/html"})),
    "no_body": says(Answer(200)),
    "cut_short": cuts_body,
    "not_well_formed": edits_body("</List", "</"),
    "another_document": edits_body("List", "Last"),
    "204": says(Answer(204)),
}


async def with_parts(bench: Bench, count: int) -> Address:
    address = await bench.begin()
    parts = bench.far.multiparts[address.storage_upload_id or ""].parts
    parts.update({number: b"%d" % number for number in range(1, count + 1)})
    return address


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "page_size"), [(2_500, 1_000), (2_500, 999), (2_500, 100), (30, 1), (0, 7), (7, 7)])
async def test_all_parts_are_listed_whatever_the_size_of_a_page(
    bench: Bench, far: ScriptedS3, count: int, page_size: int
) -> None:
    address = await with_parts(bench, count)
    far.page_size = page_size

    listed = await bench.store.list_parts(address)

    assert [(part.part_number, part.size) for part in listed] == [
        (number, len(str(number))) for number in range(1, count + 1)
    ]
    assert far.count("list_parts") == max(1, -(-count // page_size))


@pytest.mark.parametrize("order", [lambda page: page[::-1], lambda page: random.Random(1).sample(page, len(page))])
async def test_parts_come_in_order_of_number_in_whatever_order_the_store_lists_them(
    bench: Bench, far: ScriptedS3, order: Callable[[list[int]], list[int]]
) -> None:
    address = await with_parts(bench, 30)
    far.page_size, far.order = 7, order

    assert [part.part_number for part in await bench.store.list_parts(address)] == list(range(1, 31))


@pytest.mark.parametrize(
    "script",
    [
        edits_body(r"<NextPartNumberMarker>\d+</NextPartNumberMarker>", ""),
        edits_body(r"<NextPartNumberMarker>\d+<", "<NextPartNumberMarker>0<"),
    ],
    ids=["no_marker", "zero"],
)
async def test_where_the_store_tells_no_marker_the_listing_goes_on_after_the_last_part_shown(
    bench: Bench, far: ScriptedS3, script: Script
) -> None:
    address = await with_parts(bench, 30)
    far.page_size = 7
    far.always("list_parts", script)
    assert [part.part_number for part in await bench.store.list_parts(address)] == list(range(1, 31))


NEVER_ENDING: dict[str, Script] = {
    "the_same_page_again_and_again": ignores_markers,
    "a_marker_that_does_not_move": edits_body(r"<NextPartNumberMarker>\d+<", "<NextPartNumberMarker>7<"),
    "a_marker_that_is_no_number": edits_body(r"<NextPartNumberMarker>\d+<", "<NextPartNumberMarker>next<"),
}


@pytest.mark.parametrize("script", NEVER_ENDING.values(), ids=NEVER_ENDING)
async def test_a_listing_of_parts_that_does_not_go_on_ends_with_an_error(
    bench: Bench, far: ScriptedS3, script: Script
) -> None:
    address = await with_parts(bench, 30)
    far.page_size = 7
    far.always("list_parts", script)

    async with at_most(20):
        await refused(bench.store.list_parts(address), StoreUnavailableError, far.secrets)

    assert far.count("list_parts") < 10


async def test_a_listing_that_says_truncated_for_ever_ends_with_an_error(bench: Bench, far: ScriptedS3) -> None:
    address = await with_parts(bench, 3)
    far.always("list_parts", edits_body("<IsTruncated>false<", "<IsTruncated>true<"))

    async with at_most(10):
        await refused(bench.store.list_parts(address), StoreUnavailableError, far.secrets)

    assert far.count("list_parts") < 10


@pytest.mark.parametrize("script", NO_LISTING.values(), ids=NO_LISTING)
async def test_what_is_no_listing_of_parts_is_no_answer(bench: Bench, far: ScriptedS3, script: Script) -> None:
    address = await with_parts(bench, 3)
    far.always("list_parts", script)
    async with at_most(20):
        await refused(bench.store.list_parts(address), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"<Size>1</Size>", "<Size>-1</Size>"),
        (r"<Size>1</Size>", "<Size>many</Size>"),
        (r"<Size>1</Size>", ""),
        (r"<PartNumber>2</PartNumber>", ""),
        (r"<PartNumber>2</PartNumber>", "<PartNumber>two</PartNumber>"),
        (r"<PartNumber>2</PartNumber>", "<PartNumber>0</PartNumber>"),
    ],
)
async def test_a_part_that_makes_no_sense_is_no_answer(bench: Bench, far: ScriptedS3, pattern: str, text: str) -> None:
    address = await with_parts(bench, 3)
    far.always("list_parts", edits_body(pattern, text))
    async with at_most(20):
        await refused(bench.store.list_parts(address), StoreUnavailableError, far.secrets)


async def test_a_page_that_fails_in_the_middle_is_asked_for_again(
    bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(retries=10.0))
    address = await with_parts(bench, 30)
    far.page_size = 10
    far.script("list_parts", lambda call: call.effect(), refuses(503, "SlowDown"))

    assert len(await bench.store.list_parts(address)) == 30
    assert far.count("list_parts") == 4


@pytest.mark.parametrize("code", ["NoSuchUpload", "NoSuchKey"])
async def test_after_completion_the_store_may_say_that_it_knows_upload_or_key_no_more(
    bench: Bench, far: ScriptedS3, code: str
) -> None:
    far.after_completion = code
    address, parts = await bench.sent()
    await bench.complete(address, parts)
    await refused(bench.store.list_parts(address), NoSuchMultipartError, far.secrets)


async def test_a_reaped_upload_is_known_no_more(bench: Bench, far: ScriptedS3) -> None:
    address, _ = await bench.sent()
    far.reap()
    await refused(bench.store.list_parts(address), NoSuchMultipartError, far.secrets)


# --- multipart uploads ------------------------------------------------------------------------------------------------

KEYS = ["up/plain", "up/with space", "up/plus+plus", "up/per%20cent", "up/&<>'\"", "up/ünï/日本語", "up/~tilde", "up/="]


@pytest.mark.parametrize("page_size", [1, 3, 1_000])
async def test_multipart_uploads_are_listed_with_their_keys_as_they_are(
    bench: Bench, far: ScriptedS3, page_size: int
) -> None:
    made = {(key, (await bench.begin(key)).storage_upload_id) for key in [*KEYS, "up/plain", "elsewhere"]}
    far.page_size = page_size

    assert {(found.key, found.storage_upload_id) for found in await bench.multiparts()} == made
    assert {found.key for found in await bench.multiparts("up/with ")} == {"up/with space"}
    assert {found.key for found in await bench.multiparts("up/")} == set(KEYS)


async def test_a_space_may_be_told_as_a_plus_where_keys_are_encoded(bench: Bench, far: ScriptedS3) -> None:
    """As AWS does."""
    await bench.begin("up/with space")
    far.always("list_multiparts", edits_body("with( |%20)space", quote_plus("with space")))
    if "encoding-type=url" in str(far.calls):
        assert [found.key for found in await bench.multiparts()] == ["up/with space"]


async def test_many_multipart_uploads_are_listed_in_pages(bench: Bench, far: ScriptedS3) -> None:
    for number in range(2_500):
        far.multiparts[f"storage-{number}"] = Multipart(f"up/{number % 50}", {}, datetime.now(UTC))
    assert len({found.storage_upload_id for found in await bench.multiparts()}) == 2_500
    assert far.count("list_multiparts") == 3


async def test_times_know_their_zone(bench: Bench) -> None:
    await bench.begin()
    [found] = await bench.multiparts()
    assert abs((datetime.now(UTC) - found.initiated).total_seconds()) < 60


async def test_a_store_that_lists_by_whole_key_only_is_told_the_key(bench: Bench, far: ScriptedS3) -> None:
    far.found_by_prefix = False
    await bench.begin("up/a")
    await bench.begin("up/ab")
    assert [found.key for found in await bench.multiparts("up/a")] == ["up/a"]
    assert await bench.multiparts("up/") == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"<NextKeyMarker>.*</NextUploadIdMarker>", ""),
        (r"<NextKeyMarker>.*</NextKeyMarker>", "<NextKeyMarker>up/1</NextKeyMarker>"),
    ],
    ids=["no_marker", "always_the_same"],
)
async def test_whatever_marker_is_told_the_listing_goes_on_after_the_last_upload_shown(
    bench: Bench, far: ScriptedS3, pattern: str, text: str
) -> None:
    made = {(await bench.begin(f"up/{number}")).key for number in range(10)}
    far.page_size = 3
    far.always("list_multiparts", edits_body(pattern, text))
    assert {found.key for found in await bench.multiparts()} == made


@pytest.mark.parametrize(
    "script",
    [ignores_markers, edits_body(r"<IsTruncated>\w+<", "<IsTruncated>true<")],
    ids=["the_same_page_again_and_again", "truncated_for_ever"],
)
async def test_a_listing_of_uploads_that_does_not_go_on_ends_with_an_error(
    bench: Bench, far: ScriptedS3, script: Script
) -> None:
    for number in range(10):
        await bench.begin(f"up/{number}")
    far.page_size = 3
    far.always("list_multiparts", script)

    async with at_most(10):
        await refused(bench.multiparts(), StoreUnavailableError, far.secrets)

    assert far.count("list_multiparts") < 10


@pytest.mark.parametrize("script", NO_LISTING.values(), ids=NO_LISTING)
async def test_what_is_no_listing_of_uploads_is_no_answer(bench: Bench, far: ScriptedS3, script: Script) -> None:
    await bench.begin()
    far.always("list_multiparts", script)
    async with at_most(20):
        await refused(bench.multiparts(), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"<Initiated>.*</Initiated>", ""),
        (r"<Initiated>.*</Initiated>", "<Initiated>yesterday</Initiated>"),
        (r"<UploadId>.*</UploadId>", ""),
    ],
)
async def test_an_upload_that_makes_no_sense_is_no_answer(
    bench: Bench, far: ScriptedS3, pattern: str, text: str
) -> None:
    await bench.begin()
    far.always("list_multiparts", edits_body(pattern, text))
    async with at_most(20):
        await refused(bench.multiparts(), StoreUnavailableError, far.secrets)


async def test_listing_stopped_in_the_middle_asks_for_no_more_pages(bench: Bench, far: ScriptedS3) -> None:
    for number in range(10):
        await bench.begin(f"up/{number}")
    far.page_size = 2
    listing = bench.store.list_multiparts("up/")
    async for _ in listing:
        break
    assert far.count("list_multiparts") == 1
