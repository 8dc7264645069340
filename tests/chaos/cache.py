"""Redis down, hung and flushed; a file that everybody asks for; and fills that come too late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos.conservation import Violation
from tests.chaos.lab import Lab, World
from tests.chaos.load import Client, Uploaded, call_many
from tests.chaos.measuring import Readiness, beside, checks, percentile

__all__ = ["CI", "EXPERIMENTS"]

TTL = 3.0
"""Seconds a file may be shown as it was, in these experiments."""
CLOCK_TICK = 0.1
"""Seconds by which an age measured from outside may be off: an answer is on its way for a while."""
READERS = 4
"""Of whom each may be the one that finds out: fewer than a hundredth of all calls."""
FLUSH_INTERVAL = 0.1
RECOVERY = 10.0
"""Seconds until an instance uses its cache again: it probes every half second, and says so at most 2 s late."""


@dataclass(slots=True)
class Titles:
    """What a writer has made of files' titles: numbers that count up; and when each was acknowledged.

    Attributes:
        oldest: How long ago what a reader was shown had been overtaken, at most; seconds.
        overtaken: How many readers were shown something overtaken.
    """

    known: dict[str, list[float]] = field(default_factory=dict)
    oldest: float = 0.0
    overtaken: int = 0

    def shown(self, file_id: str, title: str, asked_at: float) -> None:
        """A reader who asked at that time was shown this one."""
        number, acknowledged = int(title or 0), self.known[file_id]
        if number < len(acknowledged) and acknowledged[number] < asked_at:
            self.overtaken += 1
            self.oldest = max(self.oldest, asked_at - acknowledged[number])


async def cache_away(lab: Lab) -> str:
    """Redis down, hung, flushed: errors 0; readiness green; p99 at most twice warm database reads'; stale upload state 0; stale file metadata ≤ TTL."""
    count = lab.sized(2_000, 800)
    ttl = f"{TTL:g}s"
    async with (
        lab.world(UPLOADCORE_FILE_CACHE_TTL=ttl) as world,
        lab.world(database=world.database_url, bucket=world.bucket, UPLOADCORE_CACHE="none") as without,
        Client(world.fleet.url, chance=lab.chance, attempts=1) as client,
        Client(without.fleet.url, chance=lab.chance, attempts=1) as database_only,
    ):
        files, failed = await call_many(40, lambda _: client.upload(client.new(16)), at_once=8)
        assert not failed, failed[:3]
        uploads = [client.new(40) for _ in range(40)]
        for upload in uploads:
            await client.initiate(upload)
        titles = Titles({file.file_id: [] for file in files})
        shown = Counter[str]()
        told = []

        async def measured(of: Client) -> list[float]:
            async with _writing(client, files, titles), _ending(client, shown):
                return await _read(of, count, files, uploads, titles)

        baseline = percentile(await measured(database_only), 99)
        async with Readiness(world.fleet) as readiness:
            for name, faulty in (("down", _down), ("hung", _hung), ("flushed", _flushed)):
                async with faulty(world):
                    told.append((name, percentile(await measured(client), 99)))
                await _cache_works(world)
        baseline = max(baseline, percentile(await measured(database_only), 99))
        assert not readiness.failed, f"readiness failed {readiness.failed} of {readiness.asked} times"
        assert shown.keys() <= {"aborting", "aborted"}, f"aborted uploads were shown as {dict(shown)}"
        assert titles.oldest <= TTL + CLOCK_TICK, f"a file was shown {titles.oldest:.1f} s late"
        slow = {name: seconds for name, seconds in told if seconds > 2 * baseline}
        assert not slow, f"p99 {slow}, of database reads {baseline * 1000:.0f} ms"
        errors = {status: number for status, number in client.statuses.items() if not 200 <= status < 300}
        assert not errors, errors
        await world.conserved([file.upload_id for file in files])
    return (
        f"{client.statuses.total()} calls, errors 0; ready {readiness.asked} of {readiness.asked}; p99 of database reads "
        f"{baseline * 1000:.0f} ms, with Redis {', '.join(f'{name} {seconds * 1000:.0f} ms' for name, seconds in told)}; "
        f"stale upload states 0 of {shown.total()}; files shown late {titles.overtaken}, at most {titles.oldest:.1f} s of {TTL:g} s"
    )


async def _read(
    client: Client, count: int, files: list[Uploaded], uploads: list[Uploaded], titles: Titles
) -> list[float]:
    """Files three times of five, URLs for parts and states of uploads once each; how long each took, in seconds."""
    took: list[float] = []
    chance = client.chance

    async def one(number: int) -> None:
        began = time.monotonic()
        if number % 5 == 0:
            await client.sign(chance.choice(uploads), [1, 2])
        elif number % 5 == 1:
            upload = chance.choice(uploads)
            await client.call("state", "GET", f"/v1/uploads/{upload.upload_id}", owner=upload.owner)
        else:
            file = chance.choice(files)
            document = await client.call("file", "GET", f"/v1/files/{file.file_id}", owner=file.owner)
            titles.shown(file.file_id, document["title"], began)
        took.append(time.monotonic() - began)

    _, failed = await call_many(count, one, at_once=READERS)
    if failed:
        raise failed[0]
    return took


def _writing(client: Client, files: list[Uploaded], titles: Titles) -> AbstractAsyncContextManager[None]:
    """Give files new titles meanwhile."""

    async def write() -> None:
        file = client.chance.choice(files)
        known = titles.known[file.file_id]
        wish = {"title": str(len(known) + 1)}
        await client.call("retitle", "PATCH", f"/v1/files/{file.file_id}", wish, owner=file.owner)
        known.append(time.monotonic())
        await asyncio.sleep(0.02)

    return beside(write)


def _ending(client: Client, shown: Counter[str]) -> AbstractAsyncContextManager[None]:
    """Abort uploads meanwhile, each just after it was signed for; what they are shown as from then on."""

    async def end() -> None:
        upload = client.new(40)
        await client.initiate(upload)
        await client.sign(upload, [1])
        await client.abort(upload)
        for _ in range(4):
            document = await client.call("state", "GET", f"/v1/uploads/{upload.upload_id}", owner=upload.owner)
            shown[document["state"]] += 1

    return beside(end)


@asynccontextmanager
async def _down(world: World) -> AsyncIterator[None]:
    world.cache.down()
    try:
        yield
    finally:
        world.cache.up()


@asynccontextmanager
async def _hung(world: World) -> AsyncIterator[None]:
    with world.cache.faults.hold() as hold:
        yield
        assert hold.met > 0, "nobody asked Redis"


@asynccontextmanager
async def _flushed(world: World) -> AsyncIterator[None]:
    async def flush() -> None:
        await asyncio.to_thread(world.lab.redis.flush)
        await asyncio.sleep(FLUSH_INTERVAL)

    async with beside(flush):
        yield


async def _cache_works(world: World) -> None:
    """Each instance says that its cache answers, soon."""
    for instance in world.fleet.instances:
        end = time.monotonic() + RECOVERY
        while (found := await checks(instance))["cache"] != "ok":
            if time.monotonic() > end:
                raise Violation(f"{instance.name} does without its cache {RECOVERY} s after Redis is back: {found}")
            await asyncio.sleep(0.2)


EXPERIMENTS = (cache_away,)
CI = EXPERIMENTS
