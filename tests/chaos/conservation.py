"""Rule 9, straight from the database and the store: when all is quiet, what one knows the other has, once, and nothing else is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import redis

from tests.servers.redis import RedisServer
from tests.servers.s3 import S3Server

__all__ = [
    "EVENTS_DB",
    "RESTLESS",
    "Books",
    "Violation",
    "copy_stream",
    "read_books",
    "read_contents",
    "read_stream",
    "stream_of",
    "unrest",
    "violations",
]

OPEN = ("pending", "uploading", "completing", "aborting")
RESTLESS = ("pending", "completing", "aborting")
ENDED = {
    "upload.completed": "completed",
    "upload.aborted": "aborted",
    "upload.expired": "expired",
    "upload.failed": "failed",
}
"""The event that tells of each end."""
RARE = {"upload.reopened", "file.damaged"}
"""Events that nothing in the rows asks for: none may be there that nobody foresaw."""
MARKER = ".installation"
EVENTS_DB = 1
"""Number of Redis' database with the streams of events: not the cache's, which may be flushed."""
TIMEOUT = 30.0
READS = 16
"""Objects read at a time."""
NOTHING_SENT: Mapping[str, bytes] = MappingProxyType({})


class Violation(AssertionError):  # noqa: N818 - a finding, no error
    """Something was lost, doubled, left behind or invented."""


@dataclass(slots=True)
class Books:
    """What the database says of one installation, and what the store has of it.

    Attributes:
        uploads: Rows, by id.
        files: Rows, by id.
        events: How often each type was written for each upload or, of deletions, file.
        event_ids: Of all that were written, in the order of their public positions; by upload.
        arrived: Of those that reached their destination, in the order they did; by upload. Once each: a second time is allowed.
            `None` where no destination was looked at.
        undelivered: How many wait.
        quotas: Open uploads and bytes in flight, by owner.
        objects: Sizes, by key, under our prefix.
        contents: Bytes of those that were read, by key.
        multiparts: Key and storage upload id of each open multipart upload under our prefix.
    """

    uploads: dict[str, Any]
    files: dict[str, Any]
    events: Counter[tuple[str, str]]
    quotas: dict[str, tuple[int, int]]
    undelivered: int = 0
    event_ids: dict[str, list[str]] = field(default_factory=dict)
    arrived: dict[str, list[str]] | None = None
    objects: dict[str, int] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    multiparts: set[tuple[str, str]] = field(default_factory=set)
    prefix: str = ""

    @property
    def states(self) -> Counter[str]:
        """How many uploads are in each state."""
        return Counter(row["state"] for row in self.uploads.values())


UNREST = """
    SELECT state AS what, count(*) FROM uploadcore_uploads WHERE state IN ('pending', 'completing', 'aborting') GROUP BY state
    UNION ALL SELECT 'deleting', count(*) FROM uploadcore_files WHERE status = 'deleting' HAVING count(*) > 0
    UNION ALL SELECT 'undelivered', count(*) FROM uploadcore_events WHERE delivered_at IS NULL HAVING count(*) > 0
"""


async def unrest(database: str) -> Counter[str]:
    """How much is in the middle of something: uploads by state, files being deleted, events that wait. Empty when all is quiet."""
    connection = await asyncpg.connect(database, timeout=TIMEOUT, command_timeout=TIMEOUT)
    try:
        return Counter({row["what"]: row["count"] for row in await connection.fetch(UNREST)})
    finally:
        await connection.close()


async def read_books(database: str, store: S3Server | None = None, bucket: str = "") -> Books:
    """Read them; of the database alone, where no store is given."""
    connection = await asyncpg.connect(database, timeout=TIMEOUT, command_timeout=TIMEOUT)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            [installation] = await connection.fetch("SELECT id FROM uploadcore_installation")
            uploads = await connection.fetch("SELECT * FROM uploadcore_uploads")
            files = await connection.fetch("SELECT * FROM uploadcore_files")
            events = await connection.fetch("SELECT * FROM uploadcore_events ORDER BY sequence NULLS LAST, position")
            quotas = await connection.fetch("SELECT owner, open_uploads, bytes_in_flight FROM uploadcore_quotas")
    finally:
        await connection.close()
    books = Books(
        uploads={row["id"]: row for row in uploads},
        files={row["id"]: row for row in files},
        events=Counter(
            (row["type"], row["file_id"] if row["type"].startswith("file.") else row["upload_id"]) for row in events
        ),
        quotas={row["owner"]: (row["open_uploads"], row["bytes_in_flight"]) for row in quotas},
        undelivered=sum(row["delivered_at"] is None for row in events),
        prefix=f"uploads/{installation['id']}/",
    )
    for row in events:
        books.event_ids.setdefault(row["upload_id"], []).append(row["id"])
    if store is not None:
        await asyncio.to_thread(_list_store, books, store, bucket)
    return books


def read_contents(books: Books, store: S3Server, bucket: str, uploads: Collection[str]) -> None:
    """The bytes of the objects that these uploads brought, straight from the store; of those that are there."""
    keys = [books.uploads[upload_id]["key"] for upload_id in uploads if upload_id in books.uploads]
    with contextlib.closing(store.client()) as client, ThreadPoolExecutor(READS) as executor:

        def read(key: str) -> bytes:
            content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return content

        there = [key for key in keys if key in books.objects]
        books.contents.update(zip(there, executor.map(read, there), strict=True))


def read_stream(books: Books, server: RedisServer, stream: str) -> None:
    """What has reached the stream."""
    seen: set[str] = set()
    books.arrived = {}
    with contextlib.closing(redis.Redis(port=server.port, db=EVENTS_DB, decode_responses=True)) as client:
        entries: Any = client.xrange(stream)
        for _, entry in entries:
            if entry["id"] not in seen:
                seen.add(entry["id"])
                books.arrived.setdefault(json.loads(entry["event"])["subject"], []).append(entry["id"])


def stream_of(database: str) -> str:
    """The stream that the events of an installation go to, which each database has for itself."""
    return f"events-of-{urlsplit(database).path.removeprefix('/')}"


def copy_stream(server: RedisServer, stream: str, copy: str) -> None:
    """Make another stream of what has reached one."""
    with contextlib.closing(redis.Redis(port=server.port, db=EVENTS_DB)) as client:
        client.copy(stream, copy)


def _list_store(books: Books, store: S3Server, bucket: str) -> None:
    with contextlib.closing(store.client()) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=books.prefix):
            for found in page.get("Contents", []):
                if found["Key"] != f"{books.prefix}{MARKER}":
                    books.objects[found["Key"]] = found["Size"]
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=books.prefix):
            books.multiparts.update((found["Key"], found["UploadId"]) for found in page.get("Uploads", []))


def violations(
    books: Books,
    *,
    completed: Iterable[str] = (),
    sent: Mapping[str, bytes] = NOTHING_SENT,
    reopened: Collection[str] = (),
    no_multiparts: bool = True,
) -> list[str]:
    """All that is wrong.

    Args:
        books: As read.
        completed: Ids of uploads that some client was told are completed.
        sent: What clients sent, by upload: what is available has these bytes. Only where contents were read.
        reopened: Ids of uploads that were reopened, each once; no other may have been.
        no_multiparts: Whether the store may hold no multipart upload but those of open rows.
    """
    return [
        *_unrest(books),
        *_objects(books),
        *_contents(books, sent),
        *_events(books, reopened),
        *_quotas(books),
        *_deliveries(books),
        *(_multiparts(books) if no_multiparts else ()),
        *(
            f"upload {upload_id} was acknowledged and is {books.uploads[upload_id]['state'] if upload_id in books.uploads else 'gone'}"
            for upload_id in completed
            if upload_id not in books.uploads or books.uploads[upload_id]["state"] != "completed"
        ),
    ]


def _unrest(books: Books) -> list[str]:
    return [f"{books.states[state]} uploads are still {state}" for state in RESTLESS if books.states[state]] + [
        f"file {row['id']} is still deleting" for row in books.files.values() if row["status"] == "deleting"
    ]


def _objects(books: Books) -> list[str]:
    current = {
        books.uploads[row["upload_id"]]["key"]: row for row in books.files.values() if row["status"] == "available"
    }
    lost = [
        f"file {row['id']} is available and its object is not there"
        for key, row in current.items()
        if key not in books.objects
    ]
    strays = [f"object {key} belongs to no live file" for key in books.objects.keys() - current.keys()]
    wrong = [
        f"file {row['id']} has {books.objects[key]} bytes, not {row['size']}"
        for key, row in current.items()
        if key in books.objects and books.objects[key] != row["size"]
    ]
    orphaned = [
        f"upload {row['id']} is completed and its file is {books.files[row['file_id']]['status']}"
        for row in books.uploads.values()
        if row["state"] == "completed" and books.files[row["file_id"]]["status"] in {"uploading", "failed"}
    ]
    return lost + strays + wrong + orphaned


def _contents(books: Books, sent: Mapping[str, bytes]) -> list[str]:
    rows = [books.uploads[upload_id] for upload_id in sent if upload_id in books.uploads]
    return [
        f"object {row['key']} has other bytes than were sent for upload {row['id']}"
        for row in rows
        if row["key"] in books.objects and books.contents.get(row["key"]) != sent[row["id"]]
    ]


def _events(books: Books, reopened: Collection[str]) -> list[str]:
    expected: Counter[tuple[str, str]] = Counter({("upload.reopened", upload_id): 1 for upload_id in reopened})
    for row in books.uploads.values():
        for event, state in ENDED.items():
            if row["state"] == state:
                expected[event, row["id"]] = 1
    for row in books.files.values():
        if row["status"] == "deleted":
            expected["file.deleted", row["id"]] = 1
    looked_at = {*ENDED, *RARE, "file.deleted"}
    told = {key: count for key, count in books.events.items() if key[0] in looked_at}
    return [
        f"{event} of {name}: {told.get((event, name), 0)} events, not {expected[event, name]}"
        for event, name in sorted(expected.keys() | told.keys())
        if told.get((event, name), 0) != expected[event, name]
    ]


def _deliveries(books: Books) -> list[str]:
    """In order per upload, none missing, none invented; where a destination's stream was read."""
    waiting = [f"{books.undelivered} events are not delivered"] if books.undelivered else []
    if books.arrived is None:
        return waiting
    return waiting + [
        f"events of upload {upload_id} arrived as {books.arrived.get(upload_id, [])}, written were {books.event_ids.get(upload_id, [])}"
        for upload_id in sorted(books.event_ids.keys() | books.arrived.keys())
        if books.arrived.get(upload_id, []) != books.event_ids.get(upload_id, [])
    ]


def _quotas(books: Books) -> list[str]:
    expected: dict[str, list[int]] = {owner: [0, 0] for owner in books.quotas}
    for row in books.uploads.values():
        if row["state"] in OPEN:
            sums = expected.setdefault(row["owner"], [0, 0])
            sums[0] += 1
            sums[1] += row["reserved_bytes"]
    return [
        f"quota of {owner} is {books.quotas.get(owner, (0, 0))}, the open uploads are {tuple(sums)}"
        for owner, sums in expected.items()
        if books.quotas.get(owner, (0, 0)) != tuple(sums)
    ]


def _multiparts(books: Books) -> list[str]:
    known = {(row["key"], row["storage_upload_id"]) for row in books.uploads.values() if row["state"] == "uploading"}
    return [f"multipart upload of {key} belongs to no open upload" for key, _ in sorted(books.multiparts - known)]
