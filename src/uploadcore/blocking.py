"""The same for code without an event loop: Django views, scripts, threads.

One event loop in one daemon thread per process runs every call: started on first use, started again after a fork (the child has no
threads of its parent's), joined at exit. Calls may come from any thread, at once.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from uploadcore.config import UploadConfig
from uploadcore.core import UploadCore
from uploadcore.event_service import EventService
from uploadcore.file import Checksum, FileStatus, FileView, Visibility
from uploadcore.file_service import FileService
from uploadcore.ports import (
    Backlog,
    Cache,
    Clock,
    Database,
    DeadLetter,
    EventPublisher,
    IdFactory,
    ObjectStore,
    SignedRequest,
    UploadPolicy,
)
from uploadcore.relay import RelayReport
from uploadcore.states import UploadState
from uploadcore.upload_service import NO_CHECKSUMS, NO_LENGTHS, NO_METADATA, UploadService
from uploadcore.views import Completion, FilePage, SignedPart, SweepReport, UploadPage, UploadParts, UploadView

__all__ = ["BlockingEventService", "BlockingFileService", "BlockingUploadCore", "BlockingUploadService"]

T = TypeVar("T")


class _LoopThread:
    """The event loop of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop, from any thread but the loop's own; wait for the result."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call inside the event loop would wait for itself: use the async UploadCore")
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread: let the call go
            raise

    def stop(self) -> None:
        """End the thread and the loop; the next call starts another."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def forget(self) -> None:
        """After a fork: the thread is not there any more, and its loop is the parent's."""
        self.__init__()  # type: ignore[misc]

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
                self._loop = runner.get_loop()
                self._thread = threading.Thread(target=_serve, args=(runner,), name="uploadcore", daemon=True)
                self._thread.start()
            return self._loop


def _serve(runner: asyncio.Runner) -> None:
    """Run the loop until it is stopped; then cancel what is left, so that leases are given up."""
    with runner:
        runner.get_loop().run_forever()


_thread = _LoopThread()
atexit.register(_thread.stop)
os.register_at_fork(after_in_child=_thread.forget)


class BlockingUploadService:
    """`UploadService`, blocking. Made by `BlockingUploadCore`."""

    def __init__(self, service: UploadService) -> None:
        """Wrap a service."""
        self._service = service

    def initiate(
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
        """See `UploadService.initiate`."""
        return _thread.run(
            self._service.initiate(
                owner=owner,
                filename=filename,
                size=size,
                content_type=content_type,
                file_id=file_id,
                title=title,
                metadata=metadata,
                fingerprint=fingerprint,
                checksum=checksum,
                part_size=part_size,
                sign=sign,
                idempotency_key=idempotency_key,
            )
        )

    def get(self, upload_id: str, *, owner: str) -> UploadView:
        """See `UploadService.get`."""
        return _thread.run(self._service.get(upload_id, owner=owner))

    def find(
        self,
        *,
        owner: str,
        state: UploadState | None = None,
        fingerprint: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> UploadPage:
        """See `UploadService.find`."""
        return _thread.run(
            self._service.find(owner=owner, state=state, fingerprint=fingerprint, cursor=cursor, limit=limit)
        )

    def list_parts(self, upload_id: str, *, owner: str) -> UploadParts:
        """See `UploadService.list_parts`."""
        return _thread.run(self._service.list_parts(upload_id, owner=owner))

    def sign_parts(
        self,
        upload_id: str,
        *,
        owner: str,
        part_numbers: Iterable[int],
        checksums: Mapping[int, Checksum] = NO_CHECKSUMS,
        lengths: Mapping[int, int] = NO_LENGTHS,
    ) -> tuple[SignedPart, ...]:
        """See `UploadService.sign_parts`."""
        return _thread.run(
            self._service.sign_parts(
                upload_id, owner=owner, part_numbers=part_numbers, checksums=checksums, lengths=lengths
            )
        )

    def complete(
        self, upload_id: str, *, owner: str, size: int | None = None, checksum: Checksum | None = None
    ) -> Completion:
        """See `UploadService.complete`."""
        return _thread.run(self._service.complete(upload_id, owner=owner, size=size, checksum=checksum))

    def abort(self, upload_id: str, *, owner: str) -> UploadView:
        """See `UploadService.abort`."""
        return _thread.run(self._service.abort(upload_id, owner=owner))


class BlockingFileService:
    """`FileService`, blocking. Made by `BlockingUploadCore`."""

    def __init__(self, service: FileService) -> None:
        """Wrap a service."""
        self._service = service

    def get(self, file_id: str, *, owner: str | None) -> FileView:
        """See `FileService.get`."""
        return _thread.run(self._service.get(file_id, owner=owner))

    def find(
        self,
        *,
        owner: str,
        status: FileStatus | None = None,
        label: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> FilePage:
        """See `FileService.find`."""
        return _thread.run(self._service.find(owner=owner, status=status, label=label, cursor=cursor, limit=limit))

    def content(self, file_id: str, *, owner: str | None) -> SignedRequest:
        """See `FileService.content`."""
        return _thread.run(self._service.content(file_id, owner=owner))

    def update(
        self,
        file_id: str,
        *,
        owner: str,
        if_version: int | None = None,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        labels: Sequence[str] | None = None,
        visibility: Visibility | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> FileView:
        """See `FileService.update`."""
        return _thread.run(
            self._service.update(
                file_id,
                owner=owner,
                if_version=if_version,
                name=name,
                title=title,
                description=description,
                labels=labels,
                visibility=visibility,
                metadata=metadata,
            )
        )

    def delete(self, file_id: str, *, owner: str, if_version: int | None = None) -> FileView:
        """See `FileService.delete`."""
        return _thread.run(self._service.delete(file_id, owner=owner, if_version=if_version))


class BlockingEventService:
    """`EventService`, blocking. Made by `BlockingUploadCore`."""

    def __init__(self, service: EventService) -> None:
        """Wrap a service."""
        self._service = service

    def backlog(self) -> tuple[Backlog, ...]:
        """See `EventService.backlog`."""
        return _thread.run(self._service.backlog())

    def dead_letters(
        self, *, destination: str | None = None, after: DeadLetter | None = None, limit: int = 100
    ) -> tuple[DeadLetter, ...]:
        """See `EventService.dead_letters`."""
        return _thread.run(self._service.dead_letters(destination=destination, after=after, limit=limit))

    def replay(self, *, destination: str, event_id: str | None = None) -> int:
        """See `EventService.replay`."""
        return _thread.run(self._service.replay(destination=destination, event_id=event_id))

    def discard(self, *, destination: str, event_id: str | None = None) -> int:
        """See `EventService.discard`."""
        return _thread.run(self._service.discard(destination=destination, event_id=event_id))


class BlockingUploadCore:
    """`UploadCore` for code without an event loop.

    After a fork, make and enter another one in the child: connections do not survive a fork.

    Example:
        >>> from uploadcore import BlockingUploadCore
        >>> from uploadcore_memory import MemoryDatabase, MemoryObjectStore
        >>> with BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        ...     upload = core.uploads.initiate(owner="u_1", filename="a.txt", size=3)
        >>> upload.part_count
        1
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        database: Database,
        cache: Cache | None = None,
        publishers: Mapping[str, EventPublisher] | None = None,
        policy: UploadPolicy | None = None,
        config: UploadConfig | None = None,
        clock: Clock | None = None,
        ids: IdFactory | None = None,
    ) -> None:
        """See `UploadCore`."""
        self._core = UploadCore(
            store=store,
            database=database,
            cache=cache,
            publishers=publishers,
            policy=policy,
            config=config,
            clock=clock,
            ids=ids,
        )
        self.uploads = BlockingUploadService(self._core.uploads)
        self.files = BlockingFileService(self._core.files)
        self.events = BlockingEventService(self._core.events)

    def __enter__(self) -> Self:
        """Open store, database, cache and publishers."""
        _thread.run(self._core.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close them."""
        _thread.run(self._core.__aexit__(kind, error, traceback))

    def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """See `UploadCore.sweep`."""
        return _thread.run(self._core.sweep(dry_run=dry_run))

    def relay(self) -> RelayReport:
        """See `UploadCore.relay`."""
        return _thread.run(self._core.relay())

    def run_background(self) -> None:
        """See `UploadCore.run_background`: it returns only by an exception, `KeyboardInterrupt` for one."""
        _thread.run(self._core.run_background())
