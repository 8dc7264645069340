"""Look for a run that breaks a rule."""

from __future__ import annotations

import logging

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import UploadCoreMachine
from tests.model.processes import STATISTICS

__all__ = ["search"]


def search(machine: type[UploadCoreMachine], *, examples: int, by_seed: int | None = None, shrink: bool = True) -> None:
    """Run `examples` of 40 steps each; the same ones every time, unless a seed says which.

    Raises:
        AssertionError: A rule was broken; Hypothesis has printed the shortest run that does.
    """
    logging.getLogger("uploadcore").setLevel(logging.CRITICAL)  # what goes wrong on purpose is told by the thousand
    drawn = type(machine.__name__, (machine,), {})
    if by_seed is not None:
        drawn = seed(by_seed)(drawn)
    how = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=by_seed is None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
    )
    try:
        run_state_machine_as_test(drawn, settings=how)
    finally:
        logging.getLogger("uploadcore").setLevel(logging.NOTSET)
        STATISTICS["searches"] += 1
