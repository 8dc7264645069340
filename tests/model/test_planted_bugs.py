"""The test of the test: the model finds bugs that are there."""

from __future__ import annotations

import pytest

from tests.model.machine import UploadCoreMachine
from tests.model.planted import EventWrittenAfterwards, FenceDropped, LateFillAccepted, NoRecheck, OrphansOfAnyAge
from tests.model.search import search


def _found(machine: type[UploadCoreMachine], *, examples: int) -> str:
    with pytest.raises(AssertionError) as caught:
        search(machine, examples=examples, shrink=False)
    print(caught.value)
    return str(caught.value)


def test_a_fence_that_lets_everybody_through_is_found_by_rule_6() -> None:
    assert "rule 6" in _found(FenceDropped, examples=250)


def test_an_event_written_outside_the_transaction_is_found_by_rule_8() -> None:
    assert "rule 8" in _found(EventWrittenAfterwards, examples=50)


def test_orphans_that_are_not_old_are_found_by_rule_2() -> None:
    assert "rule 2" in _found(OrphansOfAnyAge, examples=250)


def test_a_late_fill_that_is_accepted_is_found_by_rule_11() -> None:
    assert "rule 11" in _found(LateFillAccepted, examples=250)


def test_an_abort_that_nobody_looks_at_again_is_found_by_rule_10() -> None:
    assert "rule 10" in _found(NoRecheck, examples=50)
