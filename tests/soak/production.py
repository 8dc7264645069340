"""The main job on the servers of production, with both SDKs: an S3-compatible store, PostgreSQL and Redis, all real."""

from __future__ import annotations

from tests.soak import big_file, kills, parts
from tests.soak.worlds import production

GIB = 1024**3


def run(*, seed: int) -> list[str]:
    """At full scale: five gibibytes; a page of parts, one more, and as many as there may be; kills on both sides."""
    lines = []
    with production("s3", "minio") as worlds:
        for world in worlds:
            lines += big_file.run(size=5 * GIB, world=world)
            for count in (1_000, 1_001, 10_000):
                lines += parts.run(count=count, part_size=64, world=world)
            lines += kills.run(seed=seed, kills=10, world=world)
    return lines
