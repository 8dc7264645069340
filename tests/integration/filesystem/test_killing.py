"""`kill -9` before any call that changes the disk: afterwards it is as before, or done, and nothing stray is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.filesystem.killed_store import SCENARIOS


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_killed_at_any_moment_it_is_as_before_or_done(scenario: str, tmp_path: Path) -> None:
    deaths = _run(scenario, tmp_path)
    assert deaths >= 3


@pytest.mark.parametrize("scenario", ["complete over an object", "delete", "put an object"])
def test_killed_again_while_it_recovers_it_still_does(scenario: str, tmp_path: Path) -> None:
    assert _run(scenario, tmp_path, "also-while-opening") > _run(scenario, tmp_path / "once")


def _run(scenario: str, folder: Path, *more: str) -> int:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.integration.filesystem.killed_store",
            scenario,
            str(folder),
            *more,
        ],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
