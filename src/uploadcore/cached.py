"""Cache-aside reads of uploads, for the one call that may be served from a copy: signing.

Check; on a miss read the database, populate, return. What is cached decides no transition (`UploadService` reads the database for
that), and holds no URL, token or secret. One read per key and process at a time, however many ask.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from uploadcore.errors import UploadCoreError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import PartPlan
from uploadcore.ports import Cache, Clock, Database
from uploadcore.records import existing_upload
from uploadcore.states import UploadState
from uploadcore.upload import Address, Expected, Reason, Strategy, Timer, Upload

__all__ = ["CachedUploads"]

FILL_TIME = 2.0
"""Seconds after which what a call to the database has brought is too old to be kept, or to be shared with who asks now: a process that
stood still must not bring back what others have changed meanwhile, and whose marks in the cache have gone."""


class CachedUploads:
    """Uploads by id, at most `ttl` old. Without a cache every read goes to the database."""

    def __init__(self, cache: Cache | None, database: Database, clock: Clock, *, ttl: timedelta) -> None:
        """Read the database through `cache`."""
        self._cache = cache
        self._database = database
        self._clock = clock
        self._ttl = ttl
        self._reading: dict[str, tuple[float, asyncio.Task[Upload]]] = {}

    async def get(self, upload_id: str) -> Upload:
        """The upload, perhaps `ttl` old.

        Raises:
            UploadNotFoundError: There is none.
        """
        if self._cache is not None:
            found = await self._cache.get(_key(upload_id))
            upload = None if found is None else _decode(found)
            if upload is not None:
                return upload
        began, reading = self._reading.get(upload_id, (0.0, None))
        if reading is None or self._is_old(began):
            began = self._clock.monotonic()
            reading = asyncio.create_task(self._fill(upload_id, began))
            self._reading[upload_id] = (began, reading)
            reading.add_done_callback(lambda task: self._ended(upload_id, task))
        return await asyncio.shield(reading)

    async def remember(self, upload: Upload, *, as_of: float) -> None:
        """Replace the copy by a newer one.

        Args:
            upload: As the database has returned it.
            as_of: The clock's monotonic seconds when the database was called for it.
        """
        if self._cache is not None and not self._is_old(as_of):
            await self._cache.set_if_newer(_key(upload.id), _encode(upload), upload.version, ttl=self._ttl)

    async def _fill(self, upload_id: str, began: float) -> Upload:
        async with self._database.reader() as tx:
            upload = await existing_upload(tx, upload_id)
        await self.remember(upload, as_of=began)
        return upload

    def _ended(self, upload_id: str, task: asyncio.Task[Upload]) -> None:
        if self._reading.get(upload_id, (0.0, None))[1] is task:
            del self._reading[upload_id]

    def _is_old(self, as_of: float) -> bool:
        return self._clock.monotonic() - as_of > FILL_TIME


def _key(upload_id: str) -> str:
    return f"upload:{upload_id}"


_PLAIN = ("id", "owner", "file_id", "filename", "content_type", "fingerprint", "reserved_bytes", "version")
_TIMES = ("created_at", *(timer.value for timer in Timer))


def _encode(upload: Upload) -> bytes:
    values: dict[str, Any] = {name: getattr(upload, name) for name in _PLAIN}
    for name in _TIMES:
        moment = getattr(upload, name)
        values[name] = None if moment is None else moment.isoformat()
    plan, address, expected = upload.plan, upload.address, upload.expected
    values["plan"] = [plan.part_size, plan.size, plan.max_parts]
    values["address"] = [address.bucket, address.key, address.storage_upload_id]
    values["state"], values["strategy"], values["reason"] = upload.state, upload.strategy, upload.reason
    values["metadata"] = dict(upload.metadata)
    values["checksum"] = _encode_checksum(upload.checksum)
    if expected is not None:
        values["expected"] = [expected.part_count, expected.size, _encode_checksum(expected.checksum)]
    return json.dumps(values, separators=(",", ":")).encode()


def _decode(encoded: bytes) -> Upload | None:
    """The upload; `None` if the bytes are damaged, or another version of this code wrote them in another way."""
    try:
        return _decoded(json.loads(encoded))
    except (ValueError, LookupError, TypeError, UploadCoreError):
        return None


def _decoded(values: dict[str, Any]) -> Upload:
    for name in _TIMES:
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    expected = values.get("expected")
    values["plan"] = PartPlan(*values["plan"])
    values["address"] = Address(*values["address"])
    values["state"], values["strategy"] = UploadState(values["state"]), Strategy(values["strategy"])
    values["reason"] = None if values["reason"] is None else Reason(values["reason"])
    values["metadata"] = MappingProxyType(values["metadata"])
    values["checksum"] = _decode_checksum(values["checksum"])
    if expected is not None:
        values["expected"] = Expected(expected[0], expected[1], _decode_checksum(expected[2]))
    return Upload(**values)


def _encode_checksum(checksum: Checksum | None) -> list[str] | None:
    return None if checksum is None else [checksum.algorithm, checksum.value]


def _decode_checksum(encoded: list[str] | None) -> Checksum | None:
    return None if encoded is None else Checksum(ChecksumAlgorithm(encoded[0]), encoded[1])
