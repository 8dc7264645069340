"""Instances whose clocks are a quarter of an hour apart from the truth, and half an hour from each other."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.chaos.conservation import Violation, unrest
from tests.chaos.fleet import Instance, until
from tests.chaos.lab import Lab, World
from tests.chaos.load import Client, Uploaded, call_many
from tests.servers.process import ServerError

__all__ = ["CI", "EXPERIMENTS"]

OFFSETS = {"instance-1": 14, "instance-2": -14}
"""Minutes their clocks are ahead of the truth."""
NEAR_ENOUGH = 5
"""Seconds a clock's offset may be told wrongly: it is learned from headers that tell whole seconds, on a machine that is busy."""
LEASE = 6.0
"""Seconds an instance's claim stands here: three times as long as elsewhere, so that one that is merely slow, on a busy machine, keeps it."""
HELD = 2 * LEASE
COMPLETIONS = 16
"""As many as an instance asks the store for at a time (`uploadcore_s3.store`): so many can be held at one."""
TAKEN_OVER = 10.0
SAID = 15.0
"""Seconds until health says so."""
PACKAGE = "libfaketime"
LIBRARY = "faketime/libfaketimeMT.so.1"


async def clocks_apart(lab: Lab) -> str:
    """Instance clocks 14 min ahead and behind: uploads succeed; leases hold; signing goes by the store's time; doctor and /health/ready say so.

    Tokens say when they were issued, which for an instance that is behind is in the future.
    Seen to fail with URLs signed by the instance's own clock: they were 840 s away from the truth.
    """
    count, held = lab.sized(120, 24), lab.sized(COMPLETIONS, 8)
    async with lab.world(UPLOADCORE_LEASE=f"{LEASE:g}s") as world, Client(world.fleet.url, chance=lab.chance) as client:
        for instance in world.fleet.instances:
            instance.environment.update(_wrong_clock(OFFSETS[instance.name]))
            await world.fleet.restart(instance)
        done, failed = await call_many(count, lambda _: client.upload(), at_once=16)
        assert not failed, f"{len(failed)} of {count} failed: {failed[:3]}"
        signed_off = [await _signed_off(client, instance) for instance in world.fleet.instances]
        assert max(signed_off) <= NEAR_ENOUGH, f"URLs are signed {signed_off} s away from the truth"
        said = [await _says(instance) for instance in world.fleet.instances]
        found = await _doctor(world, OFFSETS["instance-1"])
        took = []
        for victim in world.fleet.instances:
            uploads = [client.new(40) for _ in range(held)]
            await _all_sent(client, uploads)
            took.append(await _lease(world, client, victim, uploads))
            await world.fleet.revive()
            for upload in uploads:
                await client.complete(upload)
            done += uploads
        books = await world.conserved(done)
        assert books.states["completed"] == len(done) == len(books.uploads) - len(signed_off), dict(books.states)
    return (
        f"{count} uploads by instances {', '.join(f'{minutes:+} min' for minutes in OFFSETS.values())}, failed 0; URLs signed at most {max(signed_off):.0f} s off; "
        f"2 x {held} completions held for 2 leases, taken over early 0, after the kill {', '.join(f'{each:.1f}' for each in took)} s "
        f"after the lease; health: {'; '.join(said)}; doctor: {found}"
    )


def _wrong_clock(minutes: int) -> dict[str, str]:
    """What a process needs in its environment to live at another time; how long things take stays true."""
    found = sorted(Path("/usr/lib").glob(f"*/{LIBRARY}"))
    if not found:
        raise ServerError(f"libfaketime is missing: install the Debian package {PACKAGE}")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": f"{minutes:+d}m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


async def _signed_off(client: Client, instance: Instance) -> float:
    """By how many seconds the time that an instance signs at is wrong."""
    upload = client.new(16)
    await client.initiate(upload, url=instance.url)
    [told] = parse_qs(urlsplit(upload.parts[0]["url"]).query)["X-Amz-Date"]
    await client.abort(upload)
    signed_at = datetime.strptime(told, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return abs((datetime.now(UTC) - signed_at).total_seconds())


async def _says(instance: Instance) -> str:
    """What the body of `/health/ready` says of its clock: how far the others' are from it."""
    minutes = OFFSETS[instance.name]
    end = time.monotonic() + SAID
    async with httpx.AsyncClient(timeout=SAID, trust_env=False) as http:
        while True:
            answer = await http.get(f"{instance.url}/health/ready")
            assert answer.status_code == 200, answer.text
            told: dict[str, str] = answer.json().get("clock", {})
            if {"store", "database"} <= told.keys() and all(_is_so(words, -minutes * 60) for words in told.values()):
                return f"{instance.name} {told}"
            if time.monotonic() > end:
                raise Violation(f"{instance.name}, {minutes:+} min, says {answer.text}")
            await asyncio.sleep(0.5)


def _is_so(words: str, seconds: int) -> bool:
    """Whether `840 s ahead` or `840 s behind` is that many seconds."""
    number, _, way = words.split()
    return abs(int(number) * (1 if way == "ahead" else -1) - seconds) <= NEAR_ENOUGH


async def _doctor(world: World, minutes: int) -> str:
    """What `uploadcore doctor` says of the store's clock, where this machine's is wrong."""
    printed = await world.command("doctor", "--json", **_wrong_clock(minutes))
    findings = {finding["check"]: finding for finding in json.loads(printed)["findings"]}
    for check in ("store.clock", "database.clock"):
        assert findings[check]["verdict"] == "warning", findings[check]
    return str(findings["store.clock"]["message"]).partition(":")[0]


async def _all_sent(client: Client, uploads: list[Uploaded]) -> None:
    async def sent(number: int) -> None:
        await client.initiate(uploads[number])
        await client.send(uploads[number], uploads[number].parts)

    _, failed = await call_many(len(uploads), sent)
    if failed:
        raise failed[0]


async def _lease(world: World, client: Client, victim: Instance, uploads: list[Uploaded]) -> float:
    """Completions are held at one instance: nobody else begins them while it lives; seconds after its lease until all are done, once it is dead."""
    others = [instance.name for instance in world.fleet.instances if instance is not victim]
    theirs = world.store.faults.hold("CompleteMultipartUpload", sources=others)
    hold = world.store.faults.hold("CompleteMultipartUpload", sources=[victim.name])
    async with Client(world.fleet.url, chance=world.lab.chance, attempts=1) as impatient:
        asked = [asyncio.ensure_future(impatient.complete(upload, url=victim.url)) for upload in uploads]
        try:
            await until(lambda: hold.waiting == len(uploads), 30, f"only {hold.waiting} of {len(uploads)} held")
            await asyncio.sleep(HELD)
            assert theirs.met == 0, f"{theirs.met} were taken over from an instance that lives"
            victim.kill()
            killed = time.monotonic()
            hold.drop()
        finally:
            hold.release()
            theirs.release()
            await asyncio.gather(*asked, return_exceptions=True)
    while True:
        stirring = await unrest(world.database_url)
        took = time.monotonic() - killed - LEASE
        if took > TAKEN_OVER:
            raise Violation(f"not all taken over {took:.1f} s after the lease: {dict(stirring)}")
        if not stirring:
            return max(0.0, took)
        await asyncio.sleep(0.1)


EXPERIMENTS = (clocks_apart,)
CI = ()
