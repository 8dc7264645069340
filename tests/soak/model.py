"""The model test at full scale."""

from __future__ import annotations

import time

from tests.model.machine import UploadCoreMachine
from tests.model.processes import STATISTICS
from tests.model.search import search

__all__ = ["run"]

SLICE = 500
"""Runs Hypothesis remembers at a time: it keeps what it has tried."""


def run(seed: int, examples: int) -> str:
    """Look at that many runs; one line of figures.

    Raises:
        AssertionError: A rule was broken; Hypothesis has printed the shortest run that does.
    """
    STATISTICS.clear()
    began = time.monotonic()
    for number, first in enumerate(range(0, examples, SLICE)):
        search(UploadCoreMachine, examples=min(SLICE, examples - first), by_seed=seed * 1_000_000 + number)
    seconds = time.monotonic() - began
    s = STATISTICS
    assert s["runs"] >= examples, f"only {s['runs']} of {examples} runs were made"
    return (
        f"model: {s['runs']} runs, {s['steps']} steps, {s['crashes']} crashes, {s['answers lost']} answers lost, "
        f"{s['late effects']} late effects, {s['held back']} calls held back, 0 violations, {seconds:.0f} s"
    )
