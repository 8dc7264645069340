"""The composition root: the one place that knows which adapters the application is made of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dependency_injector import containers, providers

from uploadcore.admission import StaticPolicy
from uploadcore.config import UploadConfig
from uploadcore.core import UploadCore
from uploadcore.errors import DatabaseUnavailableError, StoreUnavailableError
from uploadcore.ports import AdapterContext, Admission, Cache, Database, EventPublisher, ObjectStore
from uploadcore_app.errors import ConfigurationError
from uploadcore_app.measured import MeasuredCache, MeasuredDatabase, MeasuredStore, Measurements
from uploadcore_app.plugins import CACHES, DATABASES, PUBLISHERS, STORES, load_adapter
from uploadcore_app.settings import NO_CACHE, Settings
from uploadcore_app.tracing import trace_use_cases, tracing_from

__all__ = ["App", "Container", "open_app"]

LOOK_AGAIN = 1.0
"""Seconds between two attempts to open a database that is away."""

log = logging.getLogger("uploadcore.app")


def _context(settings: Settings) -> AdapterContext:
    return AdapterContext(
        data_dir=settings.data_dir.absolute(), public_url=settings.base_url, part_size_min=settings.part_size_min
    )


def _cache(settings: Settings, context: AdapterContext) -> Cache | None:
    if settings.cache == NO_CACHE:
        return None
    cache: Cache = load_adapter(CACHES, settings.cache, context, "UPLOADCORE_CACHE")
    return cache


def _publishers(settings: Settings, context: AdapterContext) -> Mapping[str, EventPublisher]:
    return {
        name: load_adapter(PUBLISHERS, url, context, f"UPLOADCORE_EVENTS, {name}")
        for name, url in settings.destinations.items()
    }


def _limits(settings: Settings) -> Admission:
    return Admission(
        max_size=settings.max_size,
        max_unknown_size=settings.max_unknown_size,
        max_open_uploads=settings.max_open_uploads,
        max_bytes_in_flight=settings.max_bytes_in_flight,
        content_types=settings.content_types,
    )


def _config(settings: Settings) -> UploadConfig:
    return UploadConfig(
        key_prefix=settings.key_prefix,
        url_lifetime=settings.url_lifetime,
        upload_lifetime=settings.upload_lifetime,
        file_cache_ttl=settings.file_cache_ttl,
        lease=settings.lease,
        lease_renewal=settings.lease / 3,
        sweep_interval=settings.sweep_interval,
        relay_interval=settings.relay_interval,
    )


def _core(
    measurements: Measurements, *, store: ObjectStore, database: Database, cache: Cache | None, **parts: Any
) -> UploadCore:
    """A core whose ports are measured, and whose use cases are traced where traces are made."""
    core = UploadCore(
        store=MeasuredStore(store, measurements),
        database=MeasuredDatabase(database, measurements),
        cache=None if cache is None else MeasuredCache(cache, measurements),
        **parts,
    )
    if measurements.tracing is not None:
        trace_use_cases(core.uploads, "upload", measurements.tracing)
        trace_use_cases(core.files, "file", measurements.tracing)
        trace_use_cases(core, "background", measurements.tracing)
    return core


class Container(containers.DeclarativeContainer):
    """What the application is made of. It declares; `open_app` opens.

    Only `Dependency` and `Singleton` providers: a `Resource` would open things in an order nobody sees.
    """

    settings = providers.Dependency(instance_of=Settings)
    context = providers.Singleton(_context, settings)
    store = providers.Singleton(load_adapter, STORES, settings.provided.storage_url, context, "UPLOADCORE_STORAGE")
    database = providers.Singleton(
        load_adapter, DATABASES, settings.provided.database_url, context, "UPLOADCORE_DATABASE"
    )
    cache = providers.Singleton(_cache, settings, context)
    publishers = providers.Singleton(_publishers, settings, context)
    tracing = providers.Singleton(tracing_from)
    measurements = providers.Singleton(Measurements, tracing)
    policy = providers.Singleton(StaticPolicy, providers.Singleton(_limits, settings))
    core = providers.Singleton(
        _core,
        measurements,
        store=store,
        database=database,
        cache=cache,
        publishers=publishers,
        policy=policy,
        config=providers.Singleton(_config, settings),
    )


@dataclass(frozen=True, slots=True)
class App:
    """The application, open."""

    settings: Settings
    core: UploadCore
    measurements: Measurements


@asynccontextmanager
async def open_app(
    settings: Settings, container: Container | None = None, *, waits: bool = False
) -> AsyncIterator[App]:
    """Make the application, open what it is made of, and close it in reverse.

    Args:
        settings: The configuration.
        container: With providers overridden, for tests and for hosts that bring their own; by default a new one.
        waits: Where the database is away, wait until it is there, however long that takes: a fleet that is started again while its
            database is down must not end for it. What can be put right only by somebody is raised all the same.

    Raises:
        ConfigurationError: A setting can't be used.

    Example:
        >>> import asyncio
        >>> from uploadcore_app import load_settings, open_app
        >>> async def main():
        ...     settings = load_settings(storage="memory://", database="memory://")
        ...     async with open_app(settings) as app:
        ...         upload = await app.core.uploads.initiate(owner="u_1", filename="note.txt", size=5)
        ...         return upload.state.value
        >>> asyncio.run(main())
        'uploading'
    """
    container = Container() if container is None else container
    container.settings.override(settings)
    async with AsyncExitStack() as stack:
        core, tracing = container.core(), container.tracing()
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        try:
            await stack.enter_async_context(_once_its_database_is_there(core) if waits else core)
        except (StoreUnavailableError, DatabaseUnavailableError) as exc:
            raise ConfigurationError(f"can't start: {exc.message}") from exc
        yield App(settings=settings, core=core, measurements=container.measurements())


@asynccontextmanager
async def _once_its_database_is_there(core: UploadCore) -> AsyncIterator[None]:
    while True:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(core)
            except DatabaseUnavailableError as exc:
                if not exc.is_away:
                    raise
                log.warning("waiting for the database: %s", exc.message, extra={"code": exc.code})
            else:
                yield
                return
        await asyncio.sleep(LOOK_AGAIN)
