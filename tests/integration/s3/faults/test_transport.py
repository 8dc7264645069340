"""The wire: nobody there, nobody answering, too many waiting; and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import ScriptedS3, drips, drips_head, hangs, hangs_in_body, waits
from tests.integration.s3.faults.stores import (
    BUCKET,
    MINUTE,
    Bench,
    at_most,
    make_store,
    refused,
    threads,
    until,
)
from uploadcore.errors import StoreOverloadedError, StoreUnavailableError, UploadCoreError
from uploadcore.plan import Part
from uploadcore.upload import Address
from uploadcore_s3.configuration import Timeouts
from uploadcore_s3.errors import TransportError
from uploadcore_s3.transport import Transport


async def gathered(*calls: Awaitable[object]) -> list[object]:
    """The results, errors included."""
    return [*await asyncio.gather(*calls, return_exceptions=True)]


OBJECT = Address(BUCKET, "up/a", "storage-1")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://nobody.invalid:9000"], ids=["refused", "dns"])
async def test_a_store_nobody_answers_for_opens_and_is_unavailable(sdk: str, far: ScriptedS3, endpoint: str) -> None:
    store = make_store(sdk, endpoint, timeouts=Timeouts(connect=1.0, call=2.0, retries=0.5))
    async with at_most(30):
        await store.open()
        try:
            raised = await refused(store.head(OBJECT), StoreUnavailableError, far.secrets)
            [signed] = await store.presign_parts(OBJECT, [Part(1, 0, 1)], checksums={}, expires_in=MINUTE)
        finally:
            await store.close()
    assert raised.message
    assert signed.url.startswith(endpoint)
    await until(lambda: not threads())


@pytest.mark.parametrize("script", [hangs, hangs_in_body], ids=["before_the_head", "in_the_body"])
async def test_an_answer_that_does_not_come_is_waited_for_only_so_long(
    bench_of: Callable[..., Any], far: ScriptedS3, script: Any
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=0.2, retries=0.5))
    far.always("list_parts", script)
    async with at_most(20):
        await refused(bench.store.list_parts(OBJECT), StoreUnavailableError, far.secrets)


@pytest.mark.parametrize("script", [drips_head, drips(None, gap=0.05)], ids=["the_head", "the_body"])
async def test_an_answer_that_drips_holds_a_thread_no_longer_than_its_call(
    bench_of: Callable[..., Any], far: ScriptedS3, script: Any
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=2.0, retries=5.0), threads=2)
    far.always("list_parts", script)

    async with at_most(20):
        await refused(bench.store.list_parts(OBJECT), StoreUnavailableError, far.secrets)

    await until(lambda: far.in_flight["list_parts"] == 0, seconds=5)
    assert far.count("list_parts") == 1, "what took all the time of a call is not asked again"


async def test_calls_that_hang_leave_the_rest_of_the_process_alone(
    bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=30.0))
    other: Bench = await bench_of()
    address = await bench.begin()
    far.always("list_parts", hangs)

    hanging = [asyncio.ensure_future(bench.store.list_parts(address)) for _ in range(50)]
    await until(lambda: far.in_flight["list_parts"] > 0)
    async with at_most(10):
        await other.begin("up/b")
        await asyncio.to_thread(lambda: None)
        [signed] = await bench.store.presign_parts(address, [Part(1, 0, 1)], checksums={}, expires_in=MINUTE)
    assert signed.url
    assert len(threads()) < 50
    far.heal()

    async with at_most(20):
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(outcome, list | UploadCoreError) for outcome in outcomes)
    async with at_most(10):
        assert await bench.store.list_parts(address) == []


async def test_more_calls_than_can_wait_are_turned_away_at_once(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=30.0), threads=2)
    gate = threading.Event()
    far.always("head", waits(gate))

    async with at_most(10):
        waiting = [asyncio.ensure_future(bench.store.head(OBJECT)) for _ in range(10)]
        await until(lambda: far.in_flight["head"] == 2)
        turned_away = await asyncio.gather(*(bench.store.head(OBJECT) for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in turned_away} <= {StoreOverloadedError, StoreUnavailableError}
        assert far.in_flight["head"] == 2
        gate.set()
        assert await asyncio.gather(*waiting) == [None] * 10
        assert await bench.store.head(OBJECT) is None


async def test_callers_that_are_cancelled_free_their_places(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=3.0, retries=3.0), threads=2)
    far.always("head", hangs)
    callers = [asyncio.ensure_future(bench.store.head(OBJECT)) for _ in range(5)]
    await until(lambda: far.in_flight["head"] == 2)

    for caller in callers:
        caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    far.heal()

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with at_most(20):
        await until(lambda: far.in_flight["head"] == 0)
        assert await bench.store.head(OBJECT) is None


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [("http://127.0.0.1:1", "can't be reached"), ("http://nobody.invalid:9000", "name can't be resolved")],
    ids=["refused", "dns"],
)
def test_what_nobody_answered_is_told_without_the_signed_url(endpoint: str, told: str) -> None:
    transport, signature = Transport(connect_timeout=1.0, size=1, ca_certs=None), "5a" * 32
    with pytest.raises(TransportError) as caught:
        transport.send("PUT", f"{endpoint}/media/a?X-Amz-Signature={signature}", {}, b"")
    transport.close()

    assert told in str(caught.value)
    assert signature not in "".join(traceback.format_exception(caught.value))


async def test_connections_are_used_again(bench: Bench, far: ScriptedS3) -> None:
    for _ in range(20):
        await bench.store.head(OBJECT)
    assert far.connections <= 3


async def test_closing_ends_what_hangs(sdk: str, far: ScriptedS3) -> None:
    store = make_store(sdk, far.url, timeouts=Timeouts(call=30.0, retries=30.0))
    await store.open()
    far.always("head", hangs)
    caller = asyncio.ensure_future(store.head(OBJECT))
    await until(lambda: far.in_flight["head"] == 1)

    async with at_most(10):
        await store.close()
        await store.close()
        [outcome] = await gathered(caller)
    assert isinstance(outcome, StoreUnavailableError)


async def test_url_lifetimes_are_whole_seconds_and_never_longer_than_asked_for(bench: Bench) -> None:
    address = await bench.begin()
    [signed] = await bench.store.presign_parts(
        address, [Part(1, 0, 1)], checksums={}, expires_in=timedelta(seconds=90, microseconds=900_000)
    )
    assert "X-Amz-Expires=90&" in f"{signed.url}&"
