"""The ten calls over boto3.

botocore finds credentials, names hosts, builds requests, signs them and parses answers. What it would also do is switched off: it tries once,
adds no checksum nobody asked for, and follows no redirect to another region, for `before-send` hands its request to our transport.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Unpack
from urllib.parse import unquote_plus

import boto3
import botocore.auth
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError

from uploadcore.errors import InvalidRequestError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import StoredPart
from uploadcore.ports import AdapterContext
from uploadcore_s3.boto_credentials import DEFAULT_REGION, EXPIRED, frozen, identities, is_expired
from uploadcore_s3.client import Identity, ListedMultipart, MultipartsPage, ObjectHead, PartsPage, told_checksum
from uploadcore_s3.configuration import S3Configuration, StoreOptions, configured, split_url
from uploadcore_s3.errors import S3CallError, TransportError
from uploadcore_s3.signing import Credentials
from uploadcore_s3.sigv4 import Instant
from uploadcore_s3.store import S3Store
from uploadcore_s3.store_clock import StoreClock
from uploadcore_s3.transport import Transport
from uploadcore_s3.xml import NotXmlError, parse_result

__all__ = ["S3ObjectStore", "s3_from_url"]

_PARAMETERS = {
    "content-type": "ContentType",
    "if-none-match": "IfNoneMatch",
    "x-amz-checksum-algorithm": "ChecksumAlgorithm",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-mp-object-size": "MpuObjectSize",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-storage-class": "StorageClass",
    "x-amz-tagging": "Tagging",
}
"""botocore's name of each header the store sends."""
_META = "x-amz-meta-"
_RESULTS = {
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListParts": "ListPartsResult",
}
"""The document each operation is answered with. Completion's is read by the store."""


def s3_from_url(url: str, context: AdapterContext) -> S3ObjectStore:
    """The store for `s3://bucket?endpoint=…&region=…`. Opens nothing.

    Raises:
        InvalidRequestError: The URL names no bucket, or something that can't be used.

    >>> from pathlib import Path
    >>> context = AdapterContext(Path("unused"), "https://uploads.example.com")
    >>> store = s3_from_url("s3://media?endpoint=http://127.0.0.1:8080&capabilities=swift", context)
    >>> store, store.capabilities.conditional_put
    (S3ObjectStore('media'), True)
    """
    parts, _, options = split_url(url, context)
    if parts.path not in {"", "/"}:
        raise InvalidRequestError("an s3 URL is s3://bucket?…: where keys begin is a setting of the service")
    return S3ObjectStore(parts.netloc, **options)


class S3ObjectStore(S3Store):
    """An object store on S3, or on whatever speaks its protocol, over boto3.

    Credentials come from boto3's own chain: environment, profile, container or instance role; those that expire are renewed.

    Args:
        bucket: Its name.
        session: Whose credentials and configuration are used, instead of one with `profile`.
        write_session: For signing PUTs; by default the same.
        **options: See `uploadcore_s3.S3Configuration`.

    Raises:
        InvalidRequestError: An option can't be used.

    Example:
        >>> import asyncio
        >>> from datetime import timedelta
        >>> from uploadcore.plan import Part
        >>> from uploadcore.upload import Address
        >>> async def sign() -> str:
        ...     credentials = Credentials("AKIDEXAMPLE", "an example, no secret")
        ...     store = S3ObjectStore("media", region="eu-central-1", credentials=credentials)
        ...     await store.open()
        ...     address = Address("media", "a/key", "upload-id")
        ...     [part] = await store.presign_parts(
        ...         address, [Part(1, 0, 8)], checksums={}, expires_in=timedelta(minutes=15)
        ...     )
        ...     await store.close()
        ...     return part.url
        >>> asyncio.run(sign()).partition("?")[0]
        'https://media.s3.eu-central-1.amazonaws.com/a/key'
    """

    def __init__(
        self,
        bucket: str,
        *,
        session: boto3.Session | None = None,
        write_session: boto3.Session | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        super().__init__(configured(bucket, options))
        self._session = session
        self._write_session = write_session

    def _connect(self) -> BotoClient:
        return BotoClient(self._configuration, self._clock, self._session, self._write_session)


class BotoClient:
    """`S3Client` over boto3."""

    def __init__(
        self,
        configuration: S3Configuration,
        clock: StoreClock,
        session: boto3.Session | None,
        write_session: boto3.Session | None,
    ) -> None:
        """Make the client, and find the credentials.

        Raises:
            LookupError: There are none.
            ValueError: botocore can't use the configuration.
        """
        _quieten()
        self._bucket = configuration.bucket
        self._clock = clock
        try:
            session = session or boto3.Session(profile_name=configuration.profile)
            self._identities = identities(configuration, session, write_session)
            self._transport = Transport(
                connect_timeout=configuration.timeouts.connect,
                size=configuration.threads,
                ca_certs=configuration.ca_certs or _ca_certs(session),
                clock=clock,
            )
            self._client: Any = session.client(
                "s3",
                region_name=configuration.region or session.region_name or DEFAULT_REGION,
                endpoint_url=configuration.endpoint,
                config=_config(configuration),
                **_explicit(configuration.credentials),
            )
        except BotoCoreError as exc:
            raise LookupError(str(exc)) from exc
        self._client.meta.events.register("choose-signer.s3", self._signer)
        self._client.meta.events.register("before-send.s3", self._send)
        self._client.meta.events.register("after-call.s3.CompleteMultipartUpload", _keep_body)

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def endpoint(self) -> str:
        endpoint: str = self._client.meta.endpoint_url
        return endpoint

    @property
    def region(self) -> str:
        region: str = self._client.meta.region_name
        return region

    def create_multipart(self, key: str, headers: Mapping[str, str]) -> str:
        with _unparsed():
            answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **_parameters(headers))
        upload_id: str = answer.get("UploadId", "")
        return upload_id

    def list_parts(self, key: str, upload_id: str, *, marker: int, limit: int) -> PartsPage:
        with _unparsed():
            answer = self._client.list_parts(
                Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumberMarker=marker, MaxParts=limit
            )
            parts = [_part(part) for part in answer.get("Parts", [])]
        return PartsPage(parts, answer.get("NextPartNumberMarker") or 0 if answer.get("IsTruncated") else None)

    def complete_multipart(
        self, key: str, upload_id: str, parts: Sequence[StoredPart], headers: Mapping[str, str]
    ) -> bytes:
        named = [{"PartNumber": part.part_number, "ETag": part.etag} for part in parts]
        with _unparsed():
            answer = self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": named},
                **_parameters(headers),
            )
        body: bytes = answer[_BODY]
        return body

    def abort_multipart(self, key: str, upload_id: str) -> None:
        with _unparsed():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    def list_multiparts(self, prefix: str, *, marker: tuple[str, str] | None, limit: int) -> MultipartsPage:
        after = {} if marker is None else {"KeyMarker": marker[0], "UploadIdMarker": marker[1]}
        with _unparsed():
            answer = self._client.list_multipart_uploads(
                Bucket=self._bucket, Prefix=prefix, MaxUploads=limit, EncodingType="url", **after
            )
            decoded = unquote_plus if answer.get("EncodingType") == "url" else str
            uploads = [
                ListedMultipart(decoded(found["Key"]), found["UploadId"], found["Initiated"])
                for found in answer.get("Uploads", [])
            ]
        if not answer.get("IsTruncated"):
            return MultipartsPage(uploads, None)
        return MultipartsPage(uploads, (decoded(answer.get("NextKeyMarker", "")), answer.get("NextUploadIdMarker", "")))

    def head(self, key: str, *, with_checksum: bool) -> ObjectHead:
        mode = {"ChecksumMode": "ENABLED"} if with_checksum else {}
        with _unparsed():
            answer = self._client.head_object(Bucket=self._bucket, Key=key, **mode)
            return ObjectHead(
                size=answer["ContentLength"],
                etag=answer.get("ETag", ""),
                content_type=answer.get("ContentType", ""),
                metadata=answer.get("Metadata", {}),
                headers=answer["ResponseMetadata"]["HTTPHeaders"],
            )

    def delete(self, key: str) -> None:
        with _unparsed():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def put_empty(self, key: str, headers: Mapping[str, str]) -> None:
        with _unparsed():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=b"", **_parameters(headers))

    def credentials(self, identity: Identity) -> Credentials:
        held = self._identities[identity]
        return held if isinstance(held, Credentials) else frozen(held)

    def close(self) -> None:
        self._transport.close()
        self._client.close()

    def _signer(self, signature_version: object, context: dict[str, Any], **_: object) -> str | None:
        """Sign as botocore does, by the store's time instead of this machine's."""
        if signature_version != _SIGNATURE:
            return None
        context[_CLOCK] = self._clock
        return _SIGNATURE_BY_STORE

    def _send(self, request: AWSPreparedRequest, event_name: str, **_: object) -> AWSResponse:
        """Instead of botocore's own session. What this raises reaches the caller as it is: nothing of botocore's looks at it again.

        botocore's parser takes what it does not know for an answer that lists nothing: a document of another name ends here.
        """
        answer = self._transport.send(request.method, request.url, _text(request.headers), _bytes(request.body))
        result = _RESULTS.get(event_name.rpartition(".")[2])
        if result is not None:
            try:
                parse_result(answer.body, result)
            except NotXmlError as exc:
                raise TransportError("the store's answer can't be understood") from exc
        return AWSResponse(request.url, answer.status, dict(answer.headers), answer.as_response())


_SIGNATURE = "s3v4"
_SIGNATURE_BY_STORE = "uploadcore-s3v4"
_CLOCK = "uploadcore-clock"


class _AuthByStore(botocore.auth.S3SigV4Auth):  # type: ignore[misc]  # untyped
    """Signature Version 4 as botocore makes it, at another time than this machine's."""

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        clock: StoreClock = request.context[_CLOCK]
        request.context["timestamp"] = Instant.of(clock.now()).second
        super()._modify_request_before_signing(request)


botocore.auth.AUTH_TYPE_MAPS[_SIGNATURE_BY_STORE] = _AuthByStore
_BODY = "uploadcore-body"


def _keep_body(http_response: AWSResponse, parsed: dict[str, Any], **_: object) -> None:
    """The answer to a completion as it was sent: the parser leaves nothing to tell an empty document from a result."""
    parsed[_BODY] = http_response.content


@contextmanager
def _unparsed() -> Iterator[None]:
    """A whole answer that botocore can't read, or that lacks what it must have, tells as much as none."""
    try:
        yield
    except (ResponseParserError, KeyError, TypeError, ValueError) as exc:
        if isinstance(exc, (S3CallError, TransportError)):
            raise
        raise TransportError("the store's answer can't be understood") from exc
    except RuntimeError as exc:
        if not is_expired(exc):
            raise
        raise TransportError(EXPIRED, is_retryable=False) from exc
    except (BotoCoreError, ClientError) as exc:  # a ClientError: an answer of 200 that botocore could not parse
        raise TransportError(f"botocore gave up ({type(exc).__name__})") from exc


def _parameters(headers: Mapping[str, str]) -> dict[str, Any]:
    """The same in botocore's words."""
    parameters: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith(_META):
            metadata[name.removeprefix(_META)] = value
        elif name == "x-amz-mp-object-size":
            parameters[_PARAMETERS[name]] = int(value)
        else:
            parameters[_PARAMETERS[name]] = value
    return {**parameters, "Metadata": metadata} if metadata else parameters


def _part(listed: Mapping[str, Any]) -> StoredPart:
    checksum = None
    for algorithm in ChecksumAlgorithm:
        value = listed.get(f"Checksum{algorithm.upper()}")
        checksum = told_checksum(algorithm, value) or checksum
    return StoredPart(listed["PartNumber"], listed["Size"], listed.get("ETag", ""), checksum)


def _config(configuration: S3Configuration) -> Config:
    return Config(
        signature_version=_SIGNATURE,
        s3={"addressing_style": "path" if configuration.is_path_style else "virtual"},
        retries={"total_max_attempts": 1, "mode": "standard"},
        # What S3 does not need is not sent: stores that are not S3 refuse it, or take it for bytes of the object.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=configuration.timeouts.connect,
        read_timeout=configuration.timeouts.call,
        parameter_validation=True,
    )


def _explicit(credentials: Credentials | None) -> dict[str, str | None]:
    if credentials is None:
        return {}
    return {
        "aws_access_key_id": credentials.access_key,
        "aws_secret_access_key": credentials.secret_key,
        "aws_session_token": credentials.session_token,
    }


def _ca_certs(session: boto3.Session) -> str | None:
    """As botocore does: its setting (AWS_CA_BUNDLE), then REQUESTS_CA_BUNDLE, then certifi's or its own bundle."""
    told = session._session.get_config_variable("ca_bundle")  # boto3 passes this on nowhere
    path: str | None = told or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True)
    return path


def _text(headers: Mapping[str, str | bytes]) -> dict[str, str]:
    return {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in headers.items()}


def _bytes(body: Any) -> bytes | None:
    if body is None:
        return None
    content = body.read() if hasattr(body, "read") else body
    return content.encode() if isinstance(content, str) else bytes(content)


def _quieten() -> None:
    """The debug log of botocore holds signatures and tokens: it follows no root logger set to DEBUG, only its own set so on purpose."""
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
