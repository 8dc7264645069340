"""The composition root: what a URL leads to, what is opened and closed, and what is said when something is missing."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

import pytest
from dependency_injector import providers

from uploadcore.errors import StoreUnavailableError
from uploadcore_app import ConfigurationError, Container, load_settings, open_app
from uploadcore_memory import MemoryDatabase, MemoryObjectStore


@pytest.mark.parametrize(
    ("setting", "value"), [("storage", "gopher://x"), ("database", "mongodb://x"), ("cache", "memcached://x")]
)
async def test_an_unknown_scheme_names_the_ones_there_are(setting: str, value: str) -> None:
    settings = load_settings(**{"storage": "memory://", "database": "memory://", setting: value})

    with pytest.raises(ConfigurationError) as refused:
        async with open_app(settings):
            raise AssertionError("it opened")

    assert f"UPLOADCORE_{setting.upper()}" in str(refused.value)
    assert "memory://" in str(refused.value)
    assert "pip install" in str(refused.value)


async def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        async with open_app(load_settings(storage="memory://", database="oracle://scott:tiger@db/x")):
            raise AssertionError("it opened")

    assert "tiger" not in str(refused.value)


async def test_a_password_in_a_url_an_adapter_refuses_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(EntryPoint):
        def load(self) -> object:
            def from_url(url: str, _: object) -> object:
                raise ValueError(f"{url} has no database name")

            return from_url

    monkeypatch.setattr(
        "uploadcore_app.plugins.entry_points",
        lambda group: EntryPoints([Picky("oracle", "x:y", group), *entry_points(group=group)]),
    )

    with pytest.raises(ConfigurationError, match="oracle://… has no database name") as refused:
        async with open_app(load_settings(storage="memory://", database="oracle://scott:tiger@db/")):
            raise AssertionError("it opened")

    assert "tiger" not in str(refused.value)


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("far", "not_installed_package:from_url", "uploadcore.stores")

    class Missing(EntryPoint):
        def load(self) -> object:
            raise ImportError("uploadcore_far needs farlib: pip install 'uploadcore[far]'")

    monkeypatch.setattr(
        "uploadcore_app.plugins.entry_points", lambda group: EntryPoints([Missing(plugin.name, plugin.value, group)])
    )

    with pytest.raises(ConfigurationError, match=r"pip install 'uploadcore\[far\]'"):
        async with open_app(load_settings(storage="far://x", database="memory://")):
            raise AssertionError("it opened")


async def test_every_default_opens_in_a_folder_of_its_own(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path / "data",
        key_prefix="mine",
        url_lifetime="5m",
        file_cache_ttl="7",
        max_open_uploads=1,
        lease="3s",
        sweep_interval="1m",
        relay_interval="0.5",
    )

    async with open_app(settings) as app:
        upload = await app.core.uploads.initiate(owner="u", filename="a", size=1)
        assert upload.state == "uploading"
        assert app.core.config.key_prefix == "mine"
        assert app.core.config.url_lifetime == timedelta(minutes=5)
        assert app.core.config.file_cache_ttl == timedelta(seconds=7)
        assert (app.core.config.lease, app.core.config.lease_renewal) == (timedelta(seconds=3), timedelta(seconds=1))
        assert app.core.config.sweep_interval == timedelta(minutes=1)
        assert app.core.config.relay_interval == timedelta(seconds=0.5)

    assert (tmp_path / "data" / "uploadcore.db").exists()
    assert (tmp_path / "data" / "files").is_dir()


async def test_a_provider_can_be_overridden() -> None:
    container = Container()
    store = MemoryObjectStore("other")
    container.store.override(providers.Object(store))

    async with open_app(load_settings(database="memory://", storage="never://asked"), container) as app:
        assert app.core.store.bucket == store.bucket == "other"


async def test_ports_are_closed_in_reverse_whatever_happens() -> None:
    seen: list[str] = []

    class Store(MemoryObjectStore):
        async def open(self) -> None:
            seen.append("store opened")

        async def close(self) -> None:
            seen.append("store closed")

    class Database(MemoryDatabase):
        async def open(self) -> None:
            seen.append("database opened")

        async def close(self) -> None:
            seen.append("database closed")

    container = Container()
    container.store.override(providers.Object(Store()))
    container.database.override(providers.Object(Database()))

    with pytest.raises(ZeroDivisionError):
        async with open_app(load_settings(), container):
            raise ZeroDivisionError

    assert seen == ["store opened", "database opened", "database closed", "store closed"]


async def test_a_store_that_can_never_work_is_one_clear_line() -> None:
    class Store(MemoryObjectStore):
        async def open(self) -> None:
            raise StoreUnavailableError("no permission to write to /srv/files")

    container = Container()
    container.store.override(providers.Object(Store()))

    with pytest.raises(ConfigurationError, match="can't start: no permission to write"):
        async with open_app(load_settings(database="memory://"), container):
            raise AssertionError("it opened")


async def test_no_cache_is_no_cache() -> None:
    async with open_app(load_settings(storage="memory://", database="memory://", cache="none")) as app:
        assert app.core.cache is None
