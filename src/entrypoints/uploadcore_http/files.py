"""`/v1/files`: what was uploaded."""

from __future__ import annotations

from litestar import get, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod

from uploadcore import UploadCore
from uploadcore_http.examples import FILE
from uploadcore_http.operation import Answer, Operation, Parameter, operation_opt
from uploadcore_http.requests import ApiRequest
from uploadcore_http.responses import BytesResponse, json_response
from uploadcore_http.schemas import FileBody, file_body

__all__ = ["FILE_ROUTES"]


@get(
    "/v1/files/{file_id:str}",
    opt=operation_opt(
        Operation(
            id="getFile",
            summary="One file",
            parameters=(
                Parameter(
                    "If-None-Match",
                    "header",
                    "An `ETag` seen before: the answer is 304 if nothing changed.",
                    {"type": "string"},
                ),
            ),
            answers={
                200: Answer("The file.", FileBody, headers={"ETag": "Its version."}, example=FILE),
                304: Answer("Nothing changed.", headers={"ETag": "Its version."}),
            },
            codes=("invalid_request", "file_not_found"),
            links={
                200: {
                    "content": {"operationId": "getFileContent", "parameters": {"file_id": "$response.body#/id"}},
                    "head": {"operationId": "getFileContentHead", "parameters": {"file_id": "$response.body#/id"}},
                }
            },
        )
    ),
)
async def get_file(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Read one file."""
    owner = request.owner
    request.query()
    view = await core.files.get(request.file_id, owner=owner)
    etag = f'"{view.version}"'
    seen = request.header(b"if-none-match") or ""
    if seen == "*" or etag in (one.strip().removeprefix("W/") for one in seen.split(",")):
        return BytesResponse(b"", 304, headers={"etag": etag})
    return json_response(file_body(view), headers={"etag": etag})


@route(
    "/v1/files/{file_id:str}/content",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    status_code=307,
    opt=operation_opt(
        Operation(
            id="getFileContent",
            summary="Where to read a file's content",
            answers={
                307: Answer("Go there; the URL is signed and short-lived.", headers={"Location": "The signed URL."})
            },
            codes=("invalid_request", "file_not_found", "file_not_ready"),
        )
    ),
)
async def get_file_content(request: ApiRequest, core: NamedDependency[UploadCore]) -> BytesResponse:
    """Redirect to a signed URL of the store."""
    owner = request.owner
    request.query()
    signed = await core.files.content(request.file_id, owner=owner)
    return BytesResponse(b"", 307, headers={"location": signed.url})


FILE_ROUTES = (get_file, get_file_content)
