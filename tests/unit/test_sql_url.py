"""What a database URL may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore.ports import AdapterContext
from uploadcore_sql import SqlDatabase, from_url
from uploadcore_sql.postgres_url import PostgresUrl


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


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_spelling_of_postgresql_is_the_drivers(scheme: str) -> None:
    url = PostgresUrl.read(f"{scheme}://app:p%40ss@one:5432,two:5433/uploads?sslmode=verify-full&pool_size=3")
    assert url.dsn == "postgresql://app:p%40ss@one:5432,two:5433/uploads?sslmode=verify-full"
    assert (url.pool_size, url.pool_timeout, url.connect_timeout) == (3, 2.0, 2.0)


def test_what_the_url_asks_of_the_server_goes_before_what_we_do() -> None:
    settings = PostgresUrl.read("postgresql:///uploads?host=/run/postgresql&statement_timeout=3s").settings
    assert "statement_timeout" not in settings, "it is in the driver's URL"
    assert settings["lock_timeout"] == "5s"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:s3cr3t@db.internal:5433/uploads", "postgresql://db.internal:5433/uploads"),
        ("postgres://app@/uploads?host=/run/pg&password=s3cr3t", "postgresql:///run/pg/uploads"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert repr(SqlDatabase(url)) == f"SqlDatabase('{shown}')"
    assert "s3cr3t" not in repr(PostgresUrl.read(url))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:s3/cr3t@db/uploads",
        "postgresql://app:s3#cr3t@db/uploads",
        "postgresql://app:s3?cr3t@db/uploads",
        "postgresql://app:s3@cr3t@db/uploads",
        "postgresql://app:s3:cr3t@db/uploads",
        "postgresql://app:s3[cr3t@db/uploads",
        "postgresql://db:cr3t/uploads",
        "postgresql:db/cr3t",
    ],
)
def test_a_password_that_was_not_escaped_is_told_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        SqlDatabase(url)
    assert "cr3t" not in str(raised.value) + repr(raised.value.__cause__) + repr(raised.value.__context__)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("pool_size=0", "'pool_size' is a number of connections"),
        ("pool_size=many", "'pool_size' is a number of connections"),
        ("connect_timeout=-1", "'connect_timeout' is a number of seconds"),
        ("schema=uploads", "write search_path=name"),
        ("pooler=statement", "session or transaction"),
    ],
)
def test_an_option_that_can_not_be_used_is_named(option: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        SqlDatabase(f"postgresql://db/uploads?{option}")
