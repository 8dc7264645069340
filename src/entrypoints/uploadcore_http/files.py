"""`/v1/files`: what was uploaded. One file can be read by whoever its visibility says; everything else is its owner's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from litestar import delete, patch, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod

from uploadcore import UploadCore
from uploadcore.errors import ContentTypeNotAllowedError, InvalidRequestError, VersionConflictError
from uploadcore.file import FileStatus, FileView, Visibility
from uploadcore_http.examples import FILE
from uploadcore_http.fields import MAX_LABEL
from uploadcore_http.operation import Answer, Operation, Parameter, operation_opt
from uploadcore_http.preconditions import file_etag, is_known, joined, required_versions
from uploadcore_http.requests import MAX_CURSOR, SMALL_BODY, ApiRequest, bounded, decode, whole_number
from uploadcore_http.responses import BytesResponse, json_response
from uploadcore_http.schemas import FileBody, FilePageBody, UpdateFileRequest, file_body, file_page_body

__all__ = ["FILE_PATH", "FILE_ROUTES", "read_file"]

FILE_PATH = "/v1/files/{file_id:str}"

_update_request = msgspec.json.Decoder(UpdateFileRequest)

_SHARED = "public, no-cache"
_OWN = "private, no-cache"
"""May be kept, and is asked for again each time: an answer is 304, or the truth, or 404 once the file is not visible any more."""
_CONDITIONS = frozenset({b"if-match", b"if-none-match"})
_READ = [HttpMethod.GET, HttpMethod.HEAD]
_ETAG = {"ETag": "Of this version of the file."}
_IF_MATCH = Parameter(
    "If-Match",
    "header",
    "Only if the file still has one of these entity tags, or versions in quotes; `*` for any. Otherwise the answer is 412.",
    {"type": "string", "pattern": r'^(\*|"[0-9]{1,9}"(, "[0-9]{1,9}")?)$'},
)
_OF_THIS_FILE = {"parameters": {"file_id": "$response.body#/id"}}


@route(
    "/v1/files",
    http_method=_READ,
    opt=operation_opt(
        Operation(
            id="listFiles",
            summary="Your files, newest first",
            parameters=(
                Parameter(
                    "status",
                    "query",
                    "Only those with this status; by default all but the deleted ones.",
                    {"enum": [status.value for status in FileStatus]},
                ),
                Parameter(
                    "label",
                    "query",
                    "Only those with this label.",
                    {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": MAX_LABEL,
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
                    "Files on a page.",
                    {"type": "integer", "minimum": 1, "maximum": 1_000, "default": 100},
                ),
            ),
            answers={200: Answer("A page of files.", FilePageBody, example={"files": [FILE], "next": None})},
            codes=("invalid_request",),
            links={200: {"first": {"operationId": "getFile", "parameters": {"file_id": "$response.body#/files/0/id"}}}},
        )
    ),
)
async def list_files(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Find the owner's files."""
    owner = request.owner
    query = request.query({"status", "label", "cursor", "limit"})
    page = await core.files.find(
        owner=owner,
        status=_status(query.get("status")),
        label=bounded(query, "label", MAX_LABEL),
        cursor=bounded(query, "cursor", MAX_CURSOR),
        limit=whole_number(query, "limit", 100, least=1, most=1_000),
    )
    return json_response(file_page_body(page))


@route(
    FILE_PATH,
    http_method=_READ,
    opt=operation_opt(
        Operation(
            id="getFile",
            summary="One file: yours, or an unlisted or public one",
            parameters=(
                Parameter(
                    "If-None-Match",
                    "header",
                    "An `ETag` seen before: the answer is 304 if nothing changed.",
                    {"type": "string"},
                ),
                _IF_MATCH,
            ),
            answers={
                200: Answer(
                    "The file.",
                    FileBody,
                    headers={**_ETAG, "Cache-Control": "May be kept, to be revalidated."},
                    example=FILE,
                ),
                304: Answer("Nothing changed.", headers=_ETAG),
            },
            codes=("invalid_request", "file_not_found", "version_conflict"),
            allows_anybody=True,
            links={
                200: {
                    "update": {"operationId": "updateFile", **_OF_THIS_FILE},
                    "delete": {"operationId": "deleteFile", **_OF_THIS_FILE},
                    "content": {"operationId": "getFileContent", **_OF_THIS_FILE},
                    "head": {"operationId": "getFileContentHead", **_OF_THIS_FILE},
                }
            },
        )
    ),
)
async def get_file(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Read one file: the long way, for what `Shortcut` does not take."""
    request.query()
    return await read_file(core, request.caller, request.file_id, request.scope["headers"])


async def read_file(
    core: UploadCore, caller: str | None, file_id: str, headers: Iterable[tuple[bytes, bytes]]
) -> BytesResponse:
    """One file, for whoever may see it. A hot path: everybody looks at the same one."""
    view = await core.files.get(file_id, owner=caller)
    etag = file_etag(view.version)
    is_shared = view.visibility is Visibility.PUBLIC and view.status is FileStatus.AVAILABLE
    told = {"etag": etag, "cache-control": _SHARED if is_shared else _OWN}
    for name, _ in headers:  # hardly ever is there one, and two searches cost more than one
        if name in _CONDITIONS:
            asked, seen = required_versions(joined(headers, b"if-match")), joined(headers, b"if-none-match")
            if asked is not None and view.version not in asked:
                raise VersionConflictError(f"file {file_id!r} has version {view.version} now", file_id=file_id)
            if seen is not None and is_known(etag, seen):
                return BytesResponse(b"", 304, headers=told)
            break
    return json_response(file_body(view), headers=told)


@patch(
    FILE_PATH,
    opt=operation_opt(
        Operation(
            id="updateFile",
            summary="Change what a file is called, says and who may see it",
            parameters=(_IF_MATCH,),
            body=UpdateFileRequest,
            example={"title": "Trip to the lake", "labels": ["lake", "2026"], "visibility": "unlisted"},
            answers={200: Answer("The file as it is now.", FileBody, headers=_ETAG, example=FILE)},
            codes=(
                "invalid_request",
                "file_not_found",
                "file_not_ready",
                "version_conflict",
                "too_large",
                "content_type_not_allowed",
            ),
        )
    ),
)
async def update_file(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Change the members that are given."""
    owner, file_id = request.owner, request.file_id
    request.query()
    _refuse_patch_formats(request.header(b"content-type"))
    versions = _versions(request)
    changes = decode(_update_request, await request.read(SMALL_BODY)).changes()

    async def update(version: int | None) -> FileView:
        return await core.files.update(file_id, owner=owner, if_version=version, **changes)

    view = await _at_one_of(versions, update)
    return json_response(file_body(view), headers={"etag": file_etag(view.version)})


@delete(
    FILE_PATH,
    status_code=200,  # what is sent is 204: see `abort_upload`
    opt=operation_opt(
        Operation(
            id="deleteFile",
            summary="Delete a file and its content",
            parameters=(_IF_MATCH,),
            answers={204: Answer("It is deleted, or will be as soon as the store has dropped its content.")},
            codes=("invalid_request", "file_not_found", "file_not_ready", "version_conflict"),
        )
    ),
)
async def delete_file(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Delete."""
    owner, file_id = request.owner, request.file_id
    request.query()

    async def delete_it(version: int | None) -> FileView:
        return await core.files.delete(file_id, owner=owner, if_version=version)

    await _at_one_of(_versions(request), delete_it)
    return BytesResponse(b"", 204)


@route(
    f"{FILE_PATH}/content",
    http_method=_READ,
    status_code=307,
    opt=operation_opt(
        Operation(
            id="getFileContent",
            summary="Where to read a file's content: yours, or an unlisted or public one's",
            answers={
                307: Answer("Go there; the URL is signed and short-lived.", headers={"Location": "The signed URL."})
            },
            codes=("invalid_request", "file_not_found", "file_not_ready"),
            allows_anybody=True,
        )
    ),
)
async def get_file_content(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Redirect to a signed URL of the store."""
    request.query()
    signed = await core.files.content(request.file_id, owner=request.caller)
    return BytesResponse(b"", 307, headers={"location": signed.url})


async def _at_one_of(versions: tuple[int, ...] | None, change: Callable[[int | None], Awaitable[FileView]]) -> FileView:
    """Change a file that has one of these versions: the database says for one at a time whether it stands.

    Raises:
        VersionConflictError: None of them does.
    """
    if versions is None:
        return await change(None)
    for version in versions[:-1]:
        try:
            return await change(version)
        except VersionConflictError:
            continue
    return await change(versions[-1])


def _versions(request: ApiRequest) -> tuple[int, ...] | None:
    """What `If-Match` asks of a change.

    Raises:
        InvalidRequestError: There is an `If-None-Match`: on a change it would mean "unless the file is at that version", and be ignored.
    """
    headers = request.scope["headers"]
    if joined(headers, b"if-none-match") is not None:
        raise InvalidRequestError("If-None-Match is for reading; a change takes If-Match")
    return required_versions(joined(headers, b"if-match"))


def _refuse_patch_formats(content_type: str | None) -> None:
    """Refuse bodies that mean something else than members to set: RFC 7396 merges objects and deletes by null, RFC 6902 lists operations."""
    if content_type is not None and content_type.partition(";")[0].strip().lower().endswith("patch+json"):
        raise ContentTypeNotAllowedError("a change is plain JSON: the members that are given are set, each as a whole")


def _status(value: str | None) -> FileStatus | None:
    try:
        return None if value is None else FileStatus(value)
    except ValueError:
        raise InvalidRequestError(f"status is one of {', '.join(FileStatus)}") from None


FILE_ROUTES: tuple[Any, ...] = (list_files, get_file, update_file, delete_file, get_file_content)
