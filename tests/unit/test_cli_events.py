"""`events`: what waits, what is dead, and what becomes of it, as it is shown and as scripts read it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from uploadcore import UploadCore
from uploadcore.errors import UndeliverableError
from uploadcore.relay import RelayReport
from uploadcore_cli.commands import uploadcore
from uploadcore_memory import MemoryEventPublisher, MemoryObjectStore
from uploadcore_sql import SqlDatabase

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0czogdGhlIG9uZQ=="


class Installation:
    """A database that the command is configured with, and a destination whose every delivery a test decides."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'uploads.db'}"
        self.crm = MemoryEventPublisher()
        self._store = MemoryObjectStore()

    def core(self) -> UploadCore:
        return UploadCore(store=self._store, database=SqlDatabase(self.url), publishers={"crm": self.crm})

    def aborted_uploads(self, count: int) -> None:
        """Each leaves an event."""

        async def leave() -> None:
            async with self.core() as core:
                for _ in range(count):
                    upload = await core.uploads.initiate(owner="u", filename="a", size=5)
                    await core.uploads.abort(upload.id, owner="u")

        asyncio.run(leave())

    def relayed(self) -> RelayReport:
        async def relay() -> RelayReport:
            async with self.core() as core:
                return await core.relay()

        return asyncio.run(relay())


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name in list(os.environ):
        if name.startswith("UPLOADCORE_"):
            monkeypatch.delenv(name)
    made = Installation(tmp_path)
    monkeypatch.setenv("UPLOADCORE_DATABASE", made.url)
    monkeypatch.setenv("UPLOADCORE_STORAGE", "never://asked")
    monkeypatch.setenv("UPLOADCORE_EVENTS", f"crm=https://crm.example.com/hooks#secret={SECRET}")
    return made


def run(*words: str) -> Result:
    result = CliRunner().invoke(uploadcore, ["events", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result


def answered(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_backlog_is_what_each_destination_still_has_to_get(installation: Installation) -> None:
    installation.aborted_uploads(2)
    [before] = answered("backlog")["destinations"]
    table = run("backlog")
    installation.relayed()
    [after] = answered("backlog")["destinations"]

    assert (before["destination"], before["pending"], before["dead"]) == ("crm", 2, 0)
    assert before["oldest_seconds"] >= 0
    heading, line = table.stdout.splitlines()
    assert heading.split() == ["destination", "pending", "oldest", "dead"]
    assert line.split()[:2] == ["crm", "2"]
    assert after == {"destination": "crm", "pending": 0, "oldest_seconds": None, "dead": 0}


def test_without_destinations_the_backlog_says_so(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPLOADCORE_EVENTS")

    assert "no destination is configured" in run("backlog").stdout
    assert answered("backlog") == {"destinations": []}
    assert run("dead").stdout == "no dead letters\n"


def test_dead_letters_are_listed_replayed_and_delivered_with_the_id_they_had(installation: Installation) -> None:
    installation.aborted_uploads(2)
    installation.crm.fail_with = UndeliverableError("crm answers 410: [red]gone[/red]\x1b[2J")
    assert installation.relayed().dead == 2

    letters = answered("dead")["dead_letters"]
    table = run("dead", "--destination", "crm").stdout
    assert [letter["position"] for letter in letters] == [1, 2]
    for letter in letters:
        assert (letter["destination"], letter["type"], letter["attempts"]) == ("crm", "upload.aborted", 1)
        assert letter["owner"] == "u"
        [line] = [line for line in table.splitlines() if letter["event_id"] in line]
        assert "crm answers 410: [red]gone[/red]?[2J" in line, "as it is, and harmless to a terminal"
    assert answered("dead", "--destination", "other") == {"dead_letters": []}
    assert answered("dead", "--limit", "1")["dead_letters"] == letters[:1]
    assert "the first 1; --limit shows more" in run("dead", "--limit", "1").stdout

    installation.crm.fail_with = None
    assert run("replay", "crm", letters[1]["event_id"]).stdout == "1 event to be delivered again\n"
    assert installation.relayed().delivered == 1
    assert [event.id for event in installation.crm.events] == [letters[1]["event_id"]]
    assert run("replay", "crm", "--all").stdout == "1 event to be delivered again\n"
    assert run("replay", "crm", "--all").stdout == "0 events to be delivered again\n"
    assert installation.relayed().delivered == 1
    assert answered("dead") == {"dead_letters": []}


def test_what_a_destination_that_is_no_more_has_to_get_can_be_dropped(installation: Installation) -> None:
    installation.aborted_uploads(3)
    installation.crm.fail_with = OSError()
    assert installation.relayed().failed == 3

    assert run("discard", "crm", "--all").stdout == "3 events dropped\n"

    assert answered("backlog")["destinations"][0]["pending"] == 0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["replay", "crm"], 2, "name one event, or say --all"),
        (["discard", "crm", "x", "--all"], 2, "name one event, or say --all"),
        (["replay", "crm", "x"], 6, "there is no such event for 'crm'"),
        (["replay"], 2, "DESTINATION"),
        (["dead", "--limit", "0"], 2, "--limit"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_a_status(
    installation: Installation, words: list[str], status: int, told: str
) -> None:
    result = run(*words)

    assert (result.exit_code, result.stdout) == (status, "")
    assert told in result.stderr


def test_a_database_that_can_not_be_used_is_one_line(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLOADCORE_DATABASE", "oracle://scott:tiger@x")

    result = run("backlog")

    assert result.exit_code == 2
    assert result.stderr.startswith("uploadcore: UPLOADCORE_DATABASE: nothing installed understands oracle://")
