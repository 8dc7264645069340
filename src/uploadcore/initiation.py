"""How an upload begins: its plan frozen, its key chosen, its intent written before anything is done at the store.

An idempotency key makes one upload, however often the call is repeated and by however many at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import Any

from uploadcore.admission import NewUpload, admit
from uploadcore.config import UploadConfig
from uploadcore.errors import (
    FileNotReadyError,
    IdempotencyMismatchError,
    InvalidRequestError,
    UploadCoreError,
    VersionConflictError,
)
from uploadcore.file import File, FileStatus
from uploadcore.plan import PartPlan
from uploadcore.ports import (
    Admission,
    Clock,
    Database,
    IdempotencyRecord,
    IdFactory,
    ObjectStore,
    Transaction,
    UploadPolicy,
    UploadRequest,
)
from uploadcore.records import busy, owned_file
from uploadcore.states import UploadState
from uploadcore.steps import UploadSteps
from uploadcore.upload import Address, Strategy, Upload

__all__ = ["Initiation"]

_Recorded = tuple[IdempotencyRecord, Upload | None]
"""The record that stands under the key, and the upload if it was born with it."""


class Initiation:
    """Part of `UploadService`: everything of `initiate` but opening at the store."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        database: Database,
        steps: UploadSteps,
        policy: UploadPolicy,
        clock: Clock,
        ids: IdFactory,
        config: UploadConfig,
    ) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._steps = steps
        self._policy = policy
        self._clock = clock
        self._ids = ids
        self._config = config
        self._recording: dict[str, asyncio.Task[_Recorded]] = {}
        self._giving_up: set[asyncio.Task[None]] = set()

    async def recorded(self, asked: NewUpload, key: str | None) -> Upload:
        """Write the intent, or find the one an earlier call with this key has written. `pending` only if its lease is ours."""
        request = UploadRequest(
            owner=asked.owner, filename=asked.filename, size=asked.size, content_type=asked.content_type
        )
        limits = await self._policy.admit(request)
        upload = await self._planned(asked, admit(request, limits))
        record = IdempotencyRecord(owner=asked.owner, key=key or "", fingerprint=asked.digest(), upload_id=upload.id)
        # In a task of its own: of a caller who goes away as it is committed, it has to be known whether there is something to give up.
        recording = asyncio.create_task(self._record(asked, upload, limits, record))

        def ended(recording: asyncio.Task[_Recorded]) -> None:
            self._recording.pop(upload.id, None)
            if not recording.cancelled():
                recording.exception()  # told to the caller, if it is still there

        recording.add_done_callback(ended)
        try:
            standing, born = await asyncio.shield(recording)
        except asyncio.CancelledError:
            if recording.done() or upload.id in self._recording:
                self.caller_went_away(upload.id, key)
            else:
                recording.cancel()
            raise
        if born is not None:
            return born
        if standing.fingerprint != record.fingerprint:
            raise IdempotencyMismatchError(
                f"idempotency key {key!r} was used before with another request", upload_id=standing.upload_id
            )
        return await self.replayed(standing.upload_id)

    async def _record(
        self, asked: NewUpload, upload: Upload, limits: Admission, record: IdempotencyRecord
    ) -> _Recorded:
        began, recording = self._clock.monotonic(), asyncio.current_task()
        assert recording is not None
        async with self._database.transaction() as tx:
            standing = await self._claimed(tx, record)
            if standing.upload_id != upload.id:
                return standing, None
            born, file = await self._born(tx, asked, upload, limits)
            self._recording[upload.id] = recording  # from here on it may be committed, whoever goes away
        self._count(born)
        await self._steps.copies.files.remember(file, as_of=began)
        return standing, born

    def caller_went_away(self, upload_id: str, key: str | None) -> None:
        """Without a key nobody can come back to it: it is given up. In a task of its own, for who is cancelled may be so at each step."""
        if key is None:
            giving_up = asyncio.create_task(self._give_up(upload_id))
            self._giving_up.add(giving_up)
            giving_up.add_done_callback(self._giving_up.discard)

    async def _give_up(self, upload_id: str) -> None:
        if upload_id in self._recording:
            await asyncio.wait([self._recording[upload_id]])
        with suppress(UploadCoreError):  # it was not recorded; or else its deadline ends it
            while True:
                upload = await self._steps.read(upload_id)
                try:
                    await self._steps.save(upload.abort_requested(self._steps.lease))
                except VersionConflictError:
                    continue  # what the caller was about as it went away has been saved only now
                return

    async def close(self) -> None:
        """Wait for what was begun, and nobody waits for any more."""
        begun: set[asyncio.Task[Any]] = {*self._recording.values(), *self._giving_up}
        if begun:
            await asyncio.wait(begun)

    def _count(self, born: Upload) -> None:
        moves = self._steps.tally.moves
        moves[UploadState.PENDING] += 1
        if born.state is not UploadState.PENDING:
            moves[born.state] += 1

    async def _claimed(self, tx: Transaction, record: IdempotencyRecord) -> IdempotencyRecord:
        """The record that stands under the key; this one, if there is no key."""
        return await tx.idempotency.claim(record, kept=self._config.idempotency_kept) if record.key else record

    async def _born(self, tx: Transaction, asked: NewUpload, upload: Upload, limits: Admission) -> tuple[Upload, File]:
        """Charge the quota; write the upload and its file."""
        await tx.quotas.reserve(
            asked.owner,
            size=upload.reserved_bytes,
            max_uploads=limits.max_open_uploads,
            max_bytes=limits.max_bytes_in_flight,
        )
        file = await self._file_for(tx, asked, upload)
        upload = await tx.uploads.add(upload, lifetime=self._config.upload_lifetime, lease=self._config.lease)
        if upload.strategy is Strategy.SINGLE:
            upload = await tx.uploads.save(upload.opened(None))
        return upload, file

    async def _planned(self, asked: NewUpload, charge: int) -> Upload:
        """Freeze the plan and choose the key."""
        capabilities = self._store.capabilities
        if asked.checksum is not None and asked.checksum.algorithm not in capabilities.object_checksums:
            verifiable = ", ".join(sorted(capabilities.object_checksums)) or "none"
            raise InvalidRequestError(
                f"this store can't verify a {asked.checksum.algorithm} of the whole (it can: {verifiable}): "
                "leave it out here and give it on completion, to be recorded as the client's word"
            )
        if asked.size is None:
            plan = PartPlan.open(self._store.limits, part_size=asked.part_size)
        else:
            plan = PartPlan.declared(asked.size, self._store.limits, part_size=asked.part_size)
        is_single = plan.part_count == 1 and charge <= self._config.single_put_limit and capabilities.conditional_put
        upload_id = self._ids.new()
        owner_hash = hashlib.sha256(asked.owner.encode()).hexdigest()[:16]
        installation = await self._database.installation_id()
        return Upload(
            id=upload_id,
            owner=asked.owner,
            file_id=asked.file_id or self._ids.new(),
            filename=asked.filename,
            content_type=asked.content_type,
            plan=plan,
            strategy=Strategy.SINGLE if is_single else Strategy.MULTIPART,
            address=Address(
                bucket=self._store.bucket, key=f"{self._config.key_prefix}/{installation}/{owner_hash}/{upload_id}"
            ),
            metadata=asked.metadata,
            fingerprint=asked.fingerprint,
            checksum=asked.checksum,
            reserved_bytes=charge,
            lease_owner=self._steps.lease.owner,
        )

    @staticmethod
    async def _file_for(tx: Transaction, asked: NewUpload, upload: Upload) -> File:
        """A new file, born with its upload; or an existing one, which must be this owner's and alive."""
        if asked.file_id is None:
            return await tx.files.add(
                File(
                    id=upload.file_id,
                    owner=asked.owner,
                    name=asked.filename,
                    upload_id=upload.id,
                    content_type=asked.content_type,
                    address=upload.address,
                    title=asked.title,
                    metadata=asked.metadata,
                )
            )
        file = await owned_file(tx, asked.file_id, asked.owner)
        if file.status in {FileStatus.DELETING, FileStatus.DELETED}:
            raise FileNotReadyError(file_id=file.id, status=file.status)
        return file

    async def replayed(self, upload_id: str) -> Upload:
        """The upload somebody else is opening, once it is open; or `pending` and ours, once their lease has run out."""
        give_up_at = self._clock.monotonic() + self._config.opening_wait.total_seconds()
        delay = 0.05
        while True:
            upload = await self._steps.read(upload_id)
            if upload.state is not UploadState.PENDING:
                return upload
            try:
                return await self._steps.take_over(upload)
            except VersionConflictError:
                if self._clock.monotonic() >= give_up_at:
                    raise busy(upload) from None
            await self._clock.sleep(delay)
            delay = min(2 * delay, 1.0)
