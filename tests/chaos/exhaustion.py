"""The embedded service, on a disk that is full and with no file descriptor left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.conservation import Books, Violation, violations
from tests.chaos.fleet import Instance
from tests.chaos.lab import SWEEP_INTERVAL, Lab
from tests.chaos.load import JWT_KEY, token
from tests.servers.process import ServerError
from uploadcore_filesystem.objects import ObjectRecord

__all__ = ["CI", "EXPERIMENTS"]

MIB = 1024 * 1024
DISK = 24 * MIB
BALLAST = 12 * MIB
BLOB = 512 * 1024
OWNER = "owner-0"
QUIET = 30.0
RECOVERED = 5.0
SPARE = 4
"""Descriptors a process has left before connections take them."""
CLOSED = "connection closed"
"""What comes of a connection that takes no descriptor any more: the system closes it."""
CONNECTIONS = 10
FORESEEN = "a signed request failed"
"""What is logged with all that the system said: to its operator there is nothing else that tells."""
KINDS = {
    507: {"storage_full", "InsufficientStorage"},
    503: {"database_unavailable", "store_unavailable", "overloaded", "ServiceUnavailable"},
}
"""What may be answered while there is no room, by status."""


async def disk_full(lab: Lab) -> str:
    """Disk full, filesystem store and SQLite: clear 507 or 503 and nothing else; it recovers once there is room, and nothing acknowledged is lost.

    With ENOSPC taken for any other error of the disk, it failed: 503 where 507 says what to do.
    """
    told = [await _filled(lab, "all", "on one disk"), await _filled(lab, "files", "files on a disk of their own")]
    return "; ".join(told)


async def _filled(lab: Lab, name: str, what: str) -> str:
    """Fill a disk with uploads, and make room again. With database, or without."""
    count = lab.sized(40, 30)  # more than there is room for, and fewer than the disk holds without its ballast
    folder = lab.folder / f"disk-{name}"
    database = folder / "uploads.db" if name == "files" else None
    async with _embedded(folder, disk=DISK, database=database) as instance, _uploader(instance) as uploader:
        data = folder / f"{instance.name}-data"
        ballast = data / "ballast"
        ballast.write_bytes(bytes(BALLAST))
        for _ in range(count):
            await uploader.upload(lab.chance.randbytes(BLOB))
        refused = Counter(uploader.refusals)
        _check_refusals(refused)
        assert any(status == (503 if database is None else 507) for _, status, _ in refused), refused
        assert uploader.completed, "there was room for nothing"
        assert (await uploader.http.get(f"{instance.url}/health/ready")).status_code == 200
        ballast.unlink()
        took = await _recovered(lab, uploader)
        books = await _conserved(instance, data, uploader, database)
    return (
        f"{what}: {count} uploads of {BLOB // 1024} KiB on {(DISK - BALLAST) // MIB} MiB of room: refused {_told(refused)}, anything else 0; "
        f"{took:.1f} s after there was room all went; {dict(books.states)}, acknowledged {len(uploader.completed)}, lost 0"
    )


async def _recovered(lab: Lab, uploader: Uploader) -> float:
    """Seconds until an upload goes all the way; and then finish those that did not."""
    before, began = Counter(uploader.refusals), time.monotonic()
    while True:
        is_taken = await uploader.upload(lab.chance.randbytes(BLOB))
        took = time.monotonic() - began
        if took > RECOVERED:
            raise Violation(f"nothing is taken {RECOVERED} s after there is room: {uploader.refusals - before}")
        if is_taken:
            break
        await asyncio.sleep(0.1)
    for upload_id in list(uploader.open):
        await uploader.finish(upload_id)
    return took


async def files_open(lab: Lab) -> str:
    """Too many files open: clear 507 or 503 to who is connected, others' connections are closed; it recovers once some are closed, and nothing acknowledged is lost.

    With an open that finds no descriptor left unmapped by the store, it failed: parts were answered with 500.
    """
    folder = lab.folder / "descriptors"
    async with _embedded(folder) as instance, _uploader(instance) as uploader:
        data = folder / f"{instance.name}-data"
        assert await uploader.upload(lab.chance.randbytes(BLOB)), uploader.refusals
        await asyncio.gather(*(uploader.http.get(f"{instance.url}/health/ready") for _ in range(CONNECTIONS)))
        used = len(os.listdir(f"/proc/{instance.pid}/fd"))
        before = resource.prlimit(instance.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(instance.pid, resource.RLIMIT_NOFILE, (used + SPARE, before[1]))
        idle = [await asyncio.open_connection("127.0.0.1", instance.port) for _ in range(4 * SPARE)]
        for _ in range(lab.sized(40, 15)):
            await uploader.upload(lab.chance.randbytes(BLOB))
        refused = Counter(uploader.refusals)
        assert any(status for _, status, _ in refused), f"nothing was refused in words: {refused}"
        _check_refusals(refused, closed=True)
        for _, writer in idle:
            writer.close()
        took = await _recovered(lab, uploader)
        books = await _conserved(instance, data, uploader, None)
    return (
        f"{SPARE} descriptors left, {len(idle)} idle connections: refused {_told(refused)}, anything else 0; after they closed {took:.1f} s; "
        f"{dict(books.states)}, acknowledged {len(uploader.completed)}, lost 0"
    )


class Uploader:
    """One client on connections that it keeps; what is refused is counted, and may be finished later.

    Attributes:
        refusals: By what was asked, status and code.
        open: Bodies of uploads that were initiated and have not ended.
        completed: Their ids.
    """

    def __init__(self, instance: Instance, http: httpx.AsyncClient) -> None:
        self.refusals: Counter[tuple[str, int, str]] = Counter()
        self.open: dict[str, bytes] = {}
        self.completed: list[str] = []
        self.http = http
        self._url = instance.url
        self._headers = {"Authorization": f"Bearer {token(OWNER)}"}

    async def upload(self, body: bytes) -> bool:
        """Whether it went all the way."""
        answer = await self._ask(
            "initiate", "POST", f"{self._url}/v1/uploads", json={"filename": "blob.bin", "size": len(body)}
        )
        if answer is None:
            return False
        self.open[answer["id"]] = body
        return await self._sent(answer["id"])

    async def finish(self, upload_id: str) -> None:
        """Complete what could not be before, and send it first if need be; it has to go, or have gone by itself."""
        end = time.monotonic() + QUIET
        while not (await self._completed(upload_id) or await self._sent(upload_id)):
            if time.monotonic() > end:
                raise Violation(f"upload {upload_id} can't be finished: {self.refusals}")
            await asyncio.sleep(0.2)

    async def _sent(self, upload_id: str) -> bool:
        one = f"{self._url}/v1/uploads/{upload_id}"
        signed = await self._ask("sign", "POST", f"{one}/part-urls", json={"part_numbers": [1]})
        if signed is None:
            return False
        [part] = signed["parts"]
        body = self.open[upload_id]
        put = await self._ask("part", part["method"], part["url"], content=body, headers=part["headers"])
        return put is not None and await self._completed(upload_id)

    async def _completed(self, upload_id: str) -> bool:
        answer = await self._ask("complete", "POST", f"{self._url}/v1/uploads/{upload_id}/complete", json={})
        if answer is None or not answer.get("file"):
            return False
        del self.open[upload_id]
        self.completed.append(upload_id)
        return True

    async def _ask(
        self, name: str, method: str, url: str, *, headers: dict[str, str] | None = None, **body: Any
    ) -> dict[str, Any] | None:
        """The answer's JSON; `None` where it was refused. A PUT that arrived before is as good as one that arrives."""
        try:
            answer = await self.http.request(method, url, headers={**self._headers, **(headers or {})}, **body)
        except httpx.HTTPError:
            self.refusals[name, 0, CLOSED] += 1
            return None
        if answer.is_success or (name == "part" and answer.status_code == 412):
            return dict(answer.json()) if name != "part" else {}
        is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        code = answer.json()["code"] if is_problem else answer.text.partition("<Code>")[2].partition("</Code>")[0]
        self.refusals[name, answer.status_code, code] += 1
        return None


def _check_refusals(refused: Counter[tuple[str, int, str]], *, closed: bool = False) -> None:
    kinds = {**KINDS, 0: {CLOSED}} if closed else KINDS
    unclear = {found: number for found, number in refused.items() if found[2] not in kinds.get(found[1], ())}
    assert not unclear, f"answered, while there was no room: {unclear}"


def _told(refused: Counter[tuple[str, int, str]]) -> str:
    return ", ".join(f"{name} {status} {code} {number}" for (name, status, code), number in sorted(refused.items()))


@asynccontextmanager
async def _uploader(instance: Instance) -> AsyncIterator[Uploader]:
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=None)
    async with httpx.AsyncClient(timeout=httpx.Timeout(30, connect=5), limits=limits, trust_env=False) as http:
        yield Uploader(instance, http)


@asynccontextmanager
async def _embedded(folder: Path, *, disk: int | None = None, database: Path | None = None) -> AsyncIterator[Instance]:
    """One instance with a folder and nothing else; `disk`: that is a filesystem of its own, of so many bytes, `database` not on it."""
    settings = {
        "UPLOADCORE_AUTH_JWT_KEY": JWT_KEY,
        "UPLOADCORE_SWEEP_INTERVAL": f"{SWEEP_INTERVAL:g}s",
        "UPLOADCORE_LEASE": "2s",
        "UPLOADCORE_LOG_FORMAT": "json",
        **({} if database is None else {"UPLOADCORE_DATABASE": f"sqlite:///{database}"}),
    }
    instance = Instance("embedded", folder, settings)
    with _mounted(folder / f"{instance.name}-data", disk):
        instance.launch()
        try:
            await instance.ready()
            yield instance
        finally:
            instance.kill()


@contextmanager
def _mounted(folder: Path, disk: int | None) -> Iterator[None]:
    """A small filesystem under that name, which only root may make.

    Raises:
        ServerError: We may not.
    """
    folder.mkdir(parents=True)
    if disk is None:
        yield
        return
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={disk},mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        raise ServerError(f"a disk that fills is a tmpfs: mounting one takes root with CAP_SYS_ADMIN: {mounted.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def _conserved(instance: Instance, data: Path, uploader: Uploader, database: Path | None) -> Books:
    """Rule 9, from SQLite's file and the store's folder, once all is quiet."""
    end = time.monotonic() + QUIET
    while found := violations(books := _books(data, database or data / "uploadcore.db"), completed=uploader.completed):
        if time.monotonic() > end:
            raise Violation(f"{len(found)} violations: " + "; ".join(found[:10]))
        await asyncio.sleep(0.2)
    assert instance.is_running, "it ended"
    instance.check_log(FORESEEN)
    return books


def _books(data: Path, database: Path) -> Books:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row

        def rows(what: str, table: str) -> list[sqlite3.Row]:
            return connection.execute(f"SELECT {what} FROM uploadcore_{table}").fetchall()

        connection.execute("BEGIN")
        books = Books(
            uploads={row["id"]: row for row in rows("*", "uploads")},
            files={row["id"]: row for row in rows("*", "files")},
            events=Counter(
                (row["type"], row["file_id"] if row["type"].startswith("file.") else row["upload_id"])
                for row in rows("type, upload_id, file_id", "events")
            ),
            quotas={row["owner"]: (row["open_uploads"], row["bytes_in_flight"]) for row in rows("*", "quotas")},
            prefix=f"uploads/{rows('id', 'installation')[0]['id']}/",
        )
    for found in (data / "files" / "objects").glob("*/*.json"):
        record = ObjectRecord.load(found.read_bytes())
        if record.key != f"{books.prefix}.installation":
            books.objects[record.key] = record.size
    return books


EXPERIMENTS = (disk_full, files_open)
CI = ()
