"""Examine what the application is configured to stand on, each by itself: what is wrong with one hides nothing of the others."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from uploadcore.clocks import clock_offset
from uploadcore.diagnosis import Diagnosable, Finding, Needs, Verdict
from uploadcore.errors import UploadCoreError
from uploadcore.ports import Cache, Database, EventPublisher, ObjectStore
from uploadcore_app.composition import Container
from uploadcore_app.errors import ConfigurationError
from uploadcore_app.settings import Settings

__all__ = ["examine"]

CLOCK_TO_MEND = timedelta(minutes=1)


async def examine(
    settings: Settings, *, apply: bool = False, container: Container | None = None
) -> AsyncIterator[Finding]:
    """Every finding on store, database, cache and the events' destinations, as it is made.

    Args:
        settings: The configuration to examine.
        apply: Set right what can be set right from here.
        container: With providers overridden, for tests and for hosts that bring their own; by default a new one.
    """
    container = Container() if container is None else container
    container.settings.override(settings)
    needs = Needs(
        key_prefix=settings.key_prefix, upload_lifetime=settings.upload_lifetime, origins=settings.cors_origins
    )
    looks: tuple[tuple[str, Callable[[], AsyncIterator[Finding]]], ...] = (
        ("store", lambda: _store(container.store(), needs, apply=apply)),
        ("database", lambda: _database(container.database())),
        ("cache", lambda: _cache(container.cache())),
        ("events", lambda: _events(container.publishers(), needs, apply=apply)),
    )
    for port, look in looks:
        try:
            async for finding in look():
                yield finding
        except ConfigurationError as exc:
            yield Finding(
                f"{port}.configuration", Verdict.FAILED, str(exc), "set the variable it names, or install the extra"
            )
        except UploadCoreError as exc:
            yield Finding(
                f"{port}.reachable",
                Verdict.FAILED,
                exc.message,
                "put right what it says; where nobody answers, see that it runs, and that the URL is right",
            )


async def _store(store: ObjectStore, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
    try:
        await store.open()
        if not isinstance(store, Diagnosable):
            yield Finding(
                "store.reachable", Verdict.OK, f"{type(store).__name__} opens; it has nothing else to examine"
            )
            return
        async for finding in store.diagnose(needs, apply=apply):
            yield finding
    finally:
        await store.close()


async def _database(database: Database) -> AsyncIterator[Finding]:
    try:
        await database.open()
        installation = await database.installation_id()
        async with database.reader() as tx:
            await tx.uploads.due(1)
        yield Finding("database.schema", Verdict.OK, f"the schema fits this version; installation {installation}")
        offset = clock_offset(database)
        if offset is not None:
            yield _clock(offset)
    finally:
        await database.close()


def _clock(offset: timedelta) -> Finding:
    check, told = "database.clock", f"{-offset.total_seconds():+.0f} s"
    if abs(offset) < CLOCK_TO_MEND:
        return Finding(check, Verdict.OK, f"this machine's clock and the database's agree ({told})")
    message = f"this machine's clock is off by {told}: deadlines go by the database's, but tokens are checked by this machine's"
    return Finding(check, Verdict.WARNING, message, "synchronise the clocks (chrony, systemd-timesyncd)")


async def _cache(cache: Cache | None) -> AsyncIterator[Finding]:
    check = "cache.round_trip"
    if cache is None:
        yield Finding(check, Verdict.NOTE, "no cache: every read goes to the database", "UPLOADCORE_CACHE=redis://…")
        return
    try:
        await cache.open()
        key, value = f"doctor:{secrets.token_hex(8)}", secrets.token_bytes(16)
        stored = await cache.set_if_newer(key, value, 1, ttl=timedelta(seconds=10))
        came_back = await cache.get(key) == value
        gone = await cache.delete(key, 2) and await cache.get(key) is None
        if stored and came_back and gone:
            yield Finding(check, Verdict.OK, "a value went there, came back and is gone")
        else:
            yield Finding(
                check,
                Verdict.WARNING,
                "the cache does not answer: nothing is lost, and every read goes to the database",
                "see that it runs, and that UPLOADCORE_CACHE names host, port and password",
            )
    finally:
        await cache.close()


async def _events(publishers: Mapping[str, EventPublisher], needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
    for name, publisher in publishers.items():
        try:
            await publisher.open()
            if isinstance(publisher, Diagnosable):
                async for finding in publisher.diagnose(needs, apply=apply):
                    yield replace(finding, check=f"events.{name}.{finding.check}")
        finally:
            await publisher.close()
