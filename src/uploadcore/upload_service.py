"""The use cases of a request: uploads.

Every method takes the `owner` on whose behalf it acts; another owner's upload is as unknown as one that never was, and costs no call to
the store. Addresses come from the upload's record, never from the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType

from uploadcore.admission import MAX_FINGERPRINT, MAX_IDEMPOTENCY_KEY, MAX_SIGN, NewUpload, check_text
from uploadcore.completing import Completing
from uploadcore.config import UploadConfig
from uploadcore.errors import (
    ChecksumMismatchError,
    InvalidRequestError,
    NoSuchMultipartError,
    PartOutOfRangeError,
    PartsMissingError,
    StoreUnavailableError,
    UploadBusyError,
    UploadClosedError,
    UploadCoreError,
    UploadNotFoundError,
    VersionConflictError,
)
from uploadcore.file import Checksum, FileView
from uploadcore.initiation import Initiation
from uploadcore.paging import cursor_after, page_start
from uploadcore.plan import Part, PartLedger
from uploadcore.ports import (
    Clock,
    Database,
    IdFactory,
    ObjectStore,
    UploadPolicy,
)
from uploadcore.recording import contradicts, expected_of
from uploadcore.records import busy, closed, existing_file, underway
from uploadcore.states import UploadState
from uploadcore.steps import UploadSteps, object_headers
from uploadcore.upload import Reason, Strategy, Upload
from uploadcore.views import Completion, SignedPart, UploadPage, UploadParts, UploadView

__all__ = ["UploadService"]

ATTEMPTS = 5
"""How often a call starts over because somebody else changed the upload, before it answers `upload_busy`."""
NO_CHECKSUMS: Mapping[int, Checksum] = MappingProxyType({})
NO_LENGTHS: Mapping[int, int] = MappingProxyType({})
NO_METADATA: Mapping[str, str] = MappingProxyType({})


class UploadService:
    """Initiate, sign, list, complete, abort. Made by `UploadCore`; use it as `core.uploads`."""

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
        self._cached = steps.copies.uploads
        self._clock = clock
        self._config = config
        self._initiation = Initiation(
            store=store, database=database, steps=steps, policy=policy, clock=clock, ids=ids, config=config
        )
        self._completing = Completing(store=store, steps=steps, clock=clock, config=config)

    # --- initiate -------------------------------------------------------------------------------------------------

    async def initiate(
        self,
        *,
        owner: str,
        filename: str,
        size: int | None,
        content_type: str = "application/octet-stream",
        file_id: str | None = None,
        title: str = "",
        metadata: Mapping[str, str] = NO_METADATA,
        fingerprint: str | None = None,
        checksum: Checksum | None = None,
        part_size: int | None = None,
        sign: int = 0,
        idempotency_key: str | None = None,
    ) -> UploadView:
        """Begin an upload: freeze its plan, record it, open it at the store.

        Args:
            owner: Who it belongs to.
            filename: Metadata only: it is no part of the storage key. Up to 1,024 bytes.
            size: Bytes; `None` if not known yet.
            content_type: What the file is served as.
            file_id: An existing file that gets a new version; without it a new file is born.
            title: Of a new file.
            metadata: Up to 2 KB of text values kept with the upload and the file.
            fingerprint: Any text by which the client finds this upload again.
            checksum: Of the whole, which the store is to verify.
            part_size: Bytes per part, instead of the plan's own choice.
            sign: How many parts, from the first, to sign with the answer; up to 1,000.
            idempotency_key: A repeated call with the same key and request returns the same upload.

        Raises:
            InvalidRequestError: A value can't be used.
            TooLargeError: The size is above the limit or the store's maximum.
            ContentTypeNotAllowedError: Not an accepted type.
            QuotaExceededError: The owner has too much open.
            NoSuchFileError: `file_id` is not a file of this owner.
            FileNotReadyError: That file is deleted.
            IdempotencyMismatchError: The key was used with another request.
            UploadBusyError: Another call, or a sweeper, is still opening it.
            StoreUnavailableError: The store did not open it; try again, with the same key.

        Example:
            >>> import asyncio
            >>> from uploadcore import UploadCore
            >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
            >>> async def main():
            ...     async with UploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
            ...         upload = await core.uploads.initiate(owner="u_1", filename="trip.mp4", size=9_663_676_416)
            ...         return upload.state, upload.part_size, upload.part_count
            >>> asyncio.run(main())
            (<UploadState.UPLOADING: 'uploading'>, 10485760, 922)
        """
        if not 0 <= sign <= MAX_SIGN:
            raise InvalidRequestError(f"sign is 0 to {MAX_SIGN} parts, not {sign}")
        if idempotency_key is not None:
            check_text("idempotency_key", idempotency_key, MAX_IDEMPOTENCY_KEY)
        asked = NewUpload(
            owner=owner,
            filename=filename,
            size=size,
            content_type=content_type,
            file_id=file_id,
            title=title,
            metadata=MappingProxyType(dict(metadata)),
            fingerprint=fingerprint,
            checksum=checksum,
            part_size=part_size,
        )
        upload = await self._initiation.recorded(asked, idempotency_key)
        parts: tuple[SignedPart, ...] = ()
        try:
            upload = await self._opened(upload)
            if sign and upload.state is UploadState.UPLOADING and self._url_life(upload) > timedelta(0):
                count = upload.plan.part_count or upload.plan.max_parts
                parts = await self._signed(upload, range(1, min(sign, count) + 1), NO_CHECKSUMS, NO_LENGTHS)
        except asyncio.CancelledError:
            self._initiation.caller_went_away(upload.id, idempotency_key)
            raise
        except StoreUnavailableError as exc:
            if idempotency_key is None:  # nobody can come back to it
                with suppress(UploadCoreError):
                    await self.abort(upload.id, owner=upload.owner)
                raise
            raise type(exc)(f"{exc.message}; try again with the same idempotency key") from exc
        return UploadView.of(upload, parts)

    async def _opened(self, upload: Upload) -> Upload:
        """Open it, if it is `pending` under a lease of ours; wait for whoever took over, if we were too slow."""
        while upload.state is UploadState.PENDING:
            try:
                upload = await self._steps.open(upload)
            except VersionConflictError:
                upload = await self._initiation.replayed(upload.id)
        return upload

    # --- read -----------------------------------------------------------------------------------------------------

    async def get(self, upload_id: str, *, owner: str) -> UploadView:
        """One upload, as the database has it.

        Raises:
            UploadNotFoundError: Unknown, or another owner's.
        """
        return UploadView.of(await self._owned(upload_id, owner))

    async def find(
        self,
        *,
        owner: str,
        state: UploadState | None = None,
        fingerprint: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> UploadPage:
        """An owner's uploads, newest first.

        Args:
            owner: Whose.
            state: Only those in this state.
            fingerprint: Only those initiated with this fingerprint.
            cursor: `next` of the page before.
            limit: Uploads on a page, 1 to 1,000.

        Raises:
            InvalidRequestError: The fingerprint, the cursor or the limit can't be used.
        """
        before = page_start(cursor, limit)
        if fingerprint is not None:
            check_text("fingerprint", fingerprint, MAX_FINGERPRINT)
        async with self._database.reader(single=True) as tx:
            found = await tx.uploads.find(
                owner=owner, state=state, fingerprint=fingerprint, before=before, limit=limit + 1
            )
        page = tuple(UploadView.of(upload) for upload in found[:limit])
        return UploadPage(page, cursor_after(page[-1].created_at, page[-1].id) if len(found) > limit else None)

    async def list_parts(self, upload_id: str, *, owner: str) -> UploadParts:
        """What the store has of an upload, held against its plan. The store is the truth; a client's memory is a hint.

        Raises:
            UploadNotFoundError: Unknown, or another owner's.
            UploadBusyError: It is just being opened.
            UploadClosedError: It is closing or closed.
            StoreUnavailableError: The store did not answer.
        """
        upload = underway(await self._owned(upload_id, owner))
        try:
            parts = await self._steps.listed(upload)
        except NoSuchMultipartError:
            # Completed by another just now, closed, or lost; what it is, `complete` finds out. For now nothing is listed.
            upload, parts = underway(await self._owned(upload_id, owner)), []
        return UploadParts(UploadView.of(upload), PartLedger(upload.plan, parts, size=upload.size))

    # --- sign -----------------------------------------------------------------------------------------------------

    async def sign_parts(
        self,
        upload_id: str,
        *,
        owner: str,
        part_numbers: Iterable[int],
        checksums: Mapping[int, Checksum] = NO_CHECKSUMS,
        lengths: Mapping[int, int] = NO_LENGTHS,
    ) -> tuple[SignedPart, ...]:
        """Sign one request per part. The hot path: one read of the upload (a copy up to 5 s old), no write, no call to the store.

        Args:
            upload_id: Which upload.
            owner: On whose behalf.
            part_numbers: 1 to 1,000 of them, each once.
            checksums: By part number: what the store is to verify the part against.
            lengths: By part number, for uploads of unknown size only: bytes of that part.

        Raises:
            UploadNotFoundError: Unknown, or another owner's.
            PartOutOfRangeError: A number or length does not fit the plan.
            InvalidRequestError: None, too many or repeated numbers, or a checksum the store can't verify.
            UploadBusyError: It is being opened or completed.
            UploadClosedError: It has ended, is ending, or its deadline has passed.
        """
        upload = await self._cached.get(upload_id)
        if upload is None or upload.owner != owner:
            raise UploadNotFoundError(upload_id=upload_id)
        if upload.state is not UploadState.UPLOADING or self._url_life(upload) <= timedelta(0):
            upload = await self._owned(upload_id, owner)  # a copy does not refuse
        if underway(upload).state is UploadState.COMPLETING:
            raise busy(upload)
        return await self._signed(upload, part_numbers, checksums, lengths)

    async def _signed(
        self, upload: Upload, part_numbers: Iterable[int], checksums: Mapping[int, Checksum], lengths: Mapping[int, int]
    ) -> tuple[SignedPart, ...]:
        numbers = list(part_numbers)
        if not 1 <= len(numbers) <= MAX_SIGN or len(set(numbers)) != len(numbers):
            raise InvalidRequestError(f"ask for 1 to {MAX_SIGN} different part numbers", upload_id=upload.id)
        parts = upload.plan.parts(numbers)
        if lengths:
            parts = [self._with_length(upload, part, lengths) for part in parts]
        for checksum in checksums.values():
            if checksum.algorithm not in self._store.capabilities.part_checksums:
                raise InvalidRequestError(
                    f"this store can't verify a {checksum.algorithm} of a part", upload_id=upload.id
                )
        left = self._url_life(upload)
        if left <= timedelta(0):
            raise UploadClosedError(upload_id=upload.id, state=upload.state, reason=Reason.EXPIRED)
        if upload.strategy is Strategy.SINGLE:
            bound = checksums.get(1) or self._of_part(upload.checksum)
            signed = [
                await self._store.presign_put(
                    upload.address, parts[0], object_headers(upload), checksum=bound, expires_in=left
                )
            ]
        else:
            signed = await self._store.presign_parts(upload.address, parts, checksums=checksums, expires_in=left)
        return tuple([SignedPart(*part, request) for part, request in zip(parts, signed, strict=True)])

    def _url_life(self, upload: Upload) -> timedelta:
        """How long a URL signed now may live: never beyond the deadline."""
        assert upload.expires_at is not None, "set when it was recorded"
        return min(self._config.url_lifetime, upload.expires_at - self._clock.now())

    def _of_part(self, declared: Checksum | None) -> Checksum | None:
        """The checksum declared for the whole, where its only part can be refused by it: the object, once there, can't be replaced."""
        if declared is None or declared.algorithm not in self._store.capabilities.part_checksums:
            return None
        return declared

    def _with_length(self, upload: Upload, part: Part, lengths: Mapping[int, int]) -> Part:
        length = lengths.get(part.part_number, part.length)
        if upload.plan.size is not None and length != part.length:
            raise PartOutOfRangeError(
                f"part {part.part_number} is {part.length} bytes by the plan, not {length}", upload_id=upload.id
            )
        if length is not None and not 0 <= length <= self._store.limits.max_part_size:
            raise PartOutOfRangeError(f"part {part.part_number} can't be {length} bytes long", upload_id=upload.id)
        return part._replace(length=length)

    # --- complete -------------------------------------------------------------------------------------------------

    async def complete(
        self, upload_id: str, *, owner: str, size: int | None = None, checksum: Checksum | None = None
    ) -> Completion:
        """Assemble the whole, once, however often and by however many this is called; all get the same answer.

        Waits up to 20 s for the store. Work goes on when the caller goes away.

        Args:
            upload_id: Which upload.
            owner: On whose behalf.
            size: Bytes of the whole: for an upload of unknown size, checked against what arrived.
            checksum: Of the whole; verified where the store can, else recorded as the client's word.

        Returns:
            The completed upload and its file; or `file=None` while the store still assembles.

        Raises:
            UploadNotFoundError: Unknown, or another owner's.
            InvalidRequestError: It was declared, or assembled already, as of another size.
            PartsMissingError: Parts are missing or not as planned; the upload stays as it is.
            ChecksumMismatchError: The bytes do not have that checksum; the upload stays as it is.
            TooLargeError: An upload of unknown size turned out larger than admitted.
            StorageFullError: The store has no room to assemble it in; the upload stays as it is.
            UploadBusyError: It is just being opened.
            UploadClosedError: It was aborted, has expired or failed.
            StoreUnavailableError: The store did not answer, or too many wait for it; nothing was changed.
        """
        for _ in range(ATTEMPTS):
            upload = await self._owned(upload_id, owner)
            if upload.state is UploadState.COMPLETED:
                if size is not None and size != upload.size:
                    raise InvalidRequestError(
                        f"upload {upload_id!r} was completed with {upload.size} bytes, not {size}", upload_id=upload_id
                    )
                return await self._completion(upload, checksum)
            if underway(upload).state is UploadState.UPLOADING:
                try:
                    expected, parts = await self._completing.whole(upload, size, checksum)
                    upload = await self._completing.begin(upload, expected, parts)
                except PartsMissingError:
                    if (await self._owned(upload_id, owner)).version == upload.version:
                        raise
                    continue  # closed, completed or reopened while we looked: that is the answer, not what it left at the store
                except VersionConflictError:
                    await self._completing.expire(upload)
                    continue
            upload = await self._completing.settled(upload)
            if upload.state is UploadState.COMPLETING:
                return Completion(UploadView.of(upload), None)
        raise UploadBusyError(f"upload {upload_id!r} keeps changing; try again", upload_id=upload_id)

    async def _completion(self, upload: Upload, checksum: Checksum | None) -> Completion:
        async with self._database.reader(single=True) as tx:
            file = await existing_file(tx, upload.file_id)
        known = [upload.checksum, expected_of(upload).checksum]
        if file.upload_id == upload.id:
            known.append(file.checksum)
        if any(contradicts(checksum, one) for one in known):
            raise ChecksumMismatchError(
                f"upload {upload.id!r} was completed with bytes of another checksum", upload_id=upload.id
            )
        return Completion(UploadView.of(upload), FileView.of(file))

    # --- abort ----------------------------------------------------------------------------------------------------

    async def abort(self, upload_id: str, *, owner: str) -> UploadView:
        """Give an upload up. Recorded at once; what the store does not clean now, the sweeper cleans later.

        Raises:
            UploadNotFoundError: Unknown, or another owner's.
            UploadBusyError: It is being completed: that goes forward.
            UploadClosedError: It is completed.
        """
        for _ in range(ATTEMPTS):
            upload = await self._owned(upload_id, owner)
            if upload.state is UploadState.COMPLETED:
                raise closed(upload)
            if upload.state is UploadState.COMPLETING:
                raise busy(upload)
            if upload.state not in {UploadState.PENDING, UploadState.UPLOADING}:
                return UploadView.of(upload)
            try:
                upload = await self._steps.save(upload.abort_requested(self._steps.lease))
                upload = await self._steps.clean(upload)
            except VersionConflictError:
                continue
            return UploadView.of(upload)
        raise UploadBusyError(f"upload {upload_id!r} keeps changing; try again", upload_id=upload_id)

    # --- the rest -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop assembling; leases are given up, so that another process goes on at once."""
        await self._initiation.close()
        await self._completing.close()

    async def _owned(self, upload_id: str, owner: str) -> Upload:
        upload = await self._steps.read(upload_id)
        if upload.owner != owner:
            raise UploadNotFoundError(upload_id=upload_id)
        return upload
