"""What `docs/security.md` says is there."""

from __future__ import annotations

import re
from pathlib import Path

from uploadcore_app import Settings
from uploadcore_http.rate_limit import MAX_CALLERS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "security.md").read_text()


def test_every_test_it_names_is_there_and_has_tests() -> None:
    named = set(re.findall(r"`((?:tests|src)/[\w/.]+)`", TEXT))

    assert len(named) > 15
    for path in named - {"tests/servers/scan.py"}:
        assert "def test_" in (ROOT / path).read_text(), path


def test_every_test_of_this_folder_is_named() -> None:
    folder = Path(__file__).parent

    assert {str(path.relative_to(ROOT)) for path in folder.glob("test_*.py")} - {
        str(Path(__file__).relative_to(ROOT))
    } <= set(re.findall(r"`([^`]+)`", TEXT))


def test_every_setting_it_names_is_one() -> None:
    named = {name.lower() for name in re.findall(r"`_?(?:UPLOADCORE_|_)([A-Z_]+)`", TEXT)}

    assert named <= set(Settings.model_fields)
    assert {"rate_limit", "max_unknown_size", "auth_jwt_key"} <= named


def test_it_says_how_many_callers_are_counted() -> None:
    assert f"{MAX_CALLERS:,} callers" in TEXT
