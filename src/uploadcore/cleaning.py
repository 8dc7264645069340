"""How an upload ends without a file, and a file without its content: nothing of it is left at the store, looked at and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from uploadcore.errors import (
    DatabaseUnavailableError,
    NoSuchMultipartError,
    StoreUnavailableError,
    VersionConflictError,
)
from uploadcore.file import File
from uploadcore.freed import Freed
from uploadcore.recording import Recording
from uploadcore.upload import Address, Upload

__all__ = ["Cleaning", "Held"]

CLEANING_ROUNDS = 3
"""A part in flight during an abort can survive it; the abort is repeated until the store shows nothing (S3 API, AbortMultipartUpload)."""


@dataclass
class Held:
    """An upload whose lease is being renewed, until it `is_over`. `lock` is held while the renewal is under way."""

    upload: Upload
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_over: bool = False


class Cleaning(Recording):
    """What removes things from the store. Part of `UploadSteps`.

    Where an account is asked for (`freed`), what the store lists is counted before it goes, which costs a call more for each multipart upload.
    """

    async def clean(self, upload: Upload, freed: Freed | None = None) -> Upload:
        """Remove all that the store holds of an `aborting` upload whose lease we hold, look, and close it.

        Returns:
            The upload, closed; or still `aborting` where the store did not do it or did not answer: the sweeper goes on.

        Raises:
            VersionConflictError: Somebody else took over.
        """
        async with self._held(upload) as held:
            try:
                is_clean = await self.wipe(upload, freed)
            except StoreUnavailableError:
                is_clean = False
            except asyncio.CancelledError:
                with suppress(VersionConflictError, DatabaseUnavailableError):
                    async with held.lock:
                        await self.save(held.upload.lease_given_up())
                raise
            async with held.lock:
                if is_clean:
                    held.upload = await self._record_cleaned(held.upload)
                else:
                    held.upload = await self.save(held.upload.lease_given_up())
            return held.upload

    async def wipe(self, upload: Upload, freed: Freed | None = None) -> bool:
        """Make the store forget an upload and its object; whether it shows nothing of them any more.

        Raises:
            StoreUnavailableError: Not known.
        """
        for _ in range(CLEANING_ROUNDS):
            if upload.address.storage_upload_id is not None:
                await self.abort_multipart(upload.address, freed)
            for multipart in await self._multiparts(upload):
                await self.abort_multipart(multipart, freed)
            found = await self.store.head(upload.address)
            if found is not None:
                await self.store.delete(upload.address)
                if freed is not None:
                    freed.objects += 1
                    freed.bytes += found.size
            if not await self._multiparts(upload) and await self.store.head(upload.address) is None:
                return True
            freed = None  # counted once
        return False

    async def delete_content(self, file: File, freed: Freed | None = None) -> File:
        """Remove the content of a `deleting` file whose lease we hold, look, and record it.

        Raises:
            StoreUnavailableError: Not known; the sweeper goes on once the lease has run out.
            VersionConflictError: Somebody else took over.
        """
        if not await self.wipe(await self.read(file.upload_id), freed):
            raise StoreUnavailableError(f"the store still shows the content of file {file.id!r}", file_id=file.id)
        return await self._record_deleted(file)

    async def abort_multipart(self, address: Address, freed: Freed | None = None) -> None:
        """Abort one multipart upload.

        Raises:
            StoreUnavailableError: Not known.
        """
        if freed is not None:
            with suppress(StoreUnavailableError):  # what can't be counted is removed all the same
                freed.add(await self.held_by_multipart(address))
        await self.store.abort_multipart(address)

    async def held(self, upload: Upload) -> Freed:
        """What the store holds of an upload. Changes nothing.

        Raises:
            StoreUnavailableError: It does not answer.
        """
        held = Freed()
        if upload.address.storage_upload_id is not None:
            held.add(await self.held_by_multipart(upload.address))
        for multipart in await self._multiparts(upload):
            if multipart != upload.address:
                held.add(await self.held_by_multipart(multipart))
        found = await self.store.head(upload.address)
        if found is not None:
            held.objects += 1
            held.bytes += found.size
        return held

    async def held_by_multipart(self, address: Address) -> Freed:
        """What the store holds of one multipart upload; nothing, of one that was completed: its parts are the object's. Changes nothing.

        Raises:
            StoreUnavailableError: It does not answer.
        """
        with suppress(NoSuchMultipartError):
            parts = await self.store.list_parts(address)
            if self.store.capabilities.forgets_completed or await self.store.head(address) is None:
                return Freed(multiparts=1, parts=len(parts), bytes=sum(part.size for part in parts))
        return Freed()

    async def _multiparts(self, upload: Upload) -> list[Address]:
        """Multipart uploads under this upload's key: its own, and any that a late caller made."""
        key = upload.address.key
        return [
            replace(upload.address, storage_upload_id=multipart.storage_upload_id)
            async for multipart in self.store.list_multiparts(key)
            if multipart.key == key
        ]

    # --- the lease ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _held(self, upload: Upload) -> AsyncIterator[Held]:
        """Renew the lease until the block ends."""
        held = Held(upload)
        renewal = asyncio.create_task(self._renew(held))
        try:
            yield held
        finally:
            # Before anything is awaited: a renewal that waits for the lock renews nothing that was just given up.
            held.is_over = True
            try:
                async with held.lock:  # one that is being saved is not cut off
                    pass
            finally:  # also of a caller that is cancelled here: what went on being renewed would never be taken over
                renewal.cancel()
            await asyncio.wait([renewal])

    async def _renew(self, held: Held) -> None:
        began_as = held.upload.state
        while True:
            await self.clock.sleep(self.config.lease_renewal.total_seconds())
            async with held.lock:
                if held.is_over or held.upload.state is not began_as:
                    return
                try:
                    held.upload = await self.save(held.upload.lease_renewed(self.lease))
                except VersionConflictError:
                    return  # somebody took over: what we still do will not be saved
                except DatabaseUnavailableError:
                    continue
