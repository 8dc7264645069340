"""The OpenAPI 3.1 document, made of the routes themselves and of the structs they read and write.

Litestar could derive one from handler signatures; ours read raw bodies, strictly, so that there would be little to derive from. What a
route says of itself stands with the route (`operation.py`), the JSON Schemas are msgspec's, and a route without either fails the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler

from uploadcore_http.operation import Answer, Operation, Parameter
from uploadcore_http.problems import PROBLEM_JSON, STATUS, TITLES, Problem, problem_type

__all__ = ["ApiDocument", "documented"]

_PATH_PARAMETER = re.compile(r"\{(\w+):str\}")
_REF = "#/components/schemas/{name}"
_ALWAYS = ("internal", "overloaded")
"""Codes any operation may answer with, whatever it does."""
_OF_OWNERS = ("unauthenticated", "forbidden", "rate_limited", "database_unavailable")
"""Codes any operation for an owner may answer with."""
_RETRIED = frozenset({"upload_busy", "store_unavailable", "database_unavailable", "overloaded", "rate_limited"})


def documented(handlers: Iterable[HTTPRouteHandler]) -> Iterator[tuple[str, str, Operation]]:
    """Path, method and operation of every handler."""
    for handler in handlers:
        operation = handler.opt["operation"]
        for path in handler.paths:
            for method in sorted(handler.http_methods):
                yield _PATH_PARAMETER.sub(r"{\1}", path), method, operation


class ApiDocument:
    """The document, encoded once per address it is asked at."""

    def __init__(self, handlers: Iterable[HTTPRouteHandler]) -> None:
        """Write it."""
        self._document = _written(tuple(documented(handlers)))
        self.at = lru_cache(maxsize=16)(self._at)

    @property
    def document(self) -> Mapping[str, Any]:
        """The document as plain values."""
        return self._document

    def _at(self, server: str) -> bytes:
        """The document for clients that reach the service at `server`, a URL or a path."""
        return msgspec.json.encode({**self._document, "servers": [{"url": server}]})


def _written(operations: tuple[tuple[str, str, Operation], ...]) -> dict[str, Any]:
    structs: set[type] = {Problem}
    for _, _, operation in operations:
        structs.update(answer.body for answer in operation.answers.values() if answer.body not in {None, dict})
        if operation.body is not None:
            structs.add(operation.body)
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    references, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    schema_of = dict(zip(ordered, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation in operations:
        paths.setdefault(path, {})[method.lower()] = _operation(path, method, operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "uploadcore",
            "version": version("uploadcore"),
            "description": "Large uploads that go straight to the object store: this service signs, records, verifies and announces.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(path: str, method: str, operation: Operation, schema_of: Mapping[type, Any]) -> dict[str, Any]:
    written: dict[str, Any] = {
        "operationId": operation.id if method != "HEAD" else f"{operation.id}Head",
        "summary": operation.summary,
        "security": _security(operation),
        "responses": dict(_responses(operation, method, schema_of)),
    }
    parameters = [*_path_parameters(path), *(_parameter(parameter) for parameter in operation.parameters)]
    if parameters:
        written["parameters"] = parameters
    if operation.body is not None:
        content = {"schema": schema_of[operation.body], "examples": {"one": {"value": operation.example}}}
        written["requestBody"] = {"required": operation.body_required, "content": {"application/json": content}}
    return written


def _security(operation: Operation) -> list[dict[str, Any]]:
    if operation.is_public:
        return []
    return [{"token": []}, {}] if operation.allows_anybody else [{"token": []}]


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": "As `id` or `file_id` says it.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"},
        }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": False,
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _responses(
    operation: Operation, method: str, schema_of: Mapping[type, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    codes = [*operation.codes, *_ALWAYS, *(() if operation.is_public else _OF_OWNERS)]
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    for status, answer in operation.answers.items():
        written = _answer(answer, method, schema_of)
        if status in by_status:  # the same status, as an answer and as a problem
            written["content"] = {**written.get("content", {}), **_problem(by_status.pop(status), method)["content"]}
        if status in operation.links and method != "HEAD":
            written["links"] = operation.links[status]
        yield str(status), written
    for status, several in sorted(by_status.items()):
        yield str(status), _problem(several, method)


def _answer(answer: Answer, method: str, schema_of: Mapping[type, Any]) -> dict[str, Any]:
    written: dict[str, Any] = {"description": answer.description}
    if method != "HEAD" and (answer.body is not None or answer.media_type != "application/json"):
        content: dict[str, Any] = {"schema": _schema(answer, schema_of)}
        if answer.example is not None:
            content["examples"] = {"one": {"value": answer.example}}
        written["content"] = {answer.media_type: content}
    if answer.headers:
        written["headers"] = {
            name: {"description": meaning, "required": True, "schema": {"type": "string"}}
            for name, meaning in answer.headers.items()
        }
    return written


def _schema(answer: Answer, schema_of: Mapping[type, Any]) -> Any:
    if answer.body is None:
        return {"type": "string"}
    return {"type": "object"} if answer.body is dict else schema_of[answer.body]


def _problem(codes: list[str], method: str) -> dict[str, Any]:
    description = "; ".join(f"`{code}`: {TITLES[code]}" for code in codes)
    written: dict[str, Any] = {"description": description}
    if method != "HEAD":
        examples = {code: {"value": _example(code)} for code in codes}
        written["content"] = {PROBLEM_JSON: {"schema": {"$ref": _REF.format(name="Problem")}, "examples": examples}}
    if any(code in _RETRIED for code in codes):
        written["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    if "unauthenticated" in codes:
        written["headers"] = {
            "WWW-Authenticate": {"required": True, "description": "Bearer.", "schema": {"type": "string"}}
        }
    return written


def _example(code: str) -> dict[str, Any]:
    return {
        "type": problem_type(code),
        "code": code,
        "title": TITLES[code],
        "status": STATUS[code],
        "detail": "…",
        "request_id": "5f0c2a9b41de-2a",
    }
