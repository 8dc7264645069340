"""What a store truly does, found by trying: `uploadcore doctor` tells it, and tests begin with it.

Documentation says what a store should enforce; an old build, a gateway in between or a setting decides what it does. So each condition and
checksum is sent once wrong, and counts only if it was refused. Requests are made by hand through signed URLs, without an SDK: the SDK's
opinions would be part of the finding.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from types import MappingProxyType

from uploadcore.errors import StoreUnavailableError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.ports import StoreCapabilities
from uploadcore_s3.credentials import WallClock
from uploadcore_s3.errors import S3CallError, TransportError
from uploadcore_s3.signing import Credentials, QuerySigner
from uploadcore_s3.transport import Transport
from uploadcore_s3.xml import NotXmlError, local_name, parse_xml

__all__ = ["Probe", "Reply", "SignedHttp", "deep_text"]

_URL_LIFE = timedelta(minutes=5)
_NONE: Mapping[str, str] = MappingProxyType({})
_NINE = b"123456789"
_CHECKSUMS = {
    ChecksumAlgorithm.CRC64NVME: "rosUhgp5mIg=",
    ChecksumAlgorithm.CRC32C: "4waSgw==",
    ChecksumAlgorithm.SHA256: base64.b64encode(hashlib.sha256(_NINE).digest()).decode(),
}
"""Of `_NINE`. Sources: the check values in NVM Express NVM Command Set 1.0 (5.2.1.3.4) and RFC 3720 (B.4)."""
_WHOLE = (ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C)
"""What can be a checksum of a whole multipart object: CRCs (S3 User Guide, "Checking object integrity for data uploads")."""
_COPIERS = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What the store said. `code` is S3's word for what went wrong, and empty where nothing did; `region` is the bucket's, if it told."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    code: str = ""
    region: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the store said no; a 5xx says nothing."""
        return bool(self.code) and self.status < 500

    def __str__(self) -> str:
        """The code, or the status."""
        return self.code or f"status {self.status}"


class SignedHttp:
    """Requests to one bucket, each through a URL signed for it.

    Args:
        transport: Carries them.
        signer: Of the endpoint they go to.
        credentials: Asked for with each request.
        bucket: Its name, as the signer has it.
        clock: When they are signed.
    """

    def __init__(
        self,
        transport: Transport,
        signer: QuerySigner,
        credentials: Callable[[], Credentials],
        *,
        bucket: str,
        clock: WallClock,
    ) -> None:
        logging.getLogger("urllib3.connectionpool").addFilter(_tells_no_signature)
        self.bucket = bucket
        self._transport = transport
        self._signer = signer
        self._credentials = credentials
        self._clock = clock

    @property
    def access_key(self) -> str:
        """Who signs, as the store knows them. No secret, and still not for a log."""
        return self._credentials().access_key

    def sign(self, method: str, key: str, query: Mapping[str, str] = _NONE, headers: Mapping[str, str] = _NONE) -> str:
        """A URL for one request, good for five minutes. The key `""` is the bucket itself."""
        now = self._clock.now()
        return self._signer.presign(
            self._credentials(), method, key, query=query, headers=headers, now=now, expires_in=_URL_LIFE
        )

    def request(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        body: bytes = b"",
    ) -> Reply:
        """Make a request, all of whose headers are signed.

        Raises:
            StoreUnavailableError: No answer.
        """
        return self.send(method, self.sign(method, key, query, headers), headers, body)

    def send(self, method: str, url: str, headers: Mapping[str, str] = _NONE, body: bytes = b"") -> Reply:
        """Make a request as it is. A redirect is a reply, not followed.

        Raises:
            StoreUnavailableError: No answer.
        """
        try:
            answer = self._transport.send(method, url, headers, body)
        except S3CallError as exc:
            return Reply(exc.status, exc.headers, b"", exc.code or f"status {exc.status}", exc.region)
        except TransportError as exc:
            raise StoreUnavailableError(f"{method}: {exc}") from exc
        return Reply(answer.status, answer.headers, answer.body)


def _tells_no_signature(record: logging.LogRecord) -> bool:
    """urllib3's debug log tells every URL, and these are signed."""
    return "X-Amz-Signature" not in record.getMessage()


class Probe:
    """Tries, under keys of its own, what a store does. Every method leaves nothing behind but, where a store fails, what it refuses to delete.

    Args:
        http: With an identity that may do everything uploadcore does.
        prefix: Of the keys.

    Each method raises `StoreUnavailableError` where the store does not answer, or refuses what is not being tried.
    """

    def __init__(self, http: SignedHttp, prefix: str) -> None:
        self._http = http
        self._prefix = prefix

    def capabilities(self, *, declared: ChecksumAlgorithm | None = None) -> StoreCapabilities:
        """All of it: the checksums of parts as they are taken where uploads declare this one of the whole, or none."""
        return StoreCapabilities(
            conditional_put=self.conditional_put(),
            repeatable_complete=self.repeatable_complete(),
            concurrent_complete=self.concurrent_complete(),
            late_parts_refused=self.late_parts_refused(),
            forgets_completed=self.forgets_completed(),
            get_signs_head=self.get_signs_head(),
            list_by_prefix=self.list_by_prefix(),
            object_checksums=frozenset(algorithm for algorithm in _WHOLE if self.object_checksum(algorithm)),
            part_checksums=self.part_checksums(declared=declared),
        )

    # --- conditions -----------------------------------------------------------------------------------------------

    def conditional_put(self) -> bool:
        """Whether a signed `If-None-Match: *` refuses to overwrite."""
        with self._key() as key:
            condition = {"if-none-match": "*"}
            first = self._http.request("PUT", key, headers=condition, body=_NINE)
            second = self._http.request("PUT", key, headers=condition, body=b"overwritten")
            return first.status == 200 and second.status == 412 and self._content(key) == _NINE

    def conditional_complete(self) -> bool:
        """Whether a completion with `If-None-Match: *` refuses to overwrite."""
        with self._key() as key:
            self._must(self._http.request("PUT", key, body=b"stands"))
            upload = self._begin(key)
            answer = self._complete(key, upload, self._put_part(key, upload), {"if-none-match": "*"})
            return answer.status == 412 and self._content(key) == b"stands"

    def object_size(self) -> bool:
        """Whether a completion with a wrong `x-amz-mp-object-size` is refused."""
        with self._key() as key:
            upload = self._begin(key)
            answer = self._complete(key, upload, self._put_part(key, upload), {"x-amz-mp-object-size": "8"})
            return answer.is_refusal and self._content(key) is None

    # --- checksums ------------------------------------------------------------------------------------------------

    def part_checksums(self, *, declared: ChecksumAlgorithm | None) -> frozenset[ChecksumAlgorithm]:
        """All that `part_checksum` finds."""
        return frozenset(
            algorithm for algorithm in ChecksumAlgorithm if self.part_checksum(algorithm, declared=declared)
        )

    def part_checksum(self, algorithm: ChecksumAlgorithm, *, declared: ChecksumAlgorithm | None) -> bool:
        """Whether a part with a wrong checksum is refused, and one with the right checksum is not."""
        with self._key() as key:
            upload = self._try_to_begin(key, _NONE if declared is None else _declared(declared))
            if upload is None:
                return False
            header = f"x-amz-checksum-{algorithm}"
            query = {"partNumber": "1", "uploadId": upload}
            wrong = self._http.request("PUT", key, query=query, headers={header: _zeros(algorithm)}, body=_NINE)
            right = self._http.request("PUT", key, query=query, headers={header: _CHECKSUMS[algorithm]}, body=_NINE)
            return wrong.is_refusal and right.status == 200

    def object_checksum(self, algorithm: ChecksumAlgorithm) -> bool:
        """Whether completion with a wrong checksum of the whole is refused, and `HEAD` tells the right one."""
        with self._key() as key:
            upload = self._try_to_begin(key, _declared(algorithm))
            if upload is None:
                return False
            etag = self._put_part(key, upload)
            header = f"x-amz-checksum-{algorithm}"
            kind = {"x-amz-checksum-type": "FULL_OBJECT"}
            wrong = self._complete(key, upload, etag, {header: _zeros(algorithm), **kind})
            if not wrong.is_refusal or self._content(key) is not None:
                return False
            right = self._complete(key, upload, etag, {header: _CHECKSUMS[algorithm], **kind})
            told = self._http.request("HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"})
            return right.status == 200 and told.headers.get(header) == _CHECKSUMS[algorithm]

    # --- completion and after -------------------------------------------------------------------------------------

    def repeatable_complete(self) -> bool:
        """Whether completing twice answers success twice."""
        with self._key() as key:
            upload = self._begin(key)
            etag = self._put_part(key, upload)
            answers = [self._complete(key, upload, etag) for _ in range(2)]
            return all(not answer.code for answer in answers) and self._content(key) == _NINE

    def concurrent_complete(self) -> bool:
        """Whether completions at once do no harm."""
        with self._key() as key:
            upload = self._begin(key)
            etag = self._put_part(key, upload)
            with ThreadPoolExecutor(_COPIERS) as pool:
                answers = list(pool.map(lambda _: self._complete(key, upload, etag), range(_COPIERS)))
            harmless = all(not answer.code or answer.code == "NoSuchUpload" for answer in answers)
            return harmless and any(not answer.code for answer in answers) and self._content(key) == _NINE

    def late_parts_refused(self) -> bool:
        """Whether the object stays as it is when a part is sent after completion, refused or not."""
        with self._key() as key:
            upload = self._begin(key)
            self._must(self._complete(key, upload, self._put_part(key, upload)))
            late = self._http.request("PUT", key, query={"partNumber": "1", "uploadId": upload}, body=_NINE[::-1])
            # Not `_content`: a store that took the part may have an object now that can't be read.
            stands = self._http.request("GET", key)
            return late.status < 500 and (stands.status, stands.body) == (200, _NINE)

    def forgets_completed(self) -> bool:
        """Whether the parts of a completed upload are listed no more."""
        with self._key() as key:
            upload = self._begin(key)
            self._must(self._complete(key, upload, self._put_part(key, upload)))
            return self._http.request("GET", key, query={"uploadId": upload}).status == 404

    # --- listing, and what a URL allows ---------------------------------------------------------------------------

    def list_by_prefix(self) -> bool:
        """Whether multipart uploads are found by the beginning of their key."""
        with self._key() as key:
            upload = self._begin(key)
            answer = self._must(self._http.request("GET", query={"uploads": "", "prefix": key[:-5]}))
            return upload.encode() in answer.body

    def unsigned_copy_source_refused(self, writer: SignedHttp) -> bool:
        """Whether a part's URL copies nothing for an `x-amz-copy-source` that it was not signed with: else it reads any object its signer may.

        Args:
            writer: Signs the URL, as who signs those of clients. What counts is what was stored, whatever was answered.
        """
        secret = b"another's secret"
        with self._key() as source, self._key() as key:
            self._must(self._http.request("PUT", source, body=secret))
            upload = self._begin(key)
            url = writer.sign("PUT", key, {"partNumber": "1", "uploadId": upload})
            writer.send("PUT", url, {"x-amz-copy-source": f"/{self._http.bucket}/{source}"})
            listed = self._must(self._http.request("GET", key, query={"uploadId": upload}))
            return deep_text(listed.body, "Size") != str(len(secret))

    def get_signs_head(self) -> bool:
        """Whether a URL signed for GET answers HEAD."""
        with self._key() as key:
            self._must(self._http.request("PUT", key, body=_NINE))
            return not self._http.send("HEAD", self._http.sign("GET", key)).code

    def length_bound(self) -> bool:
        """Whether a signed `content-length` refuses a byte more and a byte less."""
        with self._key() as key:
            upload = self._begin(key)
            query, length = {"partNumber": "1", "uploadId": upload}, {"content-length": "9"}
            url = self._http.sign("PUT", key, query, length)
            answers = [self._http.send("PUT", url, {}, body) for body in (_NINE + b"0", _NINE[:-1])]
            return all(answer.is_refusal for answer in answers) and self._http.send("PUT", url, {}, _NINE).status == 200

    # --- steps ----------------------------------------------------------------------------------------------------

    def _key(self) -> _Key:
        return _Key(self._http, f"{self._prefix}/doctor/{token_hex(8)}")

    def _begin(self, key: str) -> str:
        upload = self._try_to_begin(key, _NONE)
        if upload is None:
            raise StoreUnavailableError("the store refuses to begin a multipart upload")
        return upload

    def _try_to_begin(self, key: str, headers: Mapping[str, str]) -> str | None:
        answer = self._http.request("POST", key, query={"uploads": ""}, headers=headers)
        return deep_text(answer.body, "UploadId") or None

    def _put_part(self, key: str, upload: str) -> str:
        query = {"partNumber": "1", "uploadId": upload}
        return self._must(self._http.request("PUT", key, query=query, body=_NINE)).headers.get("etag", "")

    def _complete(self, key: str, upload: str, etag: str, headers: Mapping[str, str] = _NONE) -> Reply:
        part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
        return self._http.request("POST", key, query={"uploadId": upload}, headers=headers, body=body)

    def _content(self, key: str) -> bytes | None:
        answer = self._http.request("GET", key)
        return None if answer.status == 404 else self._must(answer).body

    @staticmethod
    def _must(answer: Reply) -> Reply:
        if answer.code:
            raise StoreUnavailableError(f"the store answered {answer}")
        return answer


class _Key:
    """A key of the probe's own; at the end, whatever stands or is in progress under it goes."""

    def __init__(self, http: SignedHttp, key: str) -> None:
        self._http = http
        self._name = key

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *_: object) -> None:
        listed = self._http.request("GET", query={"uploads": "", "prefix": self._name})
        upload = deep_text(listed.body, "UploadId")
        if upload:
            self._http.request("DELETE", self._name, query={"uploadId": upload})
        self._http.request("DELETE", self._name)


def _declared(algorithm: ChecksumAlgorithm) -> dict[str, str]:
    """What a multipart upload says at its beginning of the checksums to come."""
    declared = {"x-amz-checksum-algorithm": algorithm.upper()}
    if algorithm in _WHOLE:
        declared["x-amz-checksum-type"] = "FULL_OBJECT"
    return declared


def _zeros(algorithm: ChecksumAlgorithm) -> str:
    return base64.b64encode(bytes(algorithm.digest_size)).decode()


def deep_text(body: bytes, name: str) -> str:
    """The text of the first element of that name, however deep; empty if there is none, or no document."""
    try:
        found = (element.text or "" for element in parse_xml(body).iter() if local_name(element) == name)
        return next(found, "")
    except NotXmlError:
        return ""
