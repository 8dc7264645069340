"""Variables that look like settings and are none: whatever reads the settings names them, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from uploadcore_cli.commands import uploadcore

KEY = "a secret of the tests, 32 bytes or more"
LINE = "UPLOADCORE_DATABSE is no setting and does nothing; UPLOADCORE_DATABASE is one"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("UPLOADCORE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UPLOADCORE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("UPLOADCORE_AUTH_JWT_KEY", KEY)
    monkeypatch.setenv("UPLOADCORE_DATABSE", "postgresql://app:hunter2@db/uploads")


def run(*words: str) -> Result:
    result = CliRunner().invoke(uploadcore, words)
    assert "hunter2" not in result.output
    return result


@pytest.mark.parametrize(
    "words", [("migrate",), ("migrate", "--check"), ("sweep", "--json"), ("events", "backlog", "--json"), ("token",)]
)
def test_a_misspelled_variable_is_named_on_stderr_and_stdout_is_as_ever(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run(*words)
    monkeypatch.delenv("UPLOADCORE_DATABSE")
    untold = run(*words)

    assert (told.stderr, untold.stderr) == (f"uploadcore: {LINE}\n", "")
    assert told.stdout


@pytest.mark.parametrize("command", ["migrate", "doctor", "serve", "worker"])
def test_a_misspelled_variable_is_named_before_what_is_missing_without_it(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPLOADCORE_DATABSE")
    monkeypatch.delenv("UPLOADCORE_AUTH_JWT_KEY")
    monkeypatch.setenv("UPLOADCORE_AUTH_JWKS_URL", "https://a.example/jwks")
    monkeypatch.setenv("UPLOADCORE_AUTH_JWT_AUDIENCE", "uploads")
    monkeypatch.setenv("UPLOADCORE_AUTH_JWT_ISSUR", "https://a.example")

    result = run(command)

    named, refused = result.stderr.splitlines()
    assert result.exit_code == 2
    assert "UPLOADCORE_AUTH_JWT_ISSUR is no setting" in named
    assert "also needs UPLOADCORE_AUTH_JWT_ISSUER" in refused


def test_for_doctor_a_misspelled_variable_is_a_finding_that_fails_nothing() -> None:
    as_json, table = run("doctor", "--json"), run("doctor")

    first, *others = json.loads(as_json.stdout)["findings"]
    assert (first["check"], first["verdict"], first["message"]) == ("settings.names", "warning", LINE)
    assert "settings.names" not in {finding["check"] for finding in others}
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    assert "settings.names: rename the variable, or unset it" in table.stdout
    assert "1 warning" in table.stdout


def test_a_worker_names_a_misspelled_variable_in_its_log() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "uploadcore_cli.main", "worker", "--once"],
        env={**os.environ, "UPLOADCORE_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    [line] = [json.loads(line) for line in ran.stderr.splitlines()]
    assert (line["event"], line["level"]) == (LINE, "warning")
