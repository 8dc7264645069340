"""The yardstick: a Litestar app with a JSON handler for each way to ask, no authentication, nothing else."""

from __future__ import annotations

import msgspec
from litestar import Litestar, get, post

FILE = {
    "id": "0197f3a2-6c1e-4d3b-9a55-0c9d3c1f2b12",
    "name": "trip.mp4",
    "status": "available",
    "content_type": "video/mp4",
    "size": 5,
    "checksum": None,
    "title": "Trip to the lake",
    "description": "Two days, one boat.",
    "labels": ["lake", "2026"],
    "visibility": "public",
    "metadata": {"camera": "x100"},
    "manifest_url": None,
    "version": 2,
    "created_at": "2026-03-01T12:00:00.000000Z",
    "updated_at": "2026-03-01T12:30:00.000000Z",
}
"""What the service says of a file: about as many bytes."""


class Asked(msgspec.Struct):
    part_numbers: list[int]


class Answer(msgspec.Struct):
    parts: list[int]


@post("/bare", status_code=200)
async def bare(data: Asked) -> Answer:
    """Answer what was asked."""
    return Answer(data.part_numbers)


@get("/bare")
async def bare_file() -> dict[str, object]:
    """Answer with what is there."""
    return FILE


app = Litestar([bare, bare_file], openapi_config=None)
