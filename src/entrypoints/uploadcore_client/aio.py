"""The same client for code with an event loop: the blocking one, in a thread, cut when its task is cancelled."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from uploadcore.errors import UploadCoreError
from uploadcore.file import ChecksumAlgorithm
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.client import DEFAULT_URL, Client, silence
from uploadcore_client.progress import Progress, ProgressCallback
from uploadcore_client.wire import File, Upload

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """`Client` for code with an event loop. Every call runs in a thread; cancelling its task cuts it, and waits until it is cut.

    Args:
        url: Address of the service.
        options: As for `Client`.

    Example:
        async with AsyncClient("http://127.0.0.1:8484") as client:
            file = await client.upload("trip.mp4")
    """

    def __init__(self, url: str = DEFAULT_URL, **options: Any) -> None:
        self._client = Client(url, **options)

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._client.url

    async def upload(
        self,
        path: str | Path,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        title: str = "",
        metadata: Mapping[str, str] | None = None,
        part_size: int | None = None,
        file_id: str | None = None,
        checksum: ChecksumAlgorithm = ChecksumAlgorithm.CRC64NVME,
        progress: ProgressCallback = silence,
    ) -> File:
        """See `Client.upload`. `progress` is called in the event loop's thread."""
        return await self._cuttable(
            functools.partial(
                self._client.upload,
                path,
                filename=filename,
                content_type=content_type,
                title=title,
                metadata=metadata,
                part_size=part_size,
                file_id=file_id,
                checksum=checksum,
                progress=_in_loop(progress),
            )
        )

    async def resume(
        self, upload_id: str, path: str | Path | None = None, *, progress: ProgressCallback = silence
    ) -> File:
        """See `Client.resume`. `progress` is called in the event loop's thread."""
        return await self._cuttable(
            functools.partial(self._client.resume, upload_id, path, progress=_in_loop(progress))
        )

    async def download(
        self,
        file_id: str,
        target: str | Path | None = None,
        *,
        replace: bool = False,
        progress: ProgressCallback = silence,
    ) -> Path:
        """See `Client.download`. `progress` is called in the event loop's thread."""
        return await self._cuttable(
            functools.partial(self._client.download, file_id, target, replace=replace, progress=_in_loop(progress))
        )

    async def unfinished(self) -> list[tuple[str, Path]]:
        """See `Client.unfinished`."""
        return await asyncio.to_thread(self._client.unfinished)

    async def path_of(self, upload_id: str) -> Path | None:
        """See `Client.path_of`."""
        return await asyncio.to_thread(self._client.path_of, upload_id)

    async def uploads(self, *, state: str | None = None, limit: int | None = None) -> list[Upload]:
        """See `Client.uploads`."""
        return await asyncio.to_thread(self._client.uploads, state=state, limit=limit)

    async def get_upload(self, upload_id: str) -> Upload:
        """See `Client.get_upload`."""
        return await asyncio.to_thread(self._client.get_upload, upload_id)

    async def abort(self, upload_id: str) -> None:
        """See `Client.abort`."""
        await asyncio.to_thread(self._client.abort, upload_id)

    async def get_file(self, file_id: str) -> File:
        """See `Client.get_file`."""
        return await asyncio.to_thread(self._client.get_file, file_id)

    async def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @staticmethod
    async def _cuttable(call: Callable[..., T]) -> T:
        """Run a call in a thread; when the task is cancelled, cut it and wait for its end: its file must be closed by then."""
        cancellation = Cancellation()
        running = asyncio.ensure_future(asyncio.to_thread(call, cancellation=cancellation))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancellation.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                error = running.exception()
                if error is not None and not isinstance(error, UploadCoreError):
                    raise error from None
            raise


def _in_loop(progress: ProgressCallback) -> ProgressCallback:
    """The callback, called where its owner expects it."""
    if progress is silence:
        return silence
    loop = asyncio.get_running_loop()

    def handed_over(reading: Progress) -> None:
        loop.call_soon_threadsafe(progress, reading)

    return handed_over
