"""What a database URL may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore.ports import AdapterContext
from uploadcore_sql import SqlDatabase, from_url


def test_three_slashes_name_a_path_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = SqlDatabase("sqlite:///data/uploads.db")
    monkeypatch.chdir("/")
    assert database.path == tmp_path / "data" / "uploads.db"


def test_four_slashes_name_an_absolute_path(tmp_path: Path) -> None:
    assert SqlDatabase(f"sqlite:///{tmp_path}/uploads.db").path == tmp_path / "uploads.db"


def test_percent_escapes_are_decoded(tmp_path: Path) -> None:
    assert SqlDatabase(f"sqlite:///{tmp_path}/a%20b%3F%23%25.db").path == tmp_path / "a b?#%.db"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?cache=shared"]
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"sqlite://.*path"):
        SqlDatabase(url)


@pytest.mark.parametrize("url", ["mysql://host/db", "uploads.db", "", "sqlite:/uploads.db", "file:///uploads.db"])
def test_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="takes sqlite:///path"):
        SqlDatabase(url)


def test_a_host_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no host"):
        SqlDatabase("sqlite://uploads.db")


def test_options_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no options"):
        SqlDatabase("sqlite:///uploads.db?timeout=5")


def test_a_database_without_readers_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="one reader"):
        SqlDatabase("sqlite:///uploads.db", readers=0)


def test_from_url_opens_nothing(tmp_path: Path) -> None:
    context = AdapterContext(data_dir=tmp_path, public_url="http://127.0.0.1:8484")
    database = from_url(f"sqlite:///{tmp_path}/data/uploads.db", context)
    assert isinstance(database, SqlDatabase)
    assert list(tmp_path.iterdir()) == []
