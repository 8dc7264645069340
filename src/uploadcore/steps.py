"""The three things done at the store on behalf of an upload: open it, assemble it, clean up after it.

Each is run by whoever holds the upload's lease: the request that began it, or the sweeper that took it over. Each records its outcome
in one transaction, which is saved only if nobody took over meanwhile; what a late caller did at the store is then undone or harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from uploadcore.cleaning import Cleaning, Held
from uploadcore.errors import (
    ChecksumMismatchError,
    DatabaseUnavailableError,
    InvalidRequestError,
    NoSuchMultipartError,
    PartsMissingError,
    PartsRejectedError,
    StorageFullError,
    StoreOverloadedError,
    StoreUnavailableError,
    UploadCoreError,
    VersionConflictError,
)
from uploadcore.file import Checksum, File, VerifiedBy
from uploadcore.freed import Freed
from uploadcore.plan import PartLedger, StoredPart, digest_of
from uploadcore.ports import MARKER, ObjectHeaders, StoredObject
from uploadcore.recording import contradicts, expected_by_size, expected_of
from uploadcore.states import UploadState
from uploadcore.upload import Condition, Expected, Strategy, Timer, Transition, Upload

__all__ = ["UploadSteps", "object_headers"]

log = logging.getLogger(__name__)

LOOKS = 2
"""Listings that have to tell of other parts than were assembled before a file counts as damaged."""


def object_headers(upload: Upload) -> ObjectHeaders:
    """What the object carries: its type, and the marker that names its upload."""
    return ObjectHeaders(content_type=upload.content_type, metadata=MappingProxyType({MARKER: upload.id}))


class UploadSteps(Cleaning):
    """Effects on the store, and their outcome in the database."""

    async def listed(self, upload: Upload) -> list[StoredPart]:
        """The store's parts; of a single PUT, the object is the one part.

        Raises:
            NoSuchMultipartError: The store knows no such multipart upload.
            StoreUnavailableError: It did not answer.
        """
        if upload.strategy is Strategy.MULTIPART:
            return await self.store.list_parts(upload.address)
        found = await self.store.head(upload.address)
        return [] if found is None else [StoredPart(1, found.size, found.etag, found.checksum)]

    def expected_of_parts(self, upload: Upload, ledger: PartLedger, checksum: Checksum | None) -> Expected:
        """What the object of these parts must look like; and the parts themselves, where URLs may change them later and a listing may tell."""
        is_told = self.may_change(upload) and not self.store.capabilities.forgets_completed
        digest = digest_of(ledger.parts) if is_told else None
        return Expected(len(ledger.parts), ledger.size, checksum, digest)

    # --- open -----------------------------------------------------------------------------------------------------

    async def open(self, upload: Upload) -> Upload:
        """Make the multipart upload of a `pending` upload whose lease we hold.

        Raises:
            InvalidRequestError: The store refuses it for good; the upload is closed.
            StorageFullError: Likewise.
            StoreUnavailableError: Not known; the lease is given up, so that a retry can take over.
            VersionConflictError: Somebody else took over; what we made is aborted again.
        """
        async with self._held(upload) as held:
            try:
                storage_upload_id = await self._create(upload)
            except (StoreUnavailableError, asyncio.CancelledError):
                with suppress(VersionConflictError, DatabaseUnavailableError):
                    await self._advance(held, Upload.lease_given_up)
                raise
            except UploadCoreError:
                with suppress(VersionConflictError, DatabaseUnavailableError):
                    await self.clean(await self._advance(held, lambda upload: upload.opening_refused(self.lease)))
                raise
            async with held.lock:
                held.upload = await self._save_created(held.upload.opened(storage_upload_id))
            return held.upload

    async def reopen(self, upload: Upload) -> Upload:
        """Begin again what the store has lost.

        Raises:
            VersionConflictError: Somebody else was faster, or a first sighting is too young to count.
            StoreUnavailableError: Try again later.
        """
        storage_upload_id = await self._create(upload)
        return await self._save_created(
            upload.reopened(storage_upload_id, confirmed_after=self.config.lost_confirmation)
        )

    async def _create(self, upload: Upload) -> str | None:
        if upload.strategy is Strategy.SINGLE:
            return None
        return await self.store.create_multipart(upload.address, object_headers(upload))

    async def _save_created(self, transition: Transition) -> Upload:
        try:
            return await self.save(transition)
        except VersionConflictError:
            if transition.upload.address.storage_upload_id is not None:
                with suppress(StoreUnavailableError):
                    await self.store.abort_multipart(transition.upload.address)
            raise

    # --- assemble -------------------------------------------------------------------------------------------------

    async def assemble(self, upload: Upload, parts: Sequence[StoredPart] | None) -> Upload:
        """Bring a `completing` upload whose lease we hold as far as it gets.

        Args:
            upload: As saved by the fence, or by the take-over.
            parts: What to assemble, listed before the fence; `None` to look first (after a take-over).

        Returns:
            The upload `completed`, closed, reopened, or still `completing` where nothing could be settled now.

        Raises:
            PartsMissingError: The store refused the parts; the upload is `uploading` again.
            ChecksumMismatchError: The store found another checksum before assembling; likewise.
            StorageFullError: The store has no room to assemble it in; likewise.
            StoreOverloadedError: Too many wait for the store, and it was not told to; likewise.
            VersionConflictError: Somebody else took over.
        """
        async with self._held(upload) as held:
            try:
                return await self._assemble(held, parts)
            except StoreUnavailableError:
                if held.upload.state is not UploadState.COMPLETING:
                    raise
                return await self._advance(held, Upload.lease_given_up)
            except asyncio.CancelledError:
                if held.upload.state is UploadState.COMPLETING:
                    with suppress(VersionConflictError, DatabaseUnavailableError):
                        await self._advance(held, Upload.lease_given_up)
                raise

    async def _assemble(self, held: Held, parts: Sequence[StoredPart] | None) -> Upload:
        upload = held.upload
        is_multipart = upload.strategy is Strategy.MULTIPART
        is_first_try, is_last_try = parts is not None, False
        if parts is None:
            found = await self.store.head(upload.address)
            if found is not None:
                return await self._settle(held, found)
            if is_multipart and not self._may_complete_again(upload):
                return await self._advance(held, Upload.lease_given_up)
            is_last_try = upload.called_after(self.config.give_up_after)
            parts = await self._parts_to_assemble(held) if is_multipart else None
        known = is_multipart and parts is not None and await self._complete(held, parts, is_first_try=is_first_try)
        found = await self.store.head(upload.address)
        if found is not None:
            return await self._settle(held, found)
        if not known:
            return await self._lost(held)
        return await (self._give_up(held) if is_last_try else self._advance(held, Upload.seen_known))

    async def _complete(self, held: Held, parts: Sequence[StoredPart], *, is_first_try: bool) -> bool:
        """Call the store. `False` if it knows no such multipart upload; any other answer is for a look at the object to tell."""
        upload, expected = held.upload, expected_of(held.upload)
        checksum = self._verifiable(expected.checksum)
        try:
            await self.store.complete_multipart(upload.address, parts, size=expected.size, checksum=checksum)
        except NoSuchMultipartError:
            return False
        except StoreOverloadedError:
            if is_first_try:  # nothing is in doubt: no call was made, and none before it
                await self._advance(held, Upload.assembly_rejected)
            raise
        except StoreUnavailableError:
            log.info("upload %s: completion is in doubt, looking", upload.id, extra={"upload_id": upload.id})
        except StorageFullError as exc:
            if not is_first_try:  # a call before this one may have had room, and its effect may come yet
                raise StoreUnavailableError(exc.message, upload_id=upload.id) from exc
            await self._advance(held, Upload.assembly_rejected)
            raise
        except ChecksumMismatchError as exc:
            await self._advance(held, Upload.assembly_rejected)
            raise ChecksumMismatchError(
                f"the bytes of upload {upload.id!r} do not have the declared checksum", upload_id=upload.id
            ) from exc
        except PartsRejectedError as exc:
            await self._advance(held, Upload.assembly_rejected)
            raise PartsMissingError(
                upload_id=upload.id,
                missing=(),
                mismatched=(),
                message=f"the store refused the parts of upload {upload.id!r} ({exc.message}): list them, then complete again",
            ) from exc
        return True

    async def _parts_to_assemble(self, held: Held) -> Sequence[StoredPart] | None:
        """After a take-over: the parts as listed now, noted as what the store is told once more; `None` if it knows no such multipart upload.

        Those of the fence: others that were sent since, to an upload of unknown size, are left out. To go back to `uploading` for them would
        let what the call before may still bring about pass for the whole.
        """
        upload, fenced = held.upload, expected_of(held.upload)
        try:
            listed = await self.store.list_parts(upload.address)
        except NoSuchMultipartError:
            return None
        ledger = PartLedger(
            upload.plan, [part for part in listed if part.part_number <= fenced.part_count], size=upload.size
        )
        if not ledger.is_whole:
            await self._advance(held, Upload.assembly_rejected)
            raise PartsMissingError(upload_id=upload.id, missing=ledger.missing, mismatched=ledger.mismatched)
        expected = self.expected_of_parts(upload, ledger, fenced.checksum)
        after = timedelta(0) if self.store.capabilities.concurrent_complete else self.config.second_completion_after
        await self._advance(held, lambda upload: upload.completed_again(expected, self.lease, after=after))
        return ledger.parts

    async def _settle(self, held: Held, found: StoredObject) -> Upload:
        """Record what stands under the key: the whole, or something else."""
        if _is_whole(held.upload, found):
            async with held.lock:
                held.upload = await self._record_completed(held.upload, found)
        else:
            await self._advance(held, lambda upload: upload.integrity_failed(self.lease))
        if held.upload.state is UploadState.ABORTING:
            return await self.clean(held.upload)
        return held.upload

    async def _lost(self, held: Held) -> Upload:
        """Neither upload nor object: remember the first sighting, act on one that is old enough."""
        upload = held.upload
        if upload.lost_at is None:
            return await self._advance(held, Upload.seen_lost)
        if self.clock.now() < upload.lost_at + self.config.lost_confirmation:
            return await self._advance(held, Upload.lease_given_up)
        try:
            async with held.lock:
                held.upload = await self.reopen(held.upload)
        except (InvalidRequestError, StorageFullError):
            # Not to be opened again, or not now: its owner is told so at the next call, may abort it, and has until the deadline.
            confirmed = Condition(Timer.LOST, passed=True, margin=self.config.lost_confirmation)
            return await self._advance(held, lambda upload: upload.assembly_rejected().only_if(confirmed))
        log.warning(
            "upload %s: the store lost it; reopened, all parts missing", upload.id, extra={"upload_id": upload.id}
        )
        return held.upload

    async def _give_up(self, held: Held) -> Upload:
        """Make the store abort, then look: what stands then stands."""
        await self.store.abort_multipart(held.upload.address)
        found = await self.store.head(held.upload.address)
        if found is not None:
            return await self._settle(held, found)
        await self._advance(held, lambda upload: upload.gave_up(self.lease, after=self.config.give_up_after))
        return await self.clean(held.upload)

    def _may_complete_again(self, upload: Upload) -> bool:
        """Whether it is time, by this process's clock: the database compares again."""
        if self.store.capabilities.concurrent_complete:
            return True
        return self.clock.now() >= upload.last_called_at + self.config.second_completion_after

    def _verifiable(self, checksum: Checksum | None) -> Checksum | None:
        if checksum is None or checksum.algorithm not in self.store.capabilities.object_checksums:
            return None
        return checksum

    async def _advance(self, held: Held, verb: Callable[[Upload], Transition]) -> Upload:
        """Save what `verb` makes of the latest version held."""
        async with held.lock:
            held.upload = await self.save(verb(held.upload))
        return held.upload

    # --- expire, look again ---------------------------------------------------------------------------------------

    async def expire(self, upload: Upload, freed: Freed | None = None) -> Upload:
        """Close an upload whose deadline has passed, and remove what the store holds of it.

        But not a whole object that a multipart upload of ours became: that was completed, in a past which a database restored from an
        older copy does not remember. It is completed once more, however late.

        Raises:
            VersionConflictError: Somebody else was faster, or its deadline has not passed.
            StoreUnavailableError: Nothing is known, and nothing was changed.
        """
        expected = await self.found_whole(upload)
        if expected is None:
            return await self.clean(await self.save(upload.deadline_passed(self.lease)), freed)
        if upload.state is UploadState.PENDING:
            opening = upload.opened(upload.address.storage_upload_id)
            upload = await self.save(opening.only_if(Condition(Timer.DEADLINE, passed=True)))
        upload = await self.save(upload.found_assembled(expected, self.lease))
        log.warning("upload %s: its object stands; completed, not expired", upload.id, extra={"upload_id": upload.id})
        return await self.assemble(upload, None)

    async def found_whole(self, upload: Upload) -> Expected | None:
        """What stands under the key of a multipart upload, if it is the whole of it; else `None`.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        found = await self.store.head(upload.address) if upload.strategy is Strategy.MULTIPART else None
        if found is None:
            return None
        expected = expected_by_size(upload, found.size)
        return expected if _is_whole(replace(upload, expected=expected), found) else None

    async def stands(self, upload: Upload, file: File) -> bool:
        """Whether the content of a file is still what was completed, as far as the store tells: size, marker, checksum and parts.

        Only where the store takes parts of a completed upload is it asked: elsewhere nothing can have changed.

        Raises:
            StoreUnavailableError: It does not answer.
        """
        if not self.may_change(upload):
            return True
        found = await self.store.head(upload.address)
        if found is None:
            # A bodiless 404 may be the bucket's, or a proxy's: a listing names the bucket, and fails where that is not there.
            await self._multiparts(upload)
            found = await self.store.head(upload.address)
        if found is None or found.size != file.size or found.metadata.get(MARKER) != upload.id:
            return False
        if file.verified_by is VerifiedBy.STORE and contradicts(file.checksum, found.checksum):
            return False
        return await self._parts_stand(upload)

    async def _parts_stand(self, upload: Upload) -> bool:
        """Whether the parts are those that were assembled, where they are still listed: the object may be shown as it was, and be read no more.

        A listing without some of them tells nothing, for no URL removes a part; and one that tells of others is made again: it may be an old one.
        """
        expected = expected_of(upload)
        if expected.parts_digest is None:
            return True
        for _ in range(LOOKS):
            try:
                listed = await self.store.list_parts(upload.address)
            except NoSuchMultipartError:
                return True
            parts = [part for part in listed if part.part_number <= expected.part_count]
            if len(parts) < expected.part_count or digest_of(parts) == expected.parts_digest:
                return True
        return False


def _is_whole(upload: Upload, found: StoredObject) -> bool:
    """Size and marker decide; and the checksum, where the store tells one of the declared kind."""
    expected = expected_of(upload)
    if found.size != expected.size or found.metadata.get(MARKER) != upload.id:
        return False
    return not contradicts(expected.checksum, found.checksum)
