"""`uploadcore migrate`, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from uploadcore_cli.commands import uploadcore
from uploadcore_sql.schema import scripts

NEWEST = scripts().get_current_head()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UPLOADCORE_DATABASE", raising=False)
    monkeypatch.setenv("UPLOADCORE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue("url" if request.param == "sqlite" else "postgres_url")
    return found


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(uploadcore, ["migrate", *arguments])


def test_it_says_what_is_missing_migrates_and_has_nothing_to_do_then(database_url: str) -> None:
    checked = migrate("--check", "--database", database_url)
    assert checked.exit_code == 1
    first, *revisions = checked.stdout.splitlines()
    assert first == f"to be migrated from an empty database to {NEWEST}: run 'uploadcore migrate'"
    assert [line.split()[0] for line in revisions] == ["0001", "0002", "0003", "0004", "0005", "0006"]

    migrated = migrate("--database", database_url)
    assert (migrated.exit_code, migrated.stdout) == (0, f"migrated from an empty database to {NEWEST}\n")

    for arguments in ((), ("--check",), ("--dry-run",)):
        again = migrate(*arguments, "--database", database_url)
        assert (again.exit_code, again.stdout) == (0, f"nothing to do: the schema is at {NEWEST}\n")


def test_a_check_makes_no_file(tmp_path: Path) -> None:
    assert migrate("--check", "--database", f"sqlite:///{tmp_path}/a/b.db").exit_code == 1
    assert not (tmp_path / "a").exists()


def test_without_an_option_it_is_the_services_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert migrate().stdout == f"migrated from an empty database to {NEWEST}\n"
    assert (tmp_path / "data" / "uploadcore.db").exists()
    monkeypatch.setenv("UPLOADCORE_DATABASE", "memory://")
    assert migrate().stdout == "this database has no schema: nothing to do\n"


def test_a_server_that_does_not_answer_is_one_line_without_the_password(tmp_path: Path) -> None:
    result = migrate("--database", f"postgresql://app:s3cr3t@/uploads?host={tmp_path}")
    assert result.exit_code == 10
    assert result.stderr.startswith("uploadcore: the database can't be reached: ")
    assert result.stderr.count("\n") == 1
    assert "s3cr3t" not in result.output + repr(result.exc_info)


@pytest.mark.parametrize(
    "url", ["mysql://app:s3cr3t@db/uploads", "postgresql://app:s3cr3t/@db/uploads", "postgresql://app:s3@cr3t@db/x"]
)
def test_a_url_that_can_not_be_used_is_not_shown(url: str) -> None:
    result = migrate("--database", url)
    assert result.exit_code == 2
    assert "UPLOADCORE_DATABASE: " in result.stderr
    assert "cr3t" not in result.output
