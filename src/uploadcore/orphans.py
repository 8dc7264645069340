"""Multipart uploads at the store that no row knows: found by listing, which is expensive, and aborted once older than any of ours can be."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import NamedTuple

from uploadcore.config import UploadConfig
from uploadcore.installation import Installation
from uploadcore.ports import Clock, Database, ObjectStore, OpenMultipart
from uploadcore.states import UploadState
from uploadcore.upload import Address, Upload

__all__ = ["Orphan", "Orphans"]

LOOKUP = 1_000
"""Storage keys looked up at a time, as many as one page of ListMultipartUploads shows (S3 API, MaxUploads)."""
LISTED_AT_ONCE = 10_000
"""Multipart uploads one pass lists; the next goes on where it stopped."""


class Orphan(NamedTuple):
    """A multipart upload that nobody knows.

    Attributes:
        since: When it was begun, by the store's clock.
    """

    address: Address
    since: datetime


class Orphans:
    """Looks for them, a bounded number at a time.

    An object is never one: who restores an older database has objects that no row knows, and they are files.
    """

    def __init__(
        self, *, store: ObjectStore, database: Database, installation: Installation, clock: Clock, config: UploadConfig
    ) -> None:
        """Work on these ports, under that installation's prefix."""
        self._store = store
        self._database = database
        self._installation = installation
        self._clock = clock
        self._config = config
        self._next_look = 0.0
        self._listing: AsyncGenerator[OpenMultipart | None, None] | None = None

    async def due(self) -> tuple[list[Orphan], bool]:
        """Those that are to be aborted now: none where it is not yet time to look. And whether there is more to list.

        Raises:
            StoreUnavailableError: It does not answer, or the prefix is another's. It is looked again from the beginning, in its time.
            DatabaseUnavailableError: Likewise.
        """
        if self._listing is None:
            if self._clock.monotonic() < self._next_look:
                return [], False
            # Instances that were started together do not list together.
            pause = self._config.orphan_interval.total_seconds() * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
            self._next_look = self._clock.monotonic() + pause
            self._listing = self._under(await self._installation.prefix())
        listing, self._listing = self._listing, None
        found, has_more = await self._among(listing, LISTED_AT_ONCE)
        if has_more:
            self._listing = listing
        return found, has_more

    async def all(self) -> list[Orphan]:
        """Every one there is now, for an account of them: changes nothing.

        Raises:
            StoreUnavailableError: The store does not answer, or the prefix is another's.
            DatabaseUnavailableError: The database does not answer.
        """
        found, _ = await self._among(self._under(await self._installation.prefix(marks=False)), None)
        return found

    async def close(self) -> None:
        """End a listing that was to go on."""
        if self._listing is not None:
            await self._listing.aclose()

    async def _under(self, prefix: str) -> AsyncGenerator[OpenMultipart | None, None]:
        """Those under our prefix; and nothing for each that is another's, where the store lists all of the bucket's: that takes time too."""
        async for multipart in self._store.list_multiparts(prefix if self._store.capabilities.list_by_prefix else ""):
            yield multipart if multipart.key.startswith(prefix) else None

    async def _among(
        self, listing: AsyncGenerator[OpenMultipart | None, None], most: int | None
    ) -> tuple[list[Orphan], bool]:
        """The orphans among the next `most` that are listed, and whether the listing goes on."""
        found: list[Orphan] = []
        page: list[OpenMultipart] = []
        listed = 0
        async for multipart in listing:
            listed += 1
            if multipart is not None and multipart.initiated < self._clock.now() - self._config.orphan_age:
                page.append(multipart)
            if len(page) == LOOKUP:
                found += await self._unknown(page)
                page = []
            if listed == most:
                return found + await self._unknown(page), True
        return found + await self._unknown(page), False

    async def _unknown(self, page: list[OpenMultipart]) -> list[Orphan]:
        if not page:
            return []
        async with self._database.reader(single=True) as tx:
            known = await tx.uploads.by_keys([multipart.key for multipart in page])
        return [
            Orphan(Address(self._store.bucket, multipart.key, multipart.storage_upload_id), multipart.initiated)
            for multipart in page
            if _is_orphan(multipart, known.get(multipart.key))
        ]


def _is_orphan(multipart: OpenMultipart, upload: Upload | None) -> bool:
    """Nobody's: no row has its key, or the row has another multipart upload and is not just being opened."""
    if upload is None:
        return True
    return upload.address.storage_upload_id != multipart.storage_upload_id and upload.state is not UploadState.PENDING
