"""What the OpenAPI document says of a route, written where the route is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Operation", "Parameter", "operation_opt"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or header. `schema` is JSON Schema."""

    name: str
    where: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful answer: the struct it holds, its media type, and its headers by name with their meaning."""

    description: str
    body: type | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        id: Unique, for generated clients.
        summary: One line.
        answers: By status.
        codes: Problem codes it answers with, besides those that every operation of its kind has.
        body: The struct the request body must be.
        body_required: Whether there has to be one.
        parameters: Of query and headers; those of the path follow from the path.
        example: Of the request body.
        is_public: Whether it needs no principal.
        allows_anybody: Whether it needs a principal for some things and for others none.
        links: OpenAPI links of the answers, by status.
    """

    id: str
    summary: str
    answers: Mapping[int, Answer]
    codes: tuple[str, ...] = ()
    body: type | None = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    example: Any = None
    is_public: bool = False
    allows_anybody: bool = False
    links: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


_KEY = "operation"


def operation_opt(operation: Operation) -> dict[str, Any]:
    """An operation as a Litestar handler's `opt`, where `openapi.py` finds it."""
    return {_KEY: operation}
