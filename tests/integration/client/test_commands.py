"""What the client's commands print, of a far end that behaves and one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.integration.client.scripted import FarEnd
from uploadcore_cli.commands import uploadcore


@pytest.fixture(autouse=True)
def _alone(far: FarEnd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.delenv("UPLOADCORE_TOKEN", raising=False)
    monkeypatch.setenv("UPLOADCORE_URL", far.url)
    monkeypatch.setenv("UPLOADCORE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(uploadcore, arguments)


@pytest.mark.parametrize(("names_checksum", "said"), [(True, "checksum verified"), (False, "no checksum to compare")])
def test_get_says_whether_a_checksum_was_compared(far: FarEnd, *, names_checksum: bool, said: str) -> None:
    far.files["f1"] = b"content"
    far.names_checksum = names_checksum

    shown, document = run("get", "f1"), run("get", "f1", "--force", "--json")

    assert shown.stdout.endswith(f", {said}\n")
    assert json.loads(document.stdout)["verified"] is names_checksum
