"""Stores over both SDKs, with timeouts short enough to wait for, and the steps the tests are made of."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import httpx
import pytest

from tests.integration.s3.faults.scripted import ScriptedS3
from uploadcore.errors import UploadCoreError
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, ObjectStore, OpenMultipart, SignedRequest, StoreCapabilities
from uploadcore.upload import Address
from uploadcore_s3 import MinioObjectStore, S3ObjectStore
from uploadcore_s3.configuration import Timeouts

BUCKET = "media"
ACCESS_KEY = "AKIDSCRIPTED"
SECRET_KEY = "scripted/secret+key/nobody/may/see"
HEADERS = ObjectHeaders("video/mp4", {MARKER: "upload-1"})
MINUTE = timedelta(minutes=1)
ALL = StoreCapabilities(
    conditional_put=True,
    repeatable_complete=True,
    concurrent_complete=True,
    late_parts_refused=True,
    list_by_prefix=True,
)

T = TypeVar("T")


def make_store(sdk: str, endpoint: str, **options: Any) -> S3ObjectStore | MinioObjectStore:
    """A store that waits for seconds where it would wait for minutes."""
    options.setdefault("timeouts", Timeouts(connect=2.0, call=5.0, retries=0.6, completion=10.0))
    options.setdefault("region", "us-east-1")
    options.setdefault("capabilities", ALL)
    options.setdefault("part_size_min", 1)
    kind = S3ObjectStore if sdk == "s3" else MinioObjectStore
    return kind(BUCKET, endpoint=endpoint, **options)


@dataclass
class Bench:
    """A store, the server it talks to, and a client of both."""

    far: ScriptedS3
    store: ObjectStore
    client: httpx.AsyncClient = field(
        default_factory=lambda: httpx.AsyncClient(verify=False)
    )  # no TLS here: certificates take long to load

    async def begin(self, key: str = "up/a") -> Address:
        address = Address(BUCKET, key)
        return Address(BUCKET, key, await self.store.create_multipart(address, HEADERS))

    async def sent(self, *bodies: bytes, key: str = "up/a") -> tuple[Address, list[StoredPart]]:
        """A multipart upload all of whose parts are there, and what is listed of it."""
        address = await self.begin(key)
        for number, body in enumerate(bodies or (b"1234", b"56789"), 1):
            await self.put(address, number, body)
        return address, await self.store.list_parts(address)

    async def put(self, address: Address, number: int, body: bytes) -> None:
        [signed] = await self.store.presign_parts(
            address, [Part(number, 0, len(body))], checksums={}, expires_in=MINUTE
        )
        answer = await self.redeem(signed, body)
        assert answer.status_code == 200, answer.text

    async def redeem(self, signed: SignedRequest, body: bytes = b"") -> httpx.Response:
        return await self.client.request(signed.method, signed.url, headers=dict(signed.headers), content=body)

    async def complete(self, address: Address, parts: list[StoredPart]) -> None:
        await self.store.complete_multipart(address, parts, size=sum(part.size for part in parts), checksum=None)

    async def multiparts(self, prefix: str = "") -> list[OpenMultipart]:
        return [found async for found in self.store.list_multiparts(prefix)]

    async def close(self) -> None:
        await self.client.aclose()
        await self.store.close()


async def refused(call: Awaitable[object], kind: type[UploadCoreError], secrets: set[str]) -> UploadCoreError:
    """That error, and nothing secret in it or in whatever it was raised from."""
    with pytest.raises(UploadCoreError) as caught:
        await call
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caught.value.message
    assert type(caught.value) is kind, said
    assert not [secret for secret in {SECRET_KEY, *secrets} if secret in said]
    assert len(caught.value.message) < 1_000, "a message is for a person"
    return caught.value


async def until(holds: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Let others run until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.005)


async def leaks(far: ScriptedS3) -> None:
    """Fail if a store that was closed left a thread or a connection behind."""
    await until(lambda: far.open_connections == 0)
    await until(lambda: not threads())


def threads() -> list[str]:
    """The stores' threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("uploadcore-s3")]


@asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    """Fail instead of waiting for ever."""
    async with asyncio.timeout(seconds):
        yield
