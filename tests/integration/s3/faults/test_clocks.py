"""A machine whose clock is wrong: what it signs is good by the store's, and what it tells of a URL's end is true."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.s3.faults.scripted import Answer, ScriptedS3, hangs, resets, says
from tests.integration.s3.faults.stores import BUCKET, HEADERS, MINUTE, Bench, at_most, make_store
from uploadcore.plan import Part
from uploadcore.ports import SignedRequest
from uploadcore.upload import Address
from uploadcore_s3.configuration import Timeouts
from uploadcore_s3.store_clock import SAMPLES, StoreClock

ADDRESS = Address(BUCKET, "up/a", "storage-1")
OFFSETS = [timedelta(minutes=14), timedelta(minutes=-14), timedelta(hours=3)]
EXACT = timedelta(seconds=30)
"""Far less than any clock here is wrong by, and more than a test takes."""


class Stopped:
    """A machine's clock at a moment of the test's choice."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment


def signed_at(signed: SignedRequest) -> datetime:
    return stamped(parse_qs(urlsplit(signed.url).query)["X-Amz-Date"][0])


def stamped(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


async def sign(bench: Bench) -> SignedRequest:
    [signed] = await bench.store.presign_parts(ADDRESS, [Part(1, 0, 1)], checksums={}, expires_in=MINUTE)
    return signed


async def sign_each(bench: Bench) -> list[SignedRequest]:
    put = await bench.store.presign_put(ADDRESS, Part(1, 0, 1), HEADERS, checksum=None, expires_in=MINUTE)
    get = await bench.store.presign_get(ADDRESS, filename="a", content_type="video/mp4", expires_in=MINUTE)
    return [await sign(bench), put, get]


@pytest.mark.parametrize("offset", OFFSETS, ids=["14 min behind", "14 min ahead", "3 h behind"])
async def test_the_first_url_is_signed_by_the_stores_clock(
    bench_of: Callable[..., Any], far: ScriptedS3, offset: timedelta
) -> None:
    far.clock_offset = offset
    bench: Bench = await bench_of()

    for signed in await sign_each(bench):
        assert abs(signed_at(signed) - far.now()) < EXACT
        assert abs(signed.expires_at - (far.now() + MINUTE)) < EXACT, "as true time, not as this machine shows it"
    assert abs(bench.store.clock_offset - offset) < EXACT  # type: ignore[attr-defined]


@pytest.mark.parametrize("offset", OFFSETS, ids=["14 min behind", "14 min ahead", "3 h behind"])
async def test_calls_are_dated_by_the_stores_clock(
    bench_of: Callable[..., Any], far: ScriptedS3, offset: timedelta
) -> None:
    far.clock_offset = offset
    bench: Bench = await bench_of()

    address, parts = await bench.sent()
    await bench.complete(address, parts)
    await bench.store.head(address)

    dated = [call for call in far.calls if "authorization" in call.headers]
    assert {call.operation for call in dated} == {"create", "list_parts", "complete", "head"}
    for call in dated:
        assert abs(stamped(call.headers["x-amz-date"]) - far.now()) < EXACT
        assert f"/{call.headers['x-amz-date'][:8]}/" in call.headers["authorization"]


async def test_every_answer_tells_the_time_refusals_too(bench: Bench, far: ScriptedS3) -> None:
    far.clock_offset = timedelta(minutes=10)  # the store's clock is set, or this machine's
    for _ in range(SAMPLES):
        await bench.store.head(ADDRESS)  # 404

    assert abs(signed_at(await sign(bench)) - far.now()) < EXACT


async def test_one_wrong_date_moves_nothing(bench: Bench, far: ScriptedS3) -> None:
    for _ in range(SAMPLES):
        await bench.store.head(ADDRESS)
    far.script("head", lambda call: Answer(404, headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}))
    far.script("head", lambda call: Answer(404, headers={"Date": format(datetime.now(UTC) + timedelta(hours=9))}))
    for _ in range(2):
        await bench.store.head(ADDRESS)

    assert abs(signed_at(await sign(bench)) - datetime.now(UTC)) < EXACT


def format(moment: datetime) -> str:  # noqa: A001 - local to these tests
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize(
    "script",
    [hangs, resets, says(Answer(200, headers={"Date": "yesterday"}))],
    ids=["hangs", "cut", "nonsense"],
)
async def test_a_store_that_tells_no_time_does_not_keep_the_service_from_starting(
    bench_of: Callable[..., Any], far: ScriptedS3, script: Any
) -> None:
    far.always("time", script)
    async with at_most(30):
        bench: Bench = await bench_of(timeouts=Timeouts(call=60.0))

        assert abs(signed_at(await sign(bench)) - datetime.now(UTC)) < EXACT
    assert bench.store.clock_offset is None  # type: ignore[attr-defined]


async def test_a_small_difference_is_left_alone() -> None:
    here = Stopped(datetime(2026, 1, 1, 12, 0, 0, 200_000, tzinfo=UTC))
    clock = StoreClock(here)
    for date in ("Thu, 01 Jan 2026 12:00:01 GMT", "Thu, 01 Jan 2026 11:59:59 GMT"):
        clock.heard({"date": date}, took=0.1)
        assert clock.now() == here.moment


def test_what_tells_too_little_is_not_listened_to() -> None:
    clock = StoreClock(Stopped(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    off = {"date": "Thu, 01 Jan 2026 12:10:00 GMT"}
    clock.heard(off, took=2.5)  # slow: any moment of them
    clock.heard(off | {"age": "600"}, took=0.1)  # of a cache
    clock.heard({"date": "Mon, 01 Jan 2029 12:00:00 GMT"}, took=0.1)  # no clock drifts so far
    clock.heard({"date": "Thu, 41 Jan 2026 12:00:00 GMT"}, took=0.1)
    clock.heard({}, took=0.1)
    assert clock.offset is None

    for _ in range(2):
        clock.heard(off, took=0.2)
    assert clock.offset == timedelta(minutes=10, seconds=0.6)
    assert clock.now() == datetime(2026, 1, 1, 12, 10, 0, 600_000, tzinfo=UTC)


def test_no_single_answer_is_believed_and_two_are_if_they_agree() -> None:
    clock = StoreClock(Stopped(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    right, wrong = {"date": "Thu, 01 Jan 2026 12:00:00 GMT"}, {"date": "Thu, 01 Jan 2026 11:46:00 GMT"}
    offsets = []
    for told in (wrong, right, right):
        clock.heard(told, took=0.0)
        offsets.append(clock.offset)

    assert offsets == [None, None, timedelta(seconds=0.5)]


async def test_a_first_answer_that_is_wrong_moves_nothing(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    far.script("time", lambda call: Answer(403, headers={"Date": format(datetime.now(UTC) - timedelta(minutes=14))}))
    bench: Bench = await bench_of()

    assert abs(signed_at(await sign(bench)) - datetime.now(UTC)) < EXACT
    assert abs(bench.store.clock_offset) < EXACT  # type: ignore[attr-defined]


async def test_whoever_gives_credentials_is_not_asked_for_the_stores_time(
    far: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{far.url}/credentials")
    far.clock_offset = timedelta(minutes=5)
    store = make_store("minio", "http://127.0.0.1:1", timeouts=Timeouts(connect=1.0, call=2.0, retries=0.5))
    await store.open()
    try:
        assert far.count("credentials") > 0
        assert store.clock_offset is None
    finally:
        await store.close()
