"""Both transition tables, walked in full."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TypeVar

import pytest

from uploadcore.errors import IllegalTransitionError
from uploadcore.states import (
    PART_TRANSITIONS,
    TERMINAL_STATES,
    UPLOAD_TRANSITIONS,
    PartInput,
    PartState,
    UploadInput,
    UploadState,
    next_part_state,
    next_upload_state,
)

State = TypeVar("State", UploadState, PartState)
Input = TypeVar("Input", UploadInput, PartInput)
S, H = UploadState, UploadInput

# The design's table, row by row, written down a second time: a change of one must be a change of both.
DESIGNED = {
    S.PENDING: {
        H.OPENED: S.UPLOADING,
        H.OPENING_REFUSED: S.ABORTING,
        H.LEASE_TAKEN: S.PENDING,
        H.ABORT_REQUESTED: S.ABORTING,
        H.DEADLINE_PASSED: S.ABORTING,
    },
    S.UPLOADING: {
        H.FENCED: S.COMPLETING,
        H.LOST: S.UPLOADING,
        H.ABORT_REQUESTED: S.ABORTING,
        H.DEADLINE_PASSED: S.ABORTING,
    },
    S.COMPLETING: {
        H.LEASE_TAKEN: S.COMPLETING,
        H.LOST: S.UPLOADING,
        H.ASSEMBLED: S.COMPLETED,
        H.ASSEMBLY_REJECTED: S.UPLOADING,
        H.INTEGRITY_FAILED: S.ABORTING,
        H.GAVE_UP: S.ABORTING,
    },
    S.COMPLETED: {H.COMPLETION_REQUESTED: S.COMPLETED},
    S.ABORTING: {
        H.LEASE_TAKEN: S.ABORTING,
        H.ABORT_REQUESTED: S.ABORTING,
        H.DEADLINE_PASSED: S.ABORTING,
        H.CLEANED_AFTER_ABORT: S.ABORTED,
        H.CLEANED_AFTER_EXPIRY: S.EXPIRED,
        H.CLEANED_AFTER_FAILURE: S.FAILED,
    },
    S.ABORTED: {},
    S.EXPIRED: {},
    S.FAILED: {},
}


@pytest.mark.parametrize(("state", "happened"), list(product(UploadState, UploadInput)))
def test_an_upload_goes_where_the_design_says_or_nowhere(state: UploadState, happened: UploadInput) -> None:
    before = dict(UPLOAD_TRANSITIONS)
    if happened in DESIGNED[state]:
        assert next_upload_state(state, happened) is DESIGNED[state][happened]
    else:
        with pytest.raises(IllegalTransitionError, match=state):
            next_upload_state(state, happened)
    assert before == UPLOAD_TRANSITIONS


@pytest.mark.parametrize(("state", "happened"), list(product(PartState, PartInput)))
def test_a_part_goes_where_its_table_says_or_nowhere(state: PartState, happened: PartInput) -> None:
    before = dict(PART_TRANSITIONS)
    if (state, happened) in before:
        assert next_part_state(state, happened) is before[state, happened]
    else:
        with pytest.raises(IllegalTransitionError, match=state):
            next_part_state(state, happened)
    assert before == PART_TRANSITIONS


def reachable(table: Mapping[tuple[State, Input], State], start: State) -> set[State]:
    found = {start}
    while more := {to for (state, _), to in table.items() if state in found} - found:
        found |= more
    return found


def test_every_state_of_an_upload_can_be_reached() -> None:
    assert reachable(UPLOAD_TRANSITIONS, S.PENDING) == set(UploadState)


def test_every_state_of_a_part_can_be_reached() -> None:
    assert reachable(PART_TRANSITIONS, PartState.PLANNED) == set(PartState)


@pytest.mark.parametrize("state", list(UploadState))
def test_every_upload_can_still_end(state: UploadState) -> None:
    assert reachable(UPLOAD_TRANSITIONS, state) & TERMINAL_STATES


@pytest.mark.parametrize("state", list(PartState))
def test_every_part_can_still_be_assembled(state: PartState) -> None:
    assert PartState.ASSEMBLED in reachable(PART_TRANSITIONS, state)


@pytest.mark.parametrize("state", sorted(TERMINAL_STATES))
def test_a_terminal_state_absorbs(state: UploadState) -> None:
    assert reachable(UPLOAD_TRANSITIONS, state) == {state}
    leaving = {happened for from_, happened in UPLOAD_TRANSITIONS if from_ is state}
    assert leaving == ({H.COMPLETION_REQUESTED} if state is S.COMPLETED else set())


def test_exactly_the_absorbing_states_are_terminal() -> None:
    assert {state for state in UploadState if reachable(UPLOAD_TRANSITIONS, state) == {state}} == TERMINAL_STATES


@pytest.mark.parametrize("happened", [H.ABORT_REQUESTED, H.DEADLINE_PASSED])
def test_a_fenced_completion_goes_forward(happened: UploadInput) -> None:
    with pytest.raises(IllegalTransitionError):
        next_upload_state(S.COMPLETING, happened)


def test_rejected_and_expired_parts_are_planned_again() -> None:
    for state in (PartState.REJECTED, PartState.EXPIRED):
        assert next_part_state(state, PartInput.GONE) is PartState.PLANNED
