"""The main job on an S3-compatible store, PostgreSQL and Redis, all real, with both SDKs: what `make soak` does at full scale."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak import big_file, kills
from tests.soak.worlds import Production, production

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, Production]]:
    with production("s3", "minio") as made:
        yield {world.name.rstrip("_"): world for world in made}


@pytest.fixture(params=["s3", "minio"])
def world(request: pytest.FixtureRequest, worlds: dict[str, Production]) -> Production:
    return worlds[request.param]


@pytest.mark.timeout(300)
def test_whatever_is_killed_every_upload_completes_and_only_what_was_in_flight_is_sent_twice(world: Production) -> None:
    lines = kills.run(seed=1, kills=1, size=48 * MIB, part_size=2 * MIB, world=world)

    assert all("all completed, bytes equal" in line for line in lines)


@pytest.mark.timeout(300)
def test_memory_stays_flat_however_large_the_file(world: Production) -> None:
    figures = big_file.measured(size=256 * MIB, world=world)

    assert figures.client_peak < (64 + 4) * MIB + figures.client_idle
    assert figures.server_peak - figures.server_idle < 64 * MIB
