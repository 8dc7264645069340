"""The ten calls over minio-py, for those who want no boto3.

minio-py finds credentials, names hosts and signs. Its multipart calls are underscored, send no headers with a completion, and read the error in
an answer with status 200 as a result without ETag; so all calls go through the one method below them, `Minio._execute`, behind one typed seam,
and the answers are read here. minio-py's own pool, which retries five times and waits five minutes, is replaced by our transport.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, Unpack, cast
from urllib.parse import unquote_plus, urlsplit
from xml.etree import ElementTree as ET

import certifi
import urllib3
from minio import Minio
from minio import time as minio_time
from minio.credentials.providers import Provider
from minio.error import MinioException

from uploadcore.errors import InvalidRequestError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import StoredPart
from uploadcore.ports import AdapterContext
from uploadcore_s3.client import Identity, ListedMultipart, MultipartsPage, ObjectHead, PartsPage, told_checksum
from uploadcore_s3.configuration import S3Configuration, StoreOptions, configured, split_url
from uploadcore_s3.errors import TransportError
from uploadcore_s3.minio_credentials import REFUSALS, control_provider, write_provider
from uploadcore_s3.signing import Credentials
from uploadcore_s3.store import S3Store
from uploadcore_s3.store_clock import StoreClock
from uploadcore_s3.transport import Transport
from uploadcore_s3.xml import NotXmlError, children, local_name, parse_result

__all__ = ["MinioObjectStore", "minio_from_url"]

_REGION = "us-east-1"
"""MinIO's own default; given always, for without it minio-py asks the store for the region first."""
_META = "x-amz-meta-"
_URL_ENCODED = "url"


def minio_from_url(url: str, context: AdapterContext) -> MinioObjectStore:
    """The store for `minio://host:9000/bucket?secure=false&…`. Opens nothing.

    TLS unless `secure=false`; the other options are those of `s3://`, without `endpoint`.

    Raises:
        InvalidRequestError: The URL names no host or bucket, or something that can't be used.

    >>> from pathlib import Path
    >>> context = AdapterContext(Path("unused"), "https://uploads.example.com")
    >>> minio_from_url("minio://127.0.0.1:9000/media?secure=false&capabilities=minio", context)
    MinioObjectStore('media')
    """
    parts, more, options = split_url(url, context, more=frozenset({"secure"}))
    secure = more.get("secure", "true")
    if secure not in {"true", "false"}:
        raise InvalidRequestError("secure is true or false")
    if not parts.netloc or "endpoint" in options:
        raise InvalidRequestError("a minio URL is minio://host:port/bucket?…: the endpoint is its host")
    scheme = "https" if secure == "true" else "http"
    options["endpoint"] = f"{scheme}://{parts.netloc}"
    return MinioObjectStore(parts.path.strip("/"), **options)


class MinioObjectStore(S3Store):
    """An object store on MinIO, or on whatever speaks S3, over minio-py.

    Credentials come from minio-py's providers, in this order: `AWS_…` and `MINIO_…` variables, AWS's configuration file, `mc`'s, the
    container's or instance's role; those that expire are renewed.

    Args:
        bucket: Its name.
        provider: Whose credentials are used, instead of that chain.
        write_provider: For signing PUTs; by default the same.
        **options: See `uploadcore_s3.S3Configuration`; `endpoint` is needed, without a path.

    Raises:
        InvalidRequestError: An option can't be used.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from uploadcore.plan import Part
        >>> from uploadcore.upload import Address
        >>> async def sign() -> str:
        ...     credentials = Credentials("example", "an example, no secret")
        ...     store = MinioObjectStore("media", endpoint="http://127.0.0.1:9000", credentials=credentials)
        ...     await store.open()
        ...     address = Address("media", "a/key", "upload-id")
        ...     [part] = await store.presign_parts(
        ...         address, [Part(1, 0, 8)], checksums={}, expires_in=timedelta(minutes=15)
        ...     )
        ...     await store.close()
        ...     return part.url
        >>> asyncio.run(sign()).partition("?")[0]
        'http://127.0.0.1:9000/media/a/key'
    """

    def __init__(
        self,
        bucket: str,
        *,
        provider: Provider | None = None,
        write_provider: Provider | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        super().__init__(configured(bucket, options))
        endpoint = self._configuration.endpoint
        if endpoint is None or urlsplit(endpoint).path not in {"", "/"}:
            raise InvalidRequestError("minio-py needs an endpoint, and one without a path")
        self._provider = provider
        self._write_provider = write_provider

    def _connect(self) -> MinioClient:
        return MinioClient(self._configuration, self._clock, self._provider, self._write_provider)


class _Execute(Protocol):
    """The seam: what is used of minio-py's `_execute`. The contract suite watches that it stays so."""

    def __call__(
        self,
        method: str,
        bucket_name: str,
        object_name: str | None,
        *,
        body: bytes | None,
        headers: dict[str, str],
        query_params: dict[str, str],
    ) -> urllib3.BaseHTTPResponse: ...


class _Pool(urllib3.PoolManager):
    """What minio-py takes for its pool: our transport."""

    def __init__(self, transport: Transport, *, is_store: bool) -> None:
        super().__init__()
        self._transport = transport
        self._is_store = is_store

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, *, body: Any = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> urllib3.HTTPResponse:
        content = body.encode() if isinstance(body, str) else body
        return self._transport.send(method, url, dict(headers or {}), content, is_store=self._is_store).as_response()


class _MinioByStore(Minio):
    """minio-py, which dates its requests by the store's time instead of this machine's."""

    def __init__(self, *args: Any, clock: StoreClock, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def _build_headers(self, *args: Any, **options: Any) -> tuple[Any, datetime]:
        headers, _ = super()._build_headers(*args, **options)
        date = self._clock.now()
        headers["x-amz-date"] = minio_time.to_amz_date(date)
        return headers, date


class MinioClient:
    """`S3Client` over minio-py."""

    def __init__(
        self, configuration: S3Configuration, clock: StoreClock, provider: Provider | None, writer: Provider | None
    ) -> None:
        """Make the client.

        Raises:
            ValueError: minio-py can't use the configuration.
        """
        assert configuration.endpoint is not None, "checked by the store"
        self._bucket = configuration.bucket
        self._endpoint = configuration.endpoint.rstrip("/")
        self._region = configuration.region or _REGION
        self._transport = Transport(
            connect_timeout=configuration.timeouts.connect,
            size=configuration.threads,
            ca_certs=configuration.ca_certs or os.environ.get("SSL_CERT_FILE") or certifi.where(),
            clock=clock,
        )
        pool = _Pool(self._transport, is_store=False)
        control = provider or control_provider(configuration, pool)
        self._providers = {
            Identity.CONTROL: control,
            Identity.WRITE: writer or write_provider(configuration, control, pool, self._region),
        }
        parts = urlsplit(self._endpoint)
        client = _MinioByStore(
            parts.netloc,
            secure=parts.scheme == "https",
            region=self._region,
            credentials=control,
            http_client=_Pool(self._transport, is_store=True),
            clock=clock,
        )
        set_style: Any = client.disable_virtual_style_endpoint  # untyped in minio-py
        if not configuration.is_path_style:
            set_style = client.enable_virtual_style_endpoint
        set_style()
        self._seam = cast("_Execute", client._execute)

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def endpoint(self) -> str:
        return self._endpoint

    @property
    def region(self) -> str:
        return self._region

    def create_multipart(self, key: str, headers: Mapping[str, str]) -> str:
        query = {"uploads": ""}
        root = self._asked("InitiateMultipartUploadResult", "POST", key, headers=dict(headers), query=query)
        return children(root).get("UploadId", "")

    def list_parts(self, key: str, upload_id: str, *, marker: int, limit: int) -> PartsPage:
        query = {"uploadId": upload_id, "max-parts": str(limit), "part-number-marker": str(marker)}
        root = self._asked("ListPartsResult", "GET", key, query=query)
        told = children(root)
        try:
            parts = [_part(children(element)) for element in root if local_name(element) == "Part"]
            after = int(told.get("NextPartNumberMarker") or 0)
        except (KeyError, ValueError) as exc:
            raise TransportError("the store's answer can't be understood") from exc
        return PartsPage(parts, after if told.get("IsTruncated") == "true" else None)

    def complete_multipart(
        self, key: str, upload_id: str, parts: Sequence[StoredPart], headers: Mapping[str, str]
    ) -> bytes:
        # S3's namespace: some stores check the document against a schema.
        root = ET.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for part in parts:
            element = ET.SubElement(root, "Part")
            ET.SubElement(element, "PartNumber").text = str(part.part_number)
            ET.SubElement(element, "ETag").text = part.etag
        sent = {**headers, "content-type": "application/xml"}
        query = {"uploadId": upload_id}
        return self._execute("POST", key, query=query, headers=sent, body=ET.tostring(root)).data

    def abort_multipart(self, key: str, upload_id: str) -> None:
        self._execute("DELETE", key, query={"uploadId": upload_id})

    def list_multiparts(self, prefix: str, *, marker: tuple[str, str] | None, limit: int) -> MultipartsPage:
        query = {"uploads": "", "prefix": prefix, "max-uploads": str(limit), "encoding-type": _URL_ENCODED}
        if marker is not None:
            query |= {"key-marker": marker[0], "upload-id-marker": marker[1]}
        root = self._asked("ListMultipartUploadsResult", "GET", None, query=query)
        told = children(root)
        decoded = unquote_plus if told.get("EncodingType") == _URL_ENCODED else str
        try:
            uploads = [
                ListedMultipart(decoded(found["Key"]), found["UploadId"], _time(found["Initiated"]))
                for found in (children(element) for element in root if local_name(element) == "Upload")
            ]
        except (KeyError, ValueError) as exc:
            raise TransportError("the store's answer can't be understood") from exc
        if told.get("IsTruncated") != "true":
            return MultipartsPage(uploads, None)
        return MultipartsPage(uploads, (decoded(told.get("NextKeyMarker", "")), told.get("NextUploadIdMarker", "")))

    def head(self, key: str, *, with_checksum: bool) -> ObjectHead:
        headers = {"x-amz-checksum-mode": "ENABLED"} if with_checksum else {}
        answer = self._execute("HEAD", key, headers=headers)
        told = {name.lower(): value for name, value in answer.headers.items()}
        try:
            size = int(told["content-length"])
        except (KeyError, ValueError) as exc:
            raise TransportError("the store's answer can't be understood") from exc
        metadata = {name.removeprefix(_META): value for name, value in told.items() if name.startswith(_META)}
        return ObjectHead(size, told.get("etag", ""), told.get("content-type", ""), metadata, told)

    def delete(self, key: str) -> None:
        self._execute("DELETE", key)

    def put_empty(self, key: str, headers: Mapping[str, str]) -> None:
        self._execute("PUT", key, headers={**headers, "content-length": "0"}, body=b"")

    def credentials(self, identity: Identity) -> Credentials:
        try:
            held = self._providers[identity].retrieve()
        except REFUSALS as exc:
            raise LookupError(f"no provider of minio-py has any ({type(exc).__name__})") from exc
        expires_at = None if held.expiration is None else held.expiration.replace(tzinfo=UTC)
        return Credentials(held.access_key, held.secret_key, held.session_token, expires_at)

    def close(self) -> None:
        self._transport.close()

    def _asked(
        self,
        result: str,
        method: str,
        key: str | None,
        *,
        query: dict[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> ET.Element:
        try:
            return parse_result(self._execute(method, key, query=query, headers=headers).data, result)
        except NotXmlError as exc:
            raise TransportError("the store's answer can't be understood") from exc

    def _execute(
        self,
        method: str,
        key: str | None,
        *,
        query: dict[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._seam(
                method, self._bucket, key, body=body, headers=dict(headers or {}), query_params=query or {}
            )
        except (MinioException, ValueError) as exc:
            raise TransportError(f"minio-py gave up ({type(exc).__name__})") from exc


def _part(told: Mapping[str, str]) -> StoredPart:
    checksum = None
    for algorithm in ChecksumAlgorithm:
        value = told.get(f"Checksum{algorithm.upper()}")
        checksum = told_checksum(algorithm, value) or checksum
    return StoredPart(int(told["PartNumber"]), int(told["Size"]), told.get("ETag", ""), checksum)


def _time(text: str) -> datetime:
    """As S3 writes it: ISO 8601, in UTC whether it says so or not."""
    told = datetime.fromisoformat(text)
    return told.replace(tzinfo=UTC) if told.tzinfo is None else told
