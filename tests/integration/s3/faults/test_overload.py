"""A store that hangs takes what waits for it, and nothing else: who does not need it is served as ever, who does and comes too late is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from tests.integration.http.service import BASE, KEY, PEER, bearer
from tests.integration.s3.faults.scripted import ScriptedS3, hangs
from tests.integration.s3.faults.stores import BUCKET, Bench, at_most, until
from uploadcore import UploadCore, UploadState
from uploadcore.errors import StoreOverloadedError, StoreUnavailableError
from uploadcore.ports import StoreCapabilities
from uploadcore.upload import Address
from uploadcore_http import JwtAuthenticator, SharedKey, create_asgi
from uploadcore_memory import MemoryCache, MemoryDatabase
from uploadcore_s3.configuration import Timeouts

PLACES = 20
PATIENT = Timeouts(connect=2.0, call=60.0, retries=60.0, completion=60.0)


@asynccontextmanager
async def served(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    """The API over that store."""
    authenticate = JwtAuthenticator(SharedKey(KEY), audience="uploadcore", issuer="uploadcore")
    async with UploadCore(store=bench.store, database=MemoryDatabase(), cache=MemoryCache()) as core:
        app: Any = create_asgi(core, authenticate=authenticate, max_in_flight=PLACES)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=PEER)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=bearer(), timeout=60) as api:
            yield api


async def test_while_the_store_hangs_all_that_does_not_need_it_goes_on(
    bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    bench: Bench = await bench_of(is_open=False, timeouts=PATIENT)
    async with at_most(50), served(bench) as api:
        asked = {"filename": "a", "size": 30, "part_size": 10}
        uploads = [(await api.post("/v1/uploads", json=asked)).json() for _ in range(3)]
        for upload in uploads:
            signed = (await api.post(f"/v1/uploads/{upload['id']}/part-urls", json={"part_numbers": [1, 2, 3]})).json()
            for part in signed["parts"]:
                await bench.client.put(part["url"], headers=part["headers"], content=b"x" * 10)
        far.always("list_parts", hangs)
        path = f"/v1/uploads/{uploads[0]['id']}"

        stuck = [asyncio.ensure_future(api.post(f"{path}/complete", json={})) for _ in range(3 * PLACES)]
        await until(lambda: sum(one.done() for one in stuck) >= 2 * PLACES + PLACES // 2)
        told = [one.result() for one in stuck if one.done()]
        for answer in told:
            problem = answer.json()
            assert (answer.status_code, problem["code"], answer.headers["retry-after"]) == (503, "overloaded", "2")
            assert "wait for the object store" in problem["detail"]
        assert len(stuck) - len(told) == PLACES // 2, "half of the places are theirs"

        for answer in await asyncio.gather(
            *(api.post(f"{path}/part-urls", json={"part_numbers": [1, 2]}) for _ in range(PLACES // 4)),
            api.get("/v1/uploads"),
            api.get(path),
            api.get(f"/v1/files/{uploads[0]['file_id']}"),
        ):
            assert answer.status_code == 200, answer.text
        for probe in ("/health/live", "/health/ready", "/metrics"):
            assert (await api.get(probe)).status_code == 200

        far.heal()
        answers = await asyncio.gather(*stuck)
        assert {answer.status_code for answer in answers} <= {200, 202, 503}
        assert (await api.post(f"{path}/complete", json={})).status_code == 200, "its threads are given back"


async def test_a_completion_that_finds_no_room_is_told_so_and_goes_on_as_soon_as_there_is_some(
    bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    """Where the store may be harmed by two completions at once, none may be in doubt that was not begun."""
    bench: Bench = await bench_of(is_open=False, timeouts=PATIENT, capabilities=StoreCapabilities())
    async with UploadCore(store=bench.store, database=MemoryDatabase()) as core:
        uploads = [
            await core.uploads.initiate(owner="u_1", filename="a", size=1, part_size=1, sign=1) for _ in range(81)
        ]
        for upload in uploads:
            assert (await bench.redeem(upload.parts[0].request, b"x")).status_code == 200
        far.always("complete", hangs)

        completing = [asyncio.ensure_future(core.uploads.complete(upload.id, owner="u_1")) for upload in uploads]
        async with at_most(30):
            [turned_away], _ = await asyncio.wait(completing, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(turned_away.exception(), StoreOverloadedError)

        far.heal()
        upload = uploads[completing.index(turned_away)]
        async with at_most(30):
            while (await core.uploads.get(upload.id, owner="u_1")).state is not UploadState.COMPLETED:
                with suppress(StoreOverloadedError):
                    await core.uploads.complete(upload.id, owner="u_1")
        for one in completing:
            one.cancel()


async def test_who_finds_no_room_at_the_store_is_told_so_at_once(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(timeouts=PATIENT, threads=2)
    far.always("head", hangs)
    waiting = [asyncio.ensure_future(bench.store.head(Address(BUCKET, "up/a"))) for _ in range(11)]
    await until(lambda: any(one.done() for one in waiting))

    [turned_away] = [one.exception() for one in waiting if one.done()]
    assert isinstance(turned_away, StoreOverloadedError)
    assert isinstance(turned_away, StoreUnavailableError), "for whoever asks whether it may have been done"
    assert (turned_away.code, turned_away.retry_after) == ("overloaded", 1)
    far.heal()
    await asyncio.gather(*waiting, return_exceptions=True)
