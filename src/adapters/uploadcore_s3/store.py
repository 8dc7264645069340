"""The object store port on S3: every decision, once, whichever SDK makes the calls."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from urllib.parse import quote

from uploadcore.diagnosis import Finding, Needs
from uploadcore.errors import InvalidRequestError, NoSuchMultipartError, StoreUnavailableError
from uploadcore.file import Checksum
from uploadcore.plan import Part, StoredPart, StoreLimits
from uploadcore.ports import ObjectHeaders, OpenMultipart, SignedRequest, StoreCapabilities, StoredObject
from uploadcore.system import SystemClock
from uploadcore.upload import Address
from uploadcore_s3.client import Identity, ObjectHead, S3Client, told_checksum
from uploadcore_s3.configuration import S3Configuration
from uploadcore_s3.doctor import examine
from uploadcore_s3.errors import (
    S3CallError,
    TransportError,
    is_absent,
    map_completion,
    map_creation,
    map_errors,
)
from uploadcore_s3.examined import Examined
from uploadcore_s3.opened import OpenedStore
from uploadcore_s3.store_clock import StoreClock
from uploadcore_s3.xml import NotXmlError, local_name, parse_xml

__all__ = ["S3Store"]

_META = "x-amz-meta-"
_CHECKSUM = "x-amz-checksum-"
_FULL_OBJECT = "FULL_OBJECT"
_NO_HEADERS: Mapping[str, str] = {}
"""Shared by all parts that need none, and never written to. A plain dictionary, which whoever encodes it need not copy first."""
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", re.ASCII)
_METADATA_NAME = re.compile(r"[a-z0-9._-]+", re.ASCII)


class S3Store(ABC):
    """What `S3ObjectStore` and `MinioObjectStore` have in common: all but the SDK.

    Calls that may be repeated are, after 503 SlowDown and its like, with jitter, until `timeouts.retries` is over. Creation and completion
    are not: what became of them is for the core to find out. One layer does this; the SDKs and the transport below try once.
    """

    def __init__(self, configuration: S3Configuration) -> None:
        """Keep the configuration. Nothing is opened, and nobody asked."""
        self._configuration = configuration
        self._clock = StoreClock(configuration.clock or SystemClock())
        self._own_headers = configuration.object_headers
        whole = configuration.capabilities.object_checksums
        self._whole_checksum = next(iter(whole), None)
        self._opened: OpenedStore | None = None

    def __repr__(self) -> str:
        """Show the bucket, and no credentials."""
        return f"{type(self).__name__}({self.bucket!r})"

    @abstractmethod
    def _connect(self) -> S3Client:
        """Make the SDK's client. Runs on a thread; sends nothing but what finding credentials takes.

        Raises:
            LookupError: There are no credentials, or the profile named is not there.
            ValueError: The SDK can't use the configuration.
        """

    @property
    def bucket(self) -> str:
        """The bucket new addresses are made in."""
        return self._configuration.bucket

    @property
    def limits(self) -> StoreLimits:
        """S3's, with the smallest part as configured."""
        return self._configuration.limits

    @property
    def capabilities(self) -> StoreCapabilities:
        """As configured."""
        return self._configuration.capabilities

    @property
    def clock_offset(self) -> timedelta | None:
        """How far the store's clock is ahead of this process's; `None`: not known yet."""
        return self._clock.offset

    # --- opening and closing --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find credentials and get threads; ask the store for the time, for it is by its clock that URLs are signed.

        That it can't be reached now, or takes longer than 2 s, is no reason not to start.

        Raises:
            StoreUnavailableError: There are no credentials, or the configuration can't be used.
        """
        if self._opened is not None:
            raise StoreUnavailableError("the store is open already")
        try:
            client = await asyncio.to_thread(self._connect)
            self._opened = OpenedStore(self._configuration, client, self._clock)
            for identity in Identity:
                await asyncio.to_thread(client.credentials, identity)
            await self._opened.ask_for_the_time()
        except (LookupError, ValueError) as exc:
            await self.close()
            raise StoreUnavailableError(f"the store {self.bucket!r} can't be used: {exc}") from exc
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End calls, connections and threads. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    # --- signing --------------------------------------------------------------------------------------------------

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        """Sign one PUT per part, in order, as `write`. The length is signed, but sent by whatever sends a body: it is not among the headers."""
        opened, key = self._at(address)
        # Hot: a thousand of these to a call. Parts of one length share one mapping, and so do all that need no header but that.
        bound: dict[int | None, Mapping[str, str]] = {None: _NO_HEADERS}
        sent: list[Mapping[str, str]] = []
        asked: list[tuple[int, Mapping[str, str]]] = []
        for number, _, length in parts:
            signed = bound.get(length)
            if signed is None:
                signed = bound[length] = {"content-length": str(length)}
            headers = _NO_HEADERS
            if checksums and (checksum := checksums.get(number)) is not None:
                headers = {f"{_CHECKSUM}{checksum.algorithm}": checksum.value}
                signed = {**signed, **headers}
            sent.append(headers)
            asked.append((number, signed))
        credentials, now, life = await opened.signing[Identity.WRITE].lasting(expires_in)
        urls = opened.signer.presign_parts(
            credentials, key, address.storage_upload_id or "", asked, now=now, expires_in=life
        )
        expires_at = now + life
        return [SignedRequest("PUT", url, headers, expires_at) for url, headers in zip(urls, sent, strict=True)]

    async def presign_put(
        self, address: Address, part: Part, headers: ObjectHeaders, *, checksum: Checksum | None, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a PUT of a whole object, as `write`, with everything it is to be stored with.

        Raises:
            InvalidRequestError: A header can't be sent; or the store was not declared to refuse an overwrite.
        """
        if not self.capabilities.conditional_put:
            raise InvalidRequestError("this store was not declared to refuse an overwrite (capability conditional_put)")
        sent = self._stored_with(headers) | {"if-none-match": "*"}
        if checksum is not None:
            sent[f"{_CHECKSUM}{checksum.algorithm}"] = checksum.value
        signed = sent if part.length is None else sent | {"content-length": str(part.length)}
        opened, key = self._at(address)
        credentials, now, life = await opened.signing[Identity.WRITE].lasting(expires_in)
        url = opened.signer.presign(credentials, "PUT", key, headers=signed, now=now, expires_in=life)
        return SignedRequest("PUT", url, sent, now + life)

    async def presign_get(
        self, address: Address, *, filename: str, content_type: str, expires_in: timedelta
    ) -> SignedRequest:
        """Sign a GET of an object, as `control`, answered as an attachment with that name and type."""
        query = {
            # RFC 6266, section 4.3: the name in any script, with nothing that could end the header.
            "response-content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "response-content-type": content_type,
        }
        opened, key = self._at(address)
        credentials, now, life = await opened.signing[Identity.CONTROL].lasting(expires_in)
        url = opened.signer.presign(credentials, "GET", key, query=query, now=now, expires_in=life)
        return SignedRequest("GET", url, _NO_HEADERS, now + life)

    # --- multipart uploads ----------------------------------------------------------------------------------------

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        """Begin a multipart upload, once: an answer that was lost leaves one behind, which the sweeper finds."""
        opened, key = self._at(address)
        sent = self._stored_with(headers)
        if self._whole_checksum is not None:
            sent |= {
                "x-amz-checksum-algorithm": self._whole_checksum.upper(),
                "x-amz-checksum-type": _FULL_OBJECT,
            }
        with map_creation("the upload can't be created"):
            upload_id = await opened.once(opened.client.create_multipart, key, sent)
            if not upload_id:
                raise TransportError("the store's answer names no upload")
        return upload_id

    async def list_parts(self, address: Address) -> list[StoredPart]:
        """All parts, in order of number, however many pages that takes.

        A store without `forgets_completed` goes on listing the parts of a completed upload, and nothing in its answer says so. Telling the
        two apart would cost a HEAD per listing, and prove nothing where a key is used twice; so it is declared, and the core takes no
        listing as evidence that an upload is still open: a completion is fenced, and settled by looking at the object.
        """
        opened, key = self._at(address)
        found: dict[int, StoredPart] = {}
        marker: int | None = 0
        with map_errors("the parts can't be listed"):
            while marker is not None:
                page = await opened.repeatedly(
                    opened.client.list_parts,
                    key,
                    _upload_id(address),
                    marker=marker,
                    limit=self._configuration.page_size,
                )
                found.update((part.part_number, part) for part in page.parts)
                before, marker = marker, page.next_marker
                if marker is not None:
                    marker = marker or max((part.part_number for part in page.parts), default=0)
                    if marker <= before:
                        raise TransportError("the store's listing does not go on from page to page", is_retryable=False)
        return [found[number] for number in sorted(found)]

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        """Assemble, once. Status 200 is no answer yet: only the document behind it is.

        A checksum of another algorithm than the one in `object_checksums` is not sent. `timeouts.completion` bounds the whole of it, the
        white space included that S3 sends while it works.
        """
        opened, key = self._at(address)
        headers: dict[str, str] = {}
        if self._configuration.conditional_complete:
            headers["if-none-match"] = "*"
        if self._configuration.declare_object_size:
            headers["x-amz-mp-object-size"] = str(size)
        if self._whole_checksum is not None:
            headers["x-amz-checksum-type"] = _FULL_OBJECT
            if checksum is not None and checksum.algorithm is self._whole_checksum:
                headers[f"{_CHECKSUM}{checksum.algorithm}"] = checksum.value
        with map_completion("the upload can't be completed"):
            body = await opened.completed(key, _upload_id(address), parts, headers)
            try:
                is_told = local_name(parse_xml(body)) == "CompleteMultipartUploadResult"
            except NotXmlError as exc:
                raise TransportError("the store's answer to a completion broke off") from exc
            if not is_told:
                raise TransportError("the store's answer to a completion is no result")

    async def abort_multipart(self, address: Address) -> None:
        """Drop a multipart upload and its parts. Idempotent: one that is unknown, or completed, is no error."""
        opened, key = self._at(address)
        with map_errors("the upload can't be aborted"):
            try:
                await opened.repeatedly(opened.client.abort_multipart, key, _upload_id(address))
            except S3CallError as exc:
                if exc.status != 404 or exc.code not in {"NoSuchUpload", "NoSuchKey"}:
                    raise

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """Multipart uploads in progress whose key begins with `prefix`."""
        opened = self._open()
        marker: tuple[str, str] | None = None
        seen = {marker}
        is_last = False
        while not is_last:
            with map_errors("the uploads can't be listed"):
                page = await opened.repeatedly(
                    opened.client.list_multiparts, prefix, marker=marker, limit=self._configuration.page_size
                )
                is_last = page.next_marker is None
                if not is_last:
                    # Where the listing got to, rather than the marker told: some stores encode keys in it, and some don't.
                    marker = (page.uploads[-1].key, page.uploads[-1].upload_id) if page.uploads else page.next_marker
                    if marker in seen:
                        raise TransportError("the store's listing does not go on from page to page", is_retryable=False)
                    seen.add(marker)
            for found in page.uploads:
                if found.key.startswith(prefix):
                    yield OpenMultipart(found.key, found.upload_id, found.initiated)

    # --- objects --------------------------------------------------------------------------------------------------

    async def head(self, address: Address) -> StoredObject | None:
        """What stands under the key. 403 is no absence: see `uploadcore_s3.errors.is_absent`."""
        opened, key = self._at(address)
        with map_errors("the object can't be looked at"):
            try:
                found = await opened.repeatedly(opened.client.head, key, with_checksum=self._whole_checksum is not None)
            except S3CallError as exc:
                if is_absent(exc):
                    return None
                raise
        return StoredObject(
            found.size, found.etag, found.content_type, MappingProxyType(dict(found.metadata)), self._checksum(found)
        )

    async def delete(self, address: Address) -> None:
        """Delete the object under the key. Idempotent."""
        opened, key = self._at(address)
        with map_errors("the object can't be deleted"):
            try:
                await opened.repeatedly(opened.client.delete, key)
            except S3CallError as exc:
                if exc.status != 404 or exc.code != "NoSuchKey":  # a 404 without a code is a proxy's
                    raise

    async def put_marker(self, address: Address, headers: ObjectHeaders) -> None:
        """Store an empty object under the key, replacing what is there."""
        opened, key = self._at(address)
        with map_creation("the marker can't be stored"):
            await opened.repeatedly(opened.client.put_empty, key, self._stored_with(headers))

    # --- examining it ---------------------------------------------------------------------------------------------

    async def diagnose(self, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
        """Try all that is needed of the store, and say what to do about what is wrong: see `uploadcore.diagnosis`."""
        opened, configuration = self._open(), self._configuration
        examined = Examined(
            store=self,
            control=opened.by_hand(Identity.CONTROL, opened.client.endpoint),
            write=opened.by_hand(Identity.WRITE, configuration.public_endpoint or opened.client.endpoint),
            capabilities=self.capabilities,
            conditional_complete=configuration.conditional_complete,
            declares_object_size=configuration.declare_object_size,
            region=opened.client.region,
        )
        async for finding in examine(examined, needs, apply=apply):
            yield finding

    # --- how ------------------------------------------------------------------------------------------------------

    def _open(self) -> OpenedStore:
        if self._opened is None:
            raise StoreUnavailableError("the store is not open")
        return self._opened

    def _at(self, address: Address) -> tuple[OpenedStore, str]:
        if address.bucket != self.bucket:
            raise InvalidRequestError(f"this store has one bucket, {self.bucket!r}")
        return self._open(), address.key

    def _stored_with(self, headers: ObjectHeaders) -> dict[str, str]:
        """Everything an object is created with, by header.

        Raises:
            InvalidRequestError: Something can't be sent as a header.
        """
        sent = {"content-type": headers.content_type} | self._own_headers
        for name, value in headers.metadata.items():
            if not _METADATA_NAME.fullmatch(name):
                raise InvalidRequestError(f"{name[:80]!r} can't be the name of an object's metadata")
            sent[f"{_META}{name}"] = value
        for name, value in sent.items():
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidRequestError(f"{value[:80]!r} can't be sent as {name}: printable ASCII only")
        return sent

    def _checksum(self, found: ObjectHead) -> Checksum | None:
        """The checksum of the whole, where the store tells one. A composite one is of the parts' checksums, and of no use here."""
        algorithm = self._whole_checksum
        if algorithm is None or found.headers.get("x-amz-checksum-type", _FULL_OBJECT) != _FULL_OBJECT:
            return None
        return told_checksum(algorithm, found.headers.get(f"{_CHECKSUM}{algorithm}"))


def _upload_id(address: Address) -> str:
    if not address.storage_upload_id:
        raise NoSuchMultipartError("the address names no multipart upload")
    return address.storage_upload_id
