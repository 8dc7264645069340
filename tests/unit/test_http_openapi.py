"""The OpenAPI document: every route is in it, whole, with examples that are what they say."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from uploadcore_http.application import ROUTES
from uploadcore_http.openapi import ApiDocument, documented
from uploadcore_http.problems import STATUS

DOCUMENT: dict[str, Any] = json.loads(ApiDocument(ROUTES).at("/"))
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]


def operation(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def test_every_route_is_documented_and_nothing_else() -> None:
    assert {(path, method.lower()) for path, method, _ in documented(ROUTES)} == set(OPERATIONS)


def test_it_is_openapi_3_1_with_the_address_it_was_asked_at() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert json.loads(ApiDocument(ROUTES).at("/up"))["servers"] == [{"url": "/up"}]


def test_operation_ids_are_unique() -> None:
    ids = [operation(path, method)["operationId"] for path, method in OPERATIONS]

    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_says_who_may_call_it_and_what_goes_wrong(path: str, method: str) -> None:
    described = operation(path, method)

    is_public = not path.startswith("/v1/")
    is_for_anybody = method in {"get", "head"} and path.startswith("/v1/files/{file_id}")
    assert described["security"] == ([] if is_public else [{"token": []}, {}] if is_for_anybody else [{"token": []}])
    assert {"500", "503"} <= set(described["responses"])
    if not is_public:
        assert {"401", "403"} <= set(described["responses"])
    for name in ("{upload_id}", "{file_id}"):
        if name in path:
            assert "404" in described["responses"]


def contents(described: dict[str, Any]) -> list[dict[str, Any]]:
    holders = [*described["responses"].values(), described.get("requestBody", {})]
    return [content for holder in holders for content in holder.get("content", {}).values()]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_body_has_an_example_that_fits_its_schema(path: str, method: str) -> None:
    for content in contents(operation(path, method)):
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        if content["schema"].get("type") in {"string", "object"}:
            continue  # metrics, and this document itself
        assert content["examples"]
        for example in content["examples"].values():
            jsonschema_rs.validate(schema, example["value"])


def test_every_code_that_is_documented_has_the_status_it_is_documented_under() -> None:
    for path, method in OPERATIONS:
        for status, answer in operation(path, method)["responses"].items():
            for code in answer.get("content", {}).get("application/problem+json", {}).get("examples", {}):
                assert STATUS[code] == int(status)


def test_request_bodies_are_closed_and_bounded() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for path, method in OPERATIONS:
        body = operation(path, method).get("requestBody")
        if body is None:
            continue
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert_bounded(schemas[name], schemas, name)


def assert_bounded(schema: dict[str, Any], schemas: dict[str, Any], where: str) -> None:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        assert_bounded(schemas[name], schemas, name)
    for one in schema.get("anyOf", ()):
        assert_bounded(one, schemas, where)
    kind = schema.get("type")
    if kind == "integer":
        assert {"minimum", "maximum"} <= set(schema), where
    elif kind == "string":
        assert "pattern" in schema or "enum" in schema, where
    elif kind == "array":
        assert "maxItems" in schema, where
        assert_bounded(schema["items"], schemas, where)
    elif kind == "object":
        further = schema["additionalProperties"]
        if further is not False:
            assert "maxProperties" in schema, where
            assert_bounded(further, schemas, where)
        for name, value in schema.get("properties", {}).items():
            assert_bounded(value, schemas, f"{where}.{name}")
