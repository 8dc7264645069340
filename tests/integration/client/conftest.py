"""A scripted far end, and clients that lose no time waiting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.scripted import FarEnd, far_end
from uploadcore_client import Client, RetryPolicy, Timeouts

MIB = 1024 * 1024


@pytest.fixture
def far() -> Iterator[FarEnd]:
    with far_end() as far:
        yield far


@pytest.fixture
def client_of(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Makes clients that share one state directory, as successive processes on one machine do."""
    made: list[Client] = []

    def make(far: FarEnd, **options: Any) -> Client:
        options.setdefault("retry", RetryPolicy(attempts=6, initial=0.001, longest=0.01))
        options.setdefault("timeouts", Timeouts(connect=30.0, stall=30.0, answer=30.0))
        made.append(Client(far.url, state_dir=tmp_path / "state", **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def blob(tmp_path: Path) -> Callable[..., Path]:
    """Makes files of random bytes."""

    def make(size: int = 5 * MIB + 123, name: str = "blob.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        return path

    return make
