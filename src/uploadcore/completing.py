"""How an upload ends well: held to be whole, fenced, assembled in a task of its own that all callers wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from uploadcore.config import UploadConfig
from uploadcore.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    NoSuchMultipartError,
    PartsMissingError,
    TooLargeError,
    VersionConflictError,
)
from uploadcore.file import Checksum
from uploadcore.plan import PartLedger, StoredPart
from uploadcore.ports import Clock, ObjectStore, StoredObject
from uploadcore.recording import contradicts, expected_by_size
from uploadcore.states import UploadState
from uploadcore.steps import UploadSteps
from uploadcore.upload import Expected, Strategy, Upload

__all__ = ["Completing"]


class Completing:
    """Part of `UploadService`: the pieces of `complete`, and the assemblies under way in this process."""

    def __init__(self, *, store: ObjectStore, steps: UploadSteps, clock: Clock, config: UploadConfig) -> None:
        """Work on these ports."""
        self._store = store
        self._steps = steps
        self._clock = clock
        self._config = config
        self._fencing: set[asyncio.Task[Upload]] = set()
        self._assembling: dict[str, asyncio.Task[Upload]] = {}

    async def whole(
        self, upload: Upload, size: int | None, checksum: Checksum | None
    ) -> tuple[Expected, Sequence[StoredPart] | None]:
        """What the object must look like, and its parts; `None` where the store has assembled something already.

        Raises:
            PartsMissingError: It is not whole.
            VersionConflictError: Somebody else changed the upload.
        """
        declared = upload.plan.size
        if size is not None and size != declared and (declared is not None or size < 0):
            said = "of unknown size" if declared is None else f"{declared} bytes"
            raise InvalidRequestError(f"upload {upload.id!r} was declared as {said}, not {size}", upload_id=upload.id)
        if checksum is not None and upload.checksum is not None and checksum != upload.checksum:
            raise ChecksumMismatchError("the checksum is not the one declared when initiating", upload_id=upload.id)
        checksum = checksum or upload.checksum
        try:
            listed = await self._steps.listed(upload)
        except NoSuchMultipartError:
            found = await self._store.head(upload.address)
            if found is not None and size is not None and size != found.size:
                raise InvalidRequestError(
                    f"upload {upload.id!r} was assembled before, of {found.size} bytes, not {size}", upload_id=upload.id
                ) from None
            if found is not None:
                _check_word(upload, checksum, found)
                return replace(expected_by_size(upload, found.size), checksum=checksum), None
            upload, listed = await self._steps.reopen(upload), []
        ledger = PartLedger(upload.plan, listed, size=size)
        if not ledger.is_whole:
            raise PartsMissingError(upload_id=upload.id, missing=ledger.missing, mismatched=ledger.mismatched)
        if declared is None and ledger.size > min(upload.reserved_bytes, self._store.limits.max_object_size):
            raise TooLargeError(
                f"upload {upload.id!r} has grown to {ledger.size} bytes, more than the {upload.reserved_bytes} admitted",
                upload_id=upload.id,
            )
        if upload.strategy is Strategy.SINGLE:
            _check_word(upload, checksum, ledger.parts[0])
        elif checksum is not None and not self._store.capabilities.forgets_completed:
            # Parts are listed of what stands already, too.
            _check_word(upload, checksum, await self._store.head(upload.address))
        return self._steps.expected_of_parts(upload, ledger, checksum), ledger.parts

    async def expire(self, upload: Upload) -> None:
        """A fence that was not saved: because of the deadline, if nothing else; then close the upload."""
        with suppress(VersionConflictError):
            await self._steps.expire(upload)

    async def begin(self, upload: Upload, expected: Expected, parts: Sequence[StoredPart] | None) -> Upload:
        """Fence it, and assemble it in a task of its own. Both outlive the caller: there is no fence without somebody at work.

        Raises:
            VersionConflictError: Somebody else changed the upload, or its deadline has passed.
            DatabaseUnavailableError: Not known whether it was fenced.
        """
        fencing = asyncio.create_task(self._fence(upload, expected, parts))
        self._fencing.add(fencing)

        def ended(fencing: asyncio.Task[Upload]) -> None:
            self._fencing.discard(fencing)
            if not fencing.cancelled():
                fencing.exception()  # told to the caller, if it is still there

        fencing.add_done_callback(ended)
        return await asyncio.shield(fencing)

    async def _fence(self, upload: Upload, expected: Expected, parts: Sequence[StoredPart] | None) -> Upload:
        fenced = await self._steps.save(upload.fenced(expected, self._steps.lease))
        self._start(fenced, parts)
        return fenced

    def _start(self, upload: Upload, parts: Sequence[StoredPart] | None) -> None:
        task = asyncio.create_task(self._steps.assemble(upload, parts))
        self._assembling[upload.id] = task

        def ended(task: asyncio.Task[Upload]) -> None:
            if self._assembling.get(upload.id) is task:
                del self._assembling[upload.id]
            if not task.cancelled():
                task.exception()  # told to the callers that wait; the sweeper looks again where none does

        task.add_done_callback(ended)

    async def settled(self, upload: Upload) -> Upload:
        """The upload once it is no longer `completing`, or as it is after 20 s."""
        wait = self._config.completion_wait.total_seconds()
        task = self._assembling.get(upload.id)
        if task is not None:
            sleeper = asyncio.ensure_future(self._clock.sleep(wait))
            try:
                await asyncio.wait({task, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeper.cancel()
            if not task.done() or task.cancelled():
                return upload
            with suppress(VersionConflictError):
                return task.result()
            return await self._steps.read(upload.id)
        give_up_at = self._clock.monotonic() + wait
        delay = 0.05
        while upload.state is UploadState.COMPLETING and self._clock.monotonic() < give_up_at:
            await self._clock.sleep(delay)
            delay = min(2 * delay, 1.0)
            upload = await self._steps.read(upload.id)
        return upload

    async def close(self) -> None:
        """Stop assembling; leases are given up, so that another process goes on at once."""
        if self._fencing:
            await asyncio.wait(self._fencing)
        tasks = list(self._assembling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_word(upload: Upload, checksum: Checksum | None, found: StoredObject | StoredPart | None) -> None:
    """Hold a caller's word against what stands already, before anything is begun that would end with its removal.

    Raises:
        ChecksumMismatchError: The store says otherwise.
    """
    if found is not None and contradicts(checksum, found.checksum):
        raise ChecksumMismatchError(f"the bytes of upload {upload.id!r} do not have that checksum", upload_id=upload.id)
