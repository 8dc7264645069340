"""What the doctor says of a port that can't be opened."""

from __future__ import annotations

from pathlib import Path

from uploadcore.diagnosis import Verdict
from uploadcore_app import examine, load_settings


async def test_of_what_answers_and_can_not_be_used_it_does_not_only_say_to_see_that_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database\n" * 100)
    settings = load_settings(storage="memory://", database=f"sqlite:///{file}", cache="none", data_dir=tmp_path)

    [found] = [finding async for finding in examine(settings) if finding.check.startswith("database")]

    assert (found.check, found.verdict) == ("database.reachable", Verdict.FAILED)
    assert "not an SQLite database" in found.message
    assert found.fix.startswith("put right what it says")
