"""The yardstick for signing: a Litestar app with one JSON handler, no authentication, nothing else."""

from __future__ import annotations

import msgspec
from litestar import Litestar, post


class Asked(msgspec.Struct):
    part_numbers: list[int]


class Answer(msgspec.Struct):
    parts: list[int]


@post("/bare", status_code=200)
async def bare(data: Asked) -> Answer:
    """Answer what was asked."""
    return Answer(data.part_numbers)


app = Litestar([bare], openapi_config=None)
