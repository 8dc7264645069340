"""The store refuses a fifth of all calls, hangs, or has credentials that run out in the middle of an upload."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from tests.chaos.fleet import until
from tests.chaos.http_proxy import HttpProxy
from tests.chaos.lab import Lab
from tests.chaos.load import Client, Uploaded, call_many
from tests.chaos.measuring import Readiness, percentile

__all__ = ["CI", "EXPERIMENTS"]

SHARE = 0.2
SUCCEEDING = 0.999
SIGNED_AT_ONCE = 4
HELD = 100
"""Calls that hang while signing is measured: more than a store has threads, and than the database has connections."""


def clients_proxy(lab: Lab) -> HttpProxy:
    """A proxy before the store for what clients send."""
    endpoint = urlsplit(lab.store.endpoint)
    return HttpProxy(lab.proxies, endpoint.hostname or "", endpoint.port or 0, chance=lab.chance)


async def store_refuses(lab: Lab) -> str:
    """The store answers 503 to 20 % of calls, of the service and of clients: at least 99.9 % of uploads succeed."""
    count = lab.sized(1_000, 100)
    parts = clients_proxy(lab)
    try:
        async with (
            lab.world(public_endpoint=parts.listen("clients")) as world,
            Client(world.fleet.url, chance=lab.chance) as client,
        ):
            faults = [proxy.faults.refuse(share=SHARE) for proxy in (world.store, parts)]
            began = time.monotonic()
            done, failed = await call_many(count, lambda _: client.upload(), at_once=24)
            took = time.monotonic() - began
            refused, calls = sum(fault.met for fault in faults), (world.store.calls + parts.calls).total()
            for fault in faults:
                fault.end()
            assert len(done) >= SUCCEEDING * count, f"{len(failed)} of {count} failed: {failed[:3]}"
            assert refused >= 0.9 * SHARE * calls, f"only {refused} of {calls} were refused"
            await world.conserved([upload.upload_id for upload in done])
    finally:
        parts.close()
    return f"{refused} of {calls} calls refused; {len(done)} of {count} uploads succeeded, in {took:.0f} s"


async def store_hangs(lab: Lab) -> str:
    """The store hangs: no pool exhausted; signing p99 unchanged.

    Leases are of half a minute here, as they are in production: renewing a hundred of them every two thirds of a second is work that shows.
    """
    count = lab.sized(3_000, 1_000)
    async with (
        lab.world(UPLOADCORE_LEASE="30s") as world,
        Client(world.fleet.url, chance=lab.chance) as client,
        Client(world.fleet.url, chance=lab.chance, attempts=1) as signing,
    ):
        known, failed = await call_many(20, lambda _: _initiated(client), at_once=8)
        assert not failed, failed[:3]
        whole, failed = await call_many(HELD // 2, lambda _: _sent(client), at_once=8)
        assert not failed, failed[:3]
        before = percentile(await _sign(signing, known, count), 99)
        async with Readiness(world.fleet) as readiness:
            with world.store.faults.hold() as hold:
                stuck = [
                    *(asyncio.ensure_future(client.complete(upload)) for upload in whole),
                    *(asyncio.ensure_future(_initiated(client)) for _ in range(HELD // 2)),
                ]
                await until(lambda: hold.waiting >= 32, 30, f"only {hold.waiting} calls hang")
                during = percentile(await _sign(signing, known, count), 99)
                hung = hold.waiting
                # Whoever needs the database alone is served.
                for upload in known:
                    await signing.call("state", "GET", f"/v1/uploads/{upload.upload_id}", owner=upload.owner)
                    await signing.call("uploads", "GET", "/v1/uploads", owner=upload.owner)
            results = await asyncio.gather(*stuck, return_exceptions=True)
        lost = [result for result in results if isinstance(result, BaseException)]
        assert not lost, f"{len(lost)} calls failed that had hung: {lost[:3]}"
        after = percentile(await _sign(signing, known, count), 99)
        assert not readiness.failed, f"readiness failed {readiness.failed} of {readiness.asked} times"
        bad = {status: number for status, number in signing.statuses.items() if status != 200}
        assert not bad, f"signing while the store hangs: {bad}"
        assert during <= 2 * max(before, after), (
            f"p99 {before:.3f} s before, {during:.3f} s while it hangs, {after:.3f} s after"
        )
        await world.conserved([upload.upload_id for upload in whole])
    return (
        f"{hung} calls hanging, {len(stuck)} requests waiting; signing p99 {before * 1000:.0f} ms before, {during * 1000:.0f} ms while it "
        f"hangs, {after * 1000:.0f} ms after; {signing.statuses.total()} calls that don't need the store, errors 0; all that hung ended well"
    )


async def _sign(client: Client, known: list[Uploaded], count: int) -> list[float]:
    """Sign so many times; how long each took, in seconds."""
    earlier = len(client.seconds.get("sign", []))
    _, failed = await call_many(
        count, lambda number: client.sign(known[number % len(known)], [1, 2]), at_once=SIGNED_AT_ONCE
    )
    if failed:
        raise failed[0]
    return client.seconds["sign"][earlier:]


async def _initiated(client: Client) -> Uploaded:
    upload = client.new(40)
    await client.initiate(upload)
    return upload


async def _sent(client: Client) -> Uploaded:
    upload = await _initiated(client)
    await client.send(upload, upload.parts)
    return upload


EXPERIMENTS = (store_refuses, store_hangs)
CI = EXPERIMENTS
