"""docs/states.md shows the tables as they are."""

from __future__ import annotations

import pytest

from scripts.diagram import DOCUMENT, regenerated
from uploadcore.states import PART_TRANSITIONS, UPLOAD_TRANSITIONS, PartInput, PartState


def test_the_document_of_the_states_is_not_stale() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")

    assert document == regenerated(document), "run: python scripts/diagram.py"


def test_a_changed_table_makes_it_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")

    monkeypatch.setitem(PART_TRANSITIONS, (PartState.ASSEMBLED, PartInput.GONE), PartState.PLANNED)

    assert document != regenerated(document)


def test_every_transition_is_in_a_row_of_its_own() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()

    for (state, happened), following in [*UPLOAD_TRANSITIONS.items(), *PART_TRANSITIONS.items()]:
        assert f"| {state} | {happened} | {following} |" in lines


def test_a_document_without_room_for_a_diagram_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the upload diagram"):
        regenerated("# States")
