"""`/v1/uploads`: the use cases of `UploadService`, one handler each."""

from __future__ import annotations

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency

from uploadcore import UploadCore
from uploadcore.errors import InvalidRequestError
from uploadcore.states import UploadState
from uploadcore_http.examples import FILE, SIGNED_PART, UPLOAD
from uploadcore_http.links import Links
from uploadcore_http.operation import Answer, Operation, Parameter, operation_opt
from uploadcore_http.requests import LARGE_BODY, MAX_CURSOR, SMALL_BODY, ApiRequest, bounded, decode, whole_number
from uploadcore_http.responses import BytesResponse, json_response
from uploadcore_http.schemas import (
    CompleteRequest,
    CompletionBody,
    InitiateRequest,
    PartsBody,
    PartUrlsRequest,
    SignedPartsBody,
    UploadBody,
    UploadPageBody,
    completion_body,
    parts_body,
    signed_parts,
    upload_body,
    upload_page_body,
)

__all__ = ["SIGN_PATH", "UPLOAD_ROUTES", "sign"]

SIGN_PATH = "/v1/uploads/{upload_id:str}/part-urls"
MAX_IDEMPOTENCY_KEY = 255
MAX_FINGERPRINT = 255
COMPLETING_RETRY_AFTER = 2
"""Seconds until it is worth asking again whether the store has assembled."""

_initiate_request = msgspec.json.Decoder(InitiateRequest)
_part_urls_request = msgspec.json.Decoder(PartUrlsRequest)
_complete_request = msgspec.json.Decoder(CompleteRequest)
_encode = msgspec.json.Encoder().encode

_OF_THIS_UPLOAD = {"parameters": {"upload_id": "$response.body#/id"}}
_OF_ITS_FILE = {"parameters": {"file_id": "$response.body#/file_id"}}


@post(
    "/v1/uploads",
    opt=operation_opt(
        Operation(
            id="initiateUpload",
            summary="Begin an upload, and sign its first parts",
            body=InitiateRequest,
            example={
                "filename": "trip.mp4",
                "size": 9_663_676_416,
                "content_type": "video/mp4",
                "title": "Trip",
                "metadata": {"camera": "x100"},
                "part_size": 16_777_216,
                "sign": 1,
            },
            parameters=(
                Parameter(
                    "Idempotency-Key",
                    "header",
                    "A repeated request with the same key and body returns the same upload, for 24 hours.",
                    {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY},
                ),
            ),
            answers={
                201: Answer(
                    "The upload, with the parts signed.",
                    UploadBody,
                    headers={"Location": "Where the upload is."},
                    example=UPLOAD,
                )
            },
            codes=(
                "invalid_request",
                "quota_exceeded",
                "file_not_found",
                "file_not_ready",
                "upload_busy",
                "too_large",
                "content_type_not_allowed",
                "idempotency_mismatch",
                "store_unavailable",
                "storage_full",
            ),
            links={
                201: {
                    "upload": {"operationId": "getUpload", **_OF_THIS_UPLOAD},
                    "parts": {"operationId": "listParts", **_OF_THIS_UPLOAD},
                    "sign": {"operationId": "signParts", **_OF_THIS_UPLOAD},
                    "complete": {"operationId": "completeUpload", **_OF_THIS_UPLOAD},
                    "abort": {"operationId": "abortUpload", **_OF_THIS_UPLOAD},
                    "file": {"operationId": "getFile", **_OF_ITS_FILE},
                    "update": {"operationId": "updateFile", **_OF_ITS_FILE},
                }
            },
        )
    ),
)
async def initiate_upload(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Begin an upload."""
    owner = request.owner
    request.query()
    key = request.header(b"idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidRequestError(f"an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} characters")
    asked = decode(_initiate_request, await request.read(SMALL_BODY))
    view = await core.uploads.initiate(
        owner=owner,
        filename=asked.filename,
        size=asked.size,
        content_type=asked.content_type,
        file_id=asked.file_id,
        title=asked.title,
        metadata=asked.metadata,
        fingerprint=asked.fingerprint,
        checksum=None if asked.checksum is None else asked.checksum.checksum(),
        part_size=asked.part_size,
        sign=asked.sign,
        idempotency_key=key,
    )
    location = Links.of(request.scope).to(f"/v1/uploads/{view.id}")
    return json_response(upload_body(view), 201, {"location": location})


@get(
    "/v1/uploads",
    opt=operation_opt(
        Operation(
            id="listUploads",
            summary="Your uploads, newest first",
            parameters=(
                Parameter(
                    "state", "query", "Only those in this state.", {"enum": [state.value for state in UploadState]}
                ),
                Parameter(
                    "fingerprint",
                    "query",
                    "Only those initiated with this fingerprint.",
                    {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": MAX_FINGERPRINT,
                        "pattern": r"^[^\u0000-\u001f\u007f]+$",
                    },
                ),
                Parameter(
                    "cursor",
                    "query",
                    "`next` of the page before.",
                    {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR, "pattern": "^[A-Za-z0-9_=-]+$"},
                ),
                Parameter(
                    "limit",
                    "query",
                    "Uploads on a page.",
                    {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 100},
                ),
            ),
            answers={
                200: Answer(
                    "A page of uploads.", UploadPageBody, example={"uploads": [{**UPLOAD, "parts": []}], "next": None}
                )
            },
            codes=("invalid_request",),
        )
    ),
)
async def list_uploads(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Find the owner's uploads."""
    owner = request.owner
    query = request.query({"state", "fingerprint", "cursor", "limit"})
    page = await core.uploads.find(
        owner=owner,
        state=_state(query.get("state")),
        fingerprint=bounded(query, "fingerprint", MAX_FINGERPRINT),
        cursor=bounded(query, "cursor", MAX_CURSOR),
        limit=whole_number(query, "limit", 100, least=1, most=1_000),
    )
    return json_response(upload_page_body(page))


@get(
    "/v1/uploads/{upload_id:str}",
    opt=operation_opt(
        Operation(
            id="getUpload",
            summary="One upload",
            answers={200: Answer("The upload.", UploadBody, example={**UPLOAD, "parts": []})},
            codes=("invalid_request", "upload_not_found"),
        )
    ),
)
async def get_upload(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Read one upload from the database."""
    owner = request.owner
    request.query()
    return json_response(upload_body(await core.uploads.get(request.upload_id, owner=owner)))


@get(
    "/v1/uploads/{upload_id:str}/parts",
    opt=operation_opt(
        Operation(
            id="listParts",
            summary="What the store has of an upload, and what it misses",
            parameters=(
                Parameter(
                    "after",
                    "query",
                    "Only parts with a higher number.",
                    {"type": "integer", "minimum": 0, "maximum": 10_000, "default": 0},
                ),
                Parameter(
                    "limit",
                    "query",
                    "Parts on a page.",
                    {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 1_000},
                ),
            ),
            answers={
                200: Answer(
                    "A page of parts; the rest covers the whole upload.",
                    PartsBody,
                    example={
                        "parts": [{"part_number": 1, "size": 16_777_216, "etag": "6f1c", "checksum": None}],
                        "next": None,
                        "missing": [[2, 575]],
                        "mismatched": [576],
                        "uploaded_bytes": 16_777_216,
                    },
                )
            },
            codes=("invalid_request", "upload_not_found", "upload_busy", "upload_closed", "store_unavailable"),
        )
    ),
)
async def list_parts(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Hold the plan against what the store lists."""
    owner = request.owner
    query = request.query({"after", "limit"})
    after = whole_number(query, "after", 0, least=0, most=10_000)
    limit = whole_number(query, "limit", 1_000, least=1, most=1_000)
    listed = await core.uploads.list_parts(request.upload_id, owner=owner)
    return json_response(parts_body(listed, after=after, limit=limit))


@post(
    SIGN_PATH,
    opt=operation_opt(
        Operation(
            id="signParts",
            summary="Sign requests that upload parts",
            body=PartUrlsRequest,
            example={"part_numbers": [7, 8], "checksums": {"7": "AAAAAAAAAAA="}},
            answers={200: Answer("The signed parts.", SignedPartsBody, example={"parts": [SIGNED_PART]})},
            codes=(
                "invalid_request",
                "upload_not_found",
                "upload_busy",
                "upload_closed",
                "too_large",
                "part_out_of_range",
            ),
        )
    ),
)
async def sign_parts(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Sign parts: the long way, for what `Shortcut` does not take."""
    owner = request.owner
    request.query()
    return await sign(core, owner, request.upload_id, await request.read(LARGE_BODY))


async def sign(core: UploadCore, owner: str, upload_id: str, body: bytes) -> BytesResponse:
    """Sign the parts a body asks for. The hot path: what can be left out here is."""
    asked = decode(_part_urls_request, body)
    if asked.checksums or asked.lengths:
        parts = await core.uploads.sign_parts(
            upload_id,
            owner=owner,
            part_numbers=asked.part_numbers,
            checksums=asked.part_checksums(),
            lengths=asked.part_lengths(),
        )
    else:
        parts = await core.uploads.sign_parts(upload_id, owner=owner, part_numbers=asked.part_numbers)
    return BytesResponse(_encode(SignedPartsBody(signed_parts(parts))), 200, "application/json")


@post(
    "/v1/uploads/{upload_id:str}/complete",
    opt=operation_opt(
        Operation(
            id="completeUpload",
            summary="Make a file of the parts",
            body=CompleteRequest,
            body_required=False,
            example={},
            answers={
                200: Answer(
                    "The upload is completed, the file available.",
                    CompletionBody,
                    example={"upload": {**UPLOAD, "state": "completed", "parts": []}, "file": FILE},
                ),
                202: Answer(
                    "The store still assembles: ask again after `Retry-After` seconds.",
                    CompletionBody,
                    headers={"Retry-After": "Seconds."},
                    example={"upload": {**UPLOAD, "state": "completing", "parts": []}, "file": None},
                ),
            },
            codes=(
                "invalid_request",
                "upload_not_found",
                "upload_busy",
                "upload_closed",
                "parts_missing",
                "file_not_ready",
                "version_conflict",
                "too_large",
                "checksum_mismatch",
                "store_unavailable",
                "storage_full",
            ),
        )
    ),
)
async def complete_upload(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Complete: 200 with the file, or 202 while the store assembles."""
    owner = request.owner
    request.query()
    body = await request.read(LARGE_BODY)
    asked = decode(_complete_request, body) if body else CompleteRequest()
    completion = await core.uploads.complete(
        request.upload_id,
        owner=owner,
        size=asked.size,
        checksum=None if asked.checksum is None else asked.checksum.checksum(),
    )
    if completion.file is None:
        return json_response(completion_body(completion), 202, {"retry-after": str(COMPLETING_RETRY_AFTER)})
    return json_response(completion_body(completion))


@delete(
    "/v1/uploads/{upload_id:str}",
    status_code=200,  # what is sent is 204: Litestar wants a handler of that status to return nothing, and ours returns the answer
    opt=operation_opt(
        Operation(
            id="abortUpload",
            summary="Abort an upload and drop what it brought",
            answers={204: Answer("It is aborted, or will be as soon as the store has dropped it.")},
            codes=("invalid_request", "upload_not_found", "upload_busy", "upload_closed"),
        )
    ),
)
async def abort_upload(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Abort."""
    owner = request.owner
    request.query()
    await core.uploads.abort(request.upload_id, owner=owner)
    return BytesResponse(b"", 204)


def _state(value: str | None) -> UploadState | None:
    try:
        return None if value is None else UploadState(value)
    except ValueError:
        raise InvalidRequestError(f"state is one of {', '.join(UploadState)}") from None


UPLOAD_ROUTES = (initiate_upload, list_uploads, get_upload, list_parts, sign_parts, complete_upload, abort_upload)
