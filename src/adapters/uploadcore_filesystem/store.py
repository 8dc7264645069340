"""The object store port on a folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from uploadcore.errors import InvalidRequestError, NoSuchMultipartError, StoreUnavailableError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.ports import (
    AdapterContext,
    ObjectHeaders,
    OpenMultipart,
    SignedRequest,
    StoreCapabilities,
    StoredObject,
)
from uploadcore.system import SystemClock
from uploadcore.upload import Address
from uploadcore_filesystem.assembly import assembled_etag
from uploadcore_filesystem.digests import as_checksum
from uploadcore_filesystem.disk import map_os_errors
from uploadcore_filesystem.errors import NoSuchObjectError
from uploadcore_filesystem.multipart_folder import MultipartFolder, MultipartInfo
from uploadcore_filesystem.objects import ObjectFolder, ObjectRecord, key_digest
from uploadcore_filesystem.receiving import BodyReceiver, ReadBody
from uploadcore_filesystem.signing import Grant, PartGrant, PutGrant, UrlSigner, WallClock, made_once
from uploadcore_filesystem.threads import DiskThreads
from uploadcore_filesystem.writing import ObjectWriter, PartWriter

__all__ = ["FILESYSTEM_LIMITS", "FilesystemObjectStore", "StoredFile", "from_url"]

FILESYSTEM_LIMITS = StoreLimits(
    min_part_size=1, max_part_size=5 * 1024**3, max_parts=10_000, max_object_size=53_687_091_200_000
)
"""S3's (see `uploadcore.plan.S3_LIMITS`), but for the smallest part: there is no reason for one here."""

FILESYSTEM_CAPABILITIES = StoreCapabilities(
    conditional_put=True,
    repeatable_complete=True,
    concurrent_complete=True,
    late_parts_refused=True,
    forgets_completed=True,
    get_signs_head=True,
    list_by_prefix=True,
    object_checksums=frozenset({ChecksumAlgorithm.CRC64NVME}),
    part_checksums=frozenset({ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.SHA256}),
)

KEY_FILE = "signing.key"
_THREADS = 32
"""Requests whose disk work runs at the same time. Threads are made as they are needed."""
_WAITING = 1_000
"""Calls that may wait for one of them: who comes then is told to come again. Bodies are bounded by the connections that bring them."""
_LISTED_AT_ONCE = 64
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An object to be sent: its bytes are in `path`, which nobody writes to any more."""

    path: Path
    size: int
    etag: str
    checksum: Checksum
    stat_result: os.stat_result


class FilesystemObjectStore:
    """A durable object store on a folder, for one process at a time.

    Its signed URLs are served by `uploadcore_http.data.data_app`. What it acknowledges is on disk (`fsync`), survives `kill -9` and a power
    cut, and no request that was superseded changes a byte of it. `docs/filesystem.md` tells how.

    Args:
        root: The folder; made on `open` if it is not there. It must support hard links and locks: a local filesystem, not NFS.
        public_url: Where clients reach the service that serves the URLs, without a trailing slash.
        secret: Signs the URLs; 16 bytes or more. `None`: one is made once, in `secret_file`.
        secret_file: By default `signing.key` in `root`.
        bucket: Name of the one bucket: letters, digits, `.`, `_`, `-`.
        clock: Decides when URLs expire.

    Raises:
        ValueError: The bucket or the secret can't be used.

    Example:
        >>> import asyncio, tempfile
        >>> from datetime import timedelta
        >>> from uploadcore.plan import Part
        >>> from uploadcore.ports import ObjectHeaders
        >>> async def sign(folder: str) -> str:
        ...     store = FilesystemObjectStore(Path(folder), public_url="http://127.0.0.1:8484")
        ...     await store.open()
        ...     upload = await store.create_multipart(Address("files", "a/key"), ObjectHeaders("video/mp4"))
        ...     address = Address("files", "a/key", upload)
        ...     [part] = await store.presign_parts(
        ...         address, [Part(1, 0, 8)], checksums={}, expires_in=timedelta(minutes=15)
        ...     )
        ...     await store.close()
        ...     return part.url
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(sign(folder)).partition("?")[0]
        'http://127.0.0.1:8484/data/files/YS9rZXk'
    """

    def __init__(
        self,
        root: Path | str,
        *,
        public_url: str,
        secret: bytes | None = None,
        secret_file: Path | None = None,
        bucket: str = "files",
        clock: WallClock | None = None,
    ) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} can't be a bucket: up to 63 letters, digits, '.', '_' and '-'")
        self._root = Path(root).absolute()
        self._bucket = bucket
        self._public_url = public_url
        self._clock: WallClock = clock or SystemClock()
        self._secret_file = secret_file or self._root / KEY_FILE
        self._signer = None if secret is None else UrlSigner(public_url, secret, self._clock)
        self._objects = ObjectFolder(self._root)
        self._multiparts = MultipartFolder(self._root)
        self._lock_file: int | None = None
        self._threads: DiskThreads | None = None
        self._receiver: BodyReceiver | None = None
        self._closing: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        """Show the folder, and no secret."""
        return f"FilesystemObjectStore({str(self._root)!r})"

    @property
    def bucket(self) -> str:
        """The one bucket."""
        return self._bucket

    @property
    def limits(self) -> StoreLimits:
        """What it can hold."""
        return FILESYSTEM_LIMITS

    @property
    def capabilities(self) -> StoreCapabilities:
        """What it can do."""
        return FILESYSTEM_CAPABILITIES

    # --- opening and closing --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take the folder, finish what a crash interrupted, and read or make the secret.

        Raises:
            StoreUnavailableError: Another process has the folder open, or it can't be used.
        """
        if self._threads is not None:
            raise StoreUnavailableError("the store is open already")
        threads = DiskThreads(threads=_THREADS, waiting=_WAITING)
        taking = threads.pool.submit(self._take)
        try:
            with map_os_errors(f"the folder {self._root} can't be used as an object store"):
                self._lock_file = await asyncio.wrap_future(taking)
        except BaseException:
            threads.pool.shutdown(wait=False)
            # Not at once: whoever was cancelled has left a thread at work in the folder.
            taking.add_done_callback(_let_go)
            raise
        self._threads, self._receiver = threads, BodyReceiver(threads.pool)

    def _take(self) -> int:
        """The folder's lock, with the folder put right."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_file = _locked(self._root / "lock")
        try:
            self._put_right()
        except BaseException:
            os.close(lock_file)
            raise
        return lock_file

    def _put_right(self) -> None:
        self._multiparts = MultipartFolder(self._root)
        self._objects.prepare()
        self._multiparts.prepare()
        self._objects.recover(self._multiparts.folder)
        self._multiparts.clean()
        if self._signer is None:
            try:
                self._signer = UrlSigner(self._public_url, made_once(self._secret_file), self._clock)
            except ValueError as exc:
                raise StoreUnavailableError(str(exc)) from exc

    async def close(self) -> None:
        """Cut the requests there are, and let go of the folder. Idempotent: who calls it again waits for the same end.

        It goes on to its end if the caller goes away.
        """
        threads, receiver, lock_file = self._threads, self._receiver, self._lock_file
        self._threads = self._receiver = self._lock_file = None
        if threads is not None and receiver is not None and lock_file is not None:
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(None, _end, receiver, threads, lock_file)
        if self._closing is not None:
            await asyncio.shield(self._closing)

    # --- the port: signing ----------------------------------------------------------------------------------------

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """Sign one PUT per part, in order. A part's offset is signed together with its length, and written at."""
        return self._signed_by().sign_parts(self._own(address), parts, checksums, expires_in)

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a PUT of a whole object that can't overwrite."""
        return self._signed_by().sign_put(self._own(address), part, headers, checksum, expires_in)

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a GET (and HEAD) of an object, answered as an attachment with that name and type."""
        return self._signed_by().sign_get(self._own(address), filename, content_type, expires_in)

    def verify(self, method: str, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Grant:
        """What a request was allowed; see `UrlSigner.verify`, which says what it raises."""
        return self._signed_by().verify(method, path, query, headers)

    def _signed_by(self) -> UrlSigner:
        if self._signer is None:
            raise StoreUnavailableError("the store has not been opened, and was given no secret to sign with")
        return self._signer

    def _own(self, address: Address) -> Address:
        if address.bucket != self._bucket:
            raise InvalidRequestError(f"this store has one bucket, {self._bucket!r}")
        return address

    # --- the port: multipart uploads ------------------------------------------------------------------------------

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """Begin a multipart upload; return its storage upload id. Durable on return."""
        info = MultipartInfo(self._own(address).key, headers, self._clock.now())
        key_digest(info.key)
        with map_os_errors("the upload can't be created"):
            return await self._opened().run(self._multiparts.create, self._objects, info)

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """All durable parts, in order of number. A sealed upload lists its parts too."""
        with map_os_errors("the parts can't be listed"):
            return await self._opened().run(self._parts_of, self._own(address))

    def _parts_of(self, address: Address) -> list[StoredPart]:
        with self._multiparts.use(address.storage_upload_id or "") as multipart:
            multipart.expect(address.key)
            return multipart.parts()

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """Assemble exactly these parts. Repeatable: the same parts get the same answer as long as the object stands.

        A checksum of another algorithm than CRC64NVME is not looked at. Parts whose length was signed lie where they belong already:
        nothing is copied.
        """
        with map_os_errors("the upload can't be completed"):
            own = self._own(address)
            await self._opened().in_turn(own.storage_upload_id or "", self._complete, own, tuple(parts), size, checksum)

    def _complete(self, address: Address, parts: Sequence[StoredPart], size: int, checksum: Checksum | None) -> None:
        record: ObjectRecord | None
        try:
            with self._multiparts.use(address.storage_upload_id or "") as multipart:
                multipart.expect(address.key)
                record = multipart.complete(self._objects, parts, size, checksum)
        except NoSuchMultipartError:
            record = self._objects.read(address.key)
            if record is None or record.id != address.storage_upload_id:
                raise
        if record.etag != assembled_etag(parts):
            raise NoSuchMultipartError("the upload was completed before, of other parts")

    async def abort_multipart(self, address: Address) -> None:
        """Cut whoever writes to it, and drop the upload with all its parts in one step. Idempotent."""
        with map_os_errors("the upload can't be aborted"):
            own = self._own(address)
            await self._opened().in_turn(own.storage_upload_id or "", self._abort, own)

    def _abort(self, address: Address) -> None:
        try:
            with self._multiparts.use(address.storage_upload_id or "") as multipart:
                multipart.expect(address.key)
                multipart.abort(self._objects)
        except NoSuchMultipartError:
            return

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """Multipart uploads in progress whose key begins with `prefix`."""
        with map_os_errors("the uploads can't be listed"):
            names = await self._opened().run(self._multiparts.names)
            for start in range(0, len(names), _LISTED_AT_ONCE):
                some = names[start : start + _LISTED_AT_ONCE]
                infos = await self._opened().run(self._multiparts.infos, some)
                for name, info in zip(some, infos, strict=True):
                    if info is not None and info.key.startswith(prefix):
                        yield OpenMultipart(info.key, name, info.initiated)

    # --- the port: objects ----------------------------------------------------------------------------------------

    async def head(self, address: Address) -> StoredObject | None:
        """What stands under the key."""
        with map_os_errors("the object can't be looked at"):
            record = await self._opened().run(self._objects.read, self._own(address).key)
        if record is None:
            return None
        return StoredObject(record.size, record.etag, record.content_type, record.metadata, as_checksum(record.crc64))

    async def delete(self, address: Address) -> None:
        """Delete the object under the key. Durable on return. Idempotent."""
        with map_os_errors("the object can't be deleted"):
            await self._opened().run(self._delete, self._own(address).key)

    def _delete(self, key: str) -> None:
        with self._objects.lock(key):
            self._objects.delete(key)

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """Store an empty object under the key, replacing what is there."""
        with map_os_errors("the marker can't be stored"):
            await self._opened().run(self._put_marker, self._own(address).key, headers)

    def _put_marker(self, key: str, headers: ObjectHeaders) -> None:
        lock = self._objects.lock(key)
        staged = self._objects.stage()
        try:
            self._objects.create_data(staged)
            etag = f'"{staged.name}"'
            record = ObjectRecord(staged.name, key, 0, etag, 0, headers.content_type, dict(headers.metadata))
            with lock:
                self._objects.decide(staged, record)
                self._objects.install(staged)
        except OSError:
            with suppress(OSError):
                if not self._objects.is_decided(staged):
                    self._objects.discard(staged)
            raise

    # --- what the data endpoint needs -----------------------------------------------------------------------------

    async def find(self, key: str) -> StoredFile:
        """The object under a key, to be sent.

        Raises:
            NoSuchObjectError: There is none.
        """
        with map_os_errors("the object can't be read"):
            return await self._opened().run(self._find, key)

    def _find(self, key: str) -> StoredFile:
        record = self._objects.read(key)
        while record is not None:
            path = self._objects.data_path(record)
            try:
                return StoredFile(path, record.size, record.etag, as_checksum(record.crc64), path.stat())
            except FileNotFoundError:
                # Deleted or replaced between the two looks: look again.
                seen, record = record, self._objects.read(key)
                if record == seen:
                    raise
        raise NoSuchObjectError("nothing stands under this key")

    async def receive_part(self, grant: PartGrant, read: ReadBody) -> StoredPart:
        """Take the body of a part to disk; return the part, durable and listed.

        Args:
            grant: What the URL allowed.
            read: The body. Never called by two at a time.

        Raises:
            NoSuchMultipartError: There is no such upload.
            SealedError: It is being completed.
            SupersededError: A newer request took the part, or the upload ended, before this one was through.
            IncompleteBodyError: The body has not the length that was signed.
            BodyTooLargeError: It has no signed length, and is larger than a part may be.
            ChecksumMismatchError: It has not the checksum that was signed.
            StorageFullError: There is no room: the part is absent, and the upload as it was.
        """
        writer = PartWriter(self._multiparts, grant, FILESYSTEM_LIMITS.max_part_size)
        with map_os_errors("the part can't be stored"):
            record = await self._open_receiver().receive(writer, read)
        return StoredPart(record.part_number, record.size, f'"{record.etag}"', as_checksum(record.crc64))

    async def receive_object(self, grant: PutGrant, read: ReadBody) -> StoredObject:
        """Take the body of a whole object to disk; return the object, durable and in place.

        Raises:
            PreconditionFailedError: One stands under the key already.
            SupersededError: The store was closed before it was through.
            Exception: Else as `receive_part`.
        """
        writer = ObjectWriter(self._objects, grant, FILESYSTEM_LIMITS.max_part_size)
        with map_os_errors("the object can't be stored"):
            record = await self._open_receiver().receive(writer, read)
        return StoredObject(record.size, record.etag, record.content_type, record.metadata, as_checksum(record.crc64))

    # --- while it is open -----------------------------------------------------------------------------------------

    def _opened(self) -> DiskThreads:
        if self._threads is None:
            raise StoreUnavailableError("the store is not open")
        return self._threads

    def _open_receiver(self) -> BodyReceiver:
        if self._receiver is None:
            raise StoreUnavailableError("the store is not open")
        return self._receiver


def from_url(url: str, context: AdapterContext) -> FilesystemObjectStore:
    """The store a `file:///path` URL names. Opens nothing.

    Raises:
        ValueError: It is not such a URL.

    >>> from_url("file:///var/lib/uploadcore/objects", AdapterContext(Path("/var/lib/uploadcore"), "https://example.org"))
    FilesystemObjectStore('/var/lib/uploadcore/objects')
    """
    split = urlsplit(url)
    path = unquote(split.path)
    if (
        split.scheme != "file"
        or split.netloc not in {"", "localhost"}
        or path in {"", "/"}
        or split.query
        or split.fragment
    ):
        raise ValueError(f"a filesystem store is named by file:///an/absolute/path, not by {url!r}")
    return FilesystemObjectStore(Path(path), public_url=context.public_url, secret_file=context.data_dir / KEY_FILE)


def _end(receiver: BodyReceiver, threads: DiskThreads, lock_file: int) -> None:
    """Wait until nobody is at work in the folder any more, then let go of it."""
    receiver.close()
    threads.close()
    os.close(lock_file)


def _let_go(taken: Future[int]) -> None:
    """Close the lock's descriptor, if there is one."""
    if not taken.cancelled() and taken.exception() is None:
        os.close(taken.result())


def _locked(path: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed.

    Raises:
        StoreUnavailableError: Another has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreUnavailableError(
            f"{path.parent} is in use by process {holder}: one process at a time may have a filesystem store open. "
            "Stop that one, or give this one a folder of its own"
        ) from exc
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
