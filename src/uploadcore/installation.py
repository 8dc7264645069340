"""Whose prefix this is: before anything is swept, the marker object under it is held against the database's installation id."""

from __future__ import annotations

from contextlib import suppress
from types import MappingProxyType

from uploadcore.config import UploadConfig
from uploadcore.errors import StorageFullError, StoreUnavailableError
from uploadcore.ports import Clock, Database, ObjectHeaders, ObjectStore
from uploadcore.upload import Address

__all__ = ["Installation"]

INSTALLATION_MARKER = "uploadcore-installation"
"""Metadata key of the object that says whose prefix this is."""


class Installation:
    """What is ours at the store."""

    def __init__(self, *, store: ObjectStore, database: Database, clock: Clock, config: UploadConfig) -> None:
        """Work on these ports."""
        self._store = store
        self._database = database
        self._clock = clock
        self._config = config
        self._prefix: str | None = None
        self._look_again = 0.0

    async def prefix(self, *, marks: bool = True) -> str:
        """What each key of ours begins with; as sure as a look at the marker is, which is taken as often as orphans are looked for.

        Args:
            marks: Write the marker where there is none yet.

        Raises:
            StoreUnavailableError: It does not answer; or the marker is another installation's, and nothing here is to be touched.
            DatabaseUnavailableError: It does not answer.
        """
        if self._prefix is None or self._clock.monotonic() >= self._look_again:
            self._prefix = None
            installation = await self._database.installation_id()
            prefix = f"{self._config.key_prefix}/{installation}/"
            is_marked = await self._is_marked(prefix, installation, marks=marks)
            if not is_marked:
                return prefix
            self._prefix = prefix
            self._look_again = self._clock.monotonic() + self._config.orphan_interval.total_seconds()
        return self._prefix

    async def _is_marked(self, prefix: str, installation: str, *, marks: bool) -> bool:
        marker = Address(self._store.bucket, f"{prefix}.installation")
        found = await self._store.head(marker)
        if found is None and marks:
            headers = ObjectHeaders("application/octet-stream", MappingProxyType({INSTALLATION_MARKER: installation}))
            with suppress(StorageFullError):  # a sweep makes room; the next one marks
                await self._store.put_marker(marker, headers)
            found = await self._store.head(marker)
        if found is None:
            return False
        named = found.metadata.get(INSTALLATION_MARKER)
        if named != installation:
            raise StoreUnavailableError(
                f"the marker {marker.key!r} names the installation {named!r}, and this database is of {installation!r}: nothing is swept. "
                "Look whether this service has the bucket and the database that belong together"
            )
        return True
