"""Writes the diagrams and tables of docs/states.md from the two tables in `uploadcore.states`: `python scripts/diagram.py`.

What is generated stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the prose around it is written by hand.
"""

# ruff: noqa: INP001 - run as a script

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from uploadcore.states import PART_TRANSITIONS, TERMINAL_STATES, UPLOAD_TRANSITIONS, PartState, UploadState

State = TypeVar("State", bound=StrEnum)
Input = TypeVar("Input", bound=StrEnum)

DOCUMENT = Path(__file__).parent.parent / "docs" / "states.md"


def diagram(transitions: Mapping[tuple[State, Input], State], first: State, last: frozenset[State]) -> str:
    """The table as a Mermaid state diagram; inputs that lead the same way share an arrow."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, happened), following in transitions.items():
        arrows.setdefault((state, following), []).append(str(happened))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {state} --> {following}: {' · '.join(inputs)}" for (state, following), inputs in arrows.items()]
    lines += [f"    {state} --> [*]" for state in sorted(last)]
    return "\n".join([*lines, "```"])


def table(transitions: Mapping[tuple[State, Input], State]) -> str:
    """The table as a table."""
    rows = [f"| {state} | {happened} | {following} |" for (state, happened), following in transitions.items()]
    return "\n".join(["| from | input | to |", "|---|---|---|", *rows])


def regenerated(document: str) -> str:
    """The document, with what is generated in it made anew."""
    blocks = {
        "upload diagram": diagram(UPLOAD_TRANSITIONS, UploadState.PENDING, TERMINAL_STATES),
        "upload table": table(UPLOAD_TRANSITIONS),
        "part diagram": diagram(PART_TRANSITIONS, PartState.PLANNED, frozenset({PartState.ASSEMBLED})),
        "part table": table(PART_TRANSITIONS),
    }
    for name, block in blocks.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, begun, rest = document.partition(begin)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise ValueError(f"the document has no place for the {name}")
        document = f"{before}{begin}{block}\n{end}{after}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(regenerated(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
