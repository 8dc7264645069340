"""Whose is what: another installation in the same bucket, a database restored from a backup, a store that forgets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from tests.chaos.conservation import Books, Violation, copy_stream, stream_of, violations
from tests.chaos.faults import Hold
from tests.chaos.fleet import until
from tests.chaos.lab import Lab, World
from tests.chaos.load import CallError, Client, Uploaded, each

__all__ = ["CI", "EXPERIMENTS"]

SWEEPS = 3
GONE_TIMEOUT = 60.0


async def second_installation(lab: Lab) -> str:
    """A second installation on the same bucket, sweeping as if days had passed: neither touches what is not its own.

    Seen to fail with the prefix left out of the look for orphans: the other's live multipart uploads were aborted.
    """
    count = lab.sized(40, 8)
    async with lab.world(instances=1) as mine, lab.world(instances=1, bucket=mine.bucket) as theirs:
        for world in (mine, theirs):
            await _furnished(world, count)
        prefix = (await mine.books()).prefix
        orphan, strangers = (
            f"{prefix}0123456789abcdef/orphan",
            ["someone-elses/object", "uploads/not-an-installation/x"],
        )
        await asyncio.to_thread(_planted, mine, [orphan, *strangers])
        before = await mine.books(), await theirs.books()
        foreign = await asyncio.to_thread(_everything, mine, strangers)
        sweeps = 0
        while not sweeps or orphan in {key for key, _ in (await mine.books()).multiparts}:
            for world in (theirs, mine):
                await world.aged_sweep()
            sweeps += 1
            assert sweeps < GONE_TIMEOUT, "the orphan of our own is left"
        for world in [mine, theirs] * (SWEEPS - 1):
            await world.aged_sweep()
        after = await mine.books(), await theirs.books()
        for was, now in zip(before, after, strict=True):
            assert now.objects == was.objects, "objects were touched"
            assert {key for key, _ in was.multiparts - now.multiparts} <= {orphan}, (
                "live multipart uploads were touched"
            )
            assert not violations(now), violations(now)
        for world in (mine, theirs):
            world.fleet.check_logs()
        assert await asyncio.to_thread(_everything, mine, strangers) == foreign, "what belongs to others was touched"
    return (
        f"2 installations with {2 * count} objects and {2 * count} open multipart uploads, {2 * (sweeps + SWEEPS - 1)} sweeps days later: "
        f"touched of the other 0, of strangers 0 of {len(foreign)}, own orphans aborted 1"
    )


async def restored_database(lab: Lab) -> str:
    """A database restored from an older backup: nothing is deleted that it does not know, and what it knows goes on.

    Seen to fail with every old multipart upload taken for an orphan: live ones were aborted.
    """
    count = lab.sized(20, 6)
    async with lab.world(instances=1) as world, Client(world.fleet.url, chance=lab.chance) as client:
        old = [await client.upload(client.new(24)) for _ in range(count)]
        begun = [client.new(24) for _ in range(count)]
        await each(begun, client.initiate)
        await each(begun, lambda upload: client.send(upload, upload.parts))
        await world.quiet()
        await _stopped(world)
        backup = await _copied(world.database_url)
        # What was delivered before the backup was; what is since goes to another stream.
        await asyncio.to_thread(copy_stream, lab.redis, stream_of(world.database_url), stream_of(backup))
        await world.fleet.revive()
        since = [await client.upload(client.new(24)) for _ in range(count)]
        await each(begun[: count // 2], client.complete)
        open_since = [client.new(24) for _ in range(count)]
        await each(open_since, client.initiate)
        await _stopped(world)
        before = await world.books()
        async with (
            lab.world(instances=1, bucket=world.bucket, database=backup) as restored,
            Client(restored.fleet.url, chance=lab.chance) as later,
        ):
            await _gone(restored, open_since)
            for _ in range(SWEEPS - 1):
                await restored.aged_sweep()
            after = await restored.books()
            assert after.objects == before.objects, "objects were touched that the restored database does not know"
            known = {(row["key"], row["storage_upload_id"]) for row in after.uploads.values()}
            assert before.multiparts & known == after.multiparts & known, "live multipart uploads were touched"
            await each(begun, later.complete)
            await restored.quiet()
            sent = {upload.upload_id: upload.body for upload in old + begun}
            books = await restored.books(sent)
            for upload in (old + begun)[:: count // 2]:
                assert await later.content(upload) == upload.body
            unknown = {key for key in books.objects if key.rpartition("/")[2] in {one.upload_id for one in since}}
            strays = [f"object {key} belongs to no live file" for key in unknown]
            # None is reopened: of those that were completed since the backup, the object is there.
            found = violations(books, completed=sent, sent=sent)
            left = [one for one in found if one not in strays]
            assert not left, left
            assert len(unknown) == count
            for one in (world, restored):
                one.fleet.check_logs()
    return (
        f"{len(before.objects)} objects, {count} of them and {count} open multipart uploads newer than the backup; {SWEEPS} sweeps days later: "
        f"objects deleted 0, live multipart uploads aborted 0, unknown ones aborted {count}, "
        f"{count} uploads known as open completed, half of them again"
    )


async def reaped_by_the_store(lab: Lab) -> str:
    """The store reaps live multipart uploads, open ones and ones being completed: they reopen, all parts missing, and complete.

    Seen to fail with a reopening that announces nothing: 0 events instead of 12.
    """
    count = lab.sized(25, 6)
    async with lab.world() as world, Client(world.fleet.url, chance=lab.chance) as client:
        resting, closing = ([client.new(24) for _ in range(count)] for _ in range(2))
        await each(resting + closing, client.initiate)
        await each(resting + closing, lambda upload: client.send(upload, upload.parts))
        await asyncio.to_thread(_reaped, world, await world.books(), resting)
        for upload in resting:
            await _all_missing(client, upload)
        hold = world.store.faults.hold("CompleteMultipartUpload")
        completing = [asyncio.ensure_future(client.complete(upload)) for upload in closing]
        await _held(hold, count)
        await asyncio.to_thread(_reaped, world, await world.books(), closing)
        hold.release()
        await each(resting, client.complete)  # sends again what is missing
        await asyncio.gather(*completing)
        reaped = [upload.upload_id for upload in resting + closing]
        await world.conserved(resting + closing, reopened=reaped)
        assert await client.content(closing[0]) == closing[0].body
    return (
        f"{count} open uploads and {count} being completed reaped by the store: reopened {2 * count}, "
        f"events upload.reopened {len(reaped)}, completed {2 * count}, lost 0"
    )


async def _all_missing(client: Client, upload: Uploaded) -> None:
    path = f"/v1/uploads/{upload.upload_id}/complete"
    try:
        told = await client.call("complete", "POST", path, {}, owner=upload.owner)
    except CallError as error:
        told = error.document
    if told.get("missing") != [[1, 2]]:
        raise Violation(f"the store had lost upload {upload.upload_id}, and its client was told {told}")


async def _held(hold: Hold, count: int) -> None:
    await until(lambda: hold.waiting >= count, 30, f"only {hold.waiting} are held")


async def _furnished(world: World, count: int) -> None:
    """So many objects, and so many open multipart uploads with a part."""
    async with Client(world.fleet.url, chance=world.lab.chance) as client:
        await each([client.new(24) for _ in range(count)], client.upload)
        begun = [client.new(24) for _ in range(count)]
        await each(begun, client.initiate)
        await each(begun, lambda upload: client.send(upload, upload.parts[:1]))


async def _stopped(world: World) -> None:
    for instance in world.fleet.instances:
        instance.terminate()
        await instance.ended()


async def _copied(database: str) -> str:
    """A copy of a database nobody is connected to: a backup, restored at once."""
    parts = urlsplit(database)
    name, copy = parts.path.removeprefix("/"), f"uploadcore_test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(urlunsplit(parts._replace(netloc="postgres@", path="/postgres")), timeout=30)
    try:
        await connection.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{name}"')
    finally:
        await connection.close()
    return urlunsplit(parts._replace(netloc=parts.netloc or "postgres@", path=f"/{copy}"))


async def _gone(world: World, unknown: list[Uploaded]) -> None:
    """Sweep until the multipart uploads of these, which no row knows, are gone."""
    end = asyncio.get_running_loop().time() + GONE_TIMEOUT
    names = {upload.upload_id for upload in unknown}
    while left := [key for key, _ in (await world.books()).multiparts if key.rpartition("/")[2] in names]:
        assert asyncio.get_running_loop().time() < end, f"{len(left)} orphans are left"
        await world.aged_sweep()


def _planted(world: World, keys: list[str]) -> None:
    """Multipart uploads that nobody's row knows, and an object for those outside of our prefix."""
    with contextlib.closing(world.lab.store.client()) as client:
        for key in keys:
            client.create_multipart_upload(Bucket=world.bucket, Key=key)
            if not key.endswith("/orphan"):
                client.put_object(Bucket=world.bucket, Key=key, Body=b"not ours")


def _everything(world: World, keys: list[str]) -> set[tuple[str, str]]:
    """Objects and multipart uploads under these keys."""
    found: set[tuple[str, str]] = set()
    with contextlib.closing(world.lab.store.client()) as client:
        for key in keys:
            listed: dict[str, Any] = client.list_multipart_uploads(Bucket=world.bucket, Prefix=key)
            found |= {(one["Key"], one["UploadId"]) for one in listed.get("Uploads", [])}
            found |= {
                (one["Key"], one["ETag"]) for one in client.list_objects_v2(Bucket=world.bucket, Prefix=key)["Contents"]
            }
    return found


def _reaped(world: World, books: Books, uploads: list[Uploaded]) -> None:
    """As a lifecycle rule does: abort the multipart uploads at the store."""
    with contextlib.closing(world.lab.store.client()) as client:
        for upload in uploads:
            row = books.uploads[upload.upload_id]
            client.abort_multipart_upload(Bucket=world.bucket, Key=row["key"], UploadId=row["storage_upload_id"])


EXPERIMENTS = (second_installation, restored_database, reaped_by_the_store)
CI = ()
