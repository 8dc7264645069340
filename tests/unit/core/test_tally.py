"""What a core counts, for metrics: what has happened, and nothing that has not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from uploadcore import UploadCore
from uploadcore.errors import DatabaseUnavailableError, UndeliverableError, VersionConflictError
from uploadcore.events import Event
from uploadcore.upload import Lease
from uploadcore_memory import MemoryCache, MemoryDatabase, MemoryEventPublisher, MemoryObjectStore


@asynccontextmanager
async def opened(**ports: Any) -> AsyncIterator[UploadCore]:
    ports = {"store": MemoryObjectStore(), "database": MemoryDatabase(), "cache": MemoryCache(), **ports}
    async with UploadCore(**ports) as core:
        yield core


async def test_a_move_is_counted_by_the_state_it_leads_to() -> None:
    async with opened() as core:
        single = await core.uploads.initiate(owner="u", filename="a", size=1)
        multipart = await core.uploads.initiate(owner="u", filename="b", size=100 * 1024**2)
        assert core.tally.moves == {"pending": 2, "uploading": 2}

        await core.uploads.abort(single.id, owner="u")
        await core.uploads.abort(multipart.id, owner="u")

    assert core.tally.moves == {"pending": 2, "uploading": 2, "aborting": 2, "aborted": 2}


async def test_a_lease_taken_and_a_save_that_failed_are_no_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as core:
        view = await core.uploads.initiate(owner="u", filename="a", size=1)
        steps = core.uploads._steps
        before = dict(core.tally.moves)

        upload = await steps.read(view.id)
        lost = upload.abort_requested(Lease("other", core.config.lease))
        upload = await steps.save(upload.recheck(None))
        with pytest.raises(VersionConflictError):
            await steps.save(lost)

    assert core.tally.moves == before


async def test_reads_are_counted_by_what_was_found() -> None:
    async with opened() as core:
        upload = await core.uploads.initiate(owner="u", filename="a", size=1)
        for _ in range(3):
            await core.uploads.sign_parts(upload.id, owner="u", part_numbers=[1])
        for _ in range(2):
            with pytest.raises(Exception, match="unknown"):
                await core.files.get("unknown", owner="u")

    assert core.tally.reads["upload"] == {"miss": 1, "hit": 2}
    assert core.tally.reads["file"] == {"miss": 1, "absent": 1}


async def test_passes_of_the_sweeper_are_counted_with_what_they_did() -> None:
    class Away(MemoryDatabase):
        is_away = False

        def reader(self, *, single: bool = False) -> Any:
            if self.is_away:
                raise DatabaseUnavailableError("away")
            return super().reader(single=single)

    database = Away()
    async with opened(database=database) as core:
        report = await core.sweep()
        await core.sweep(dry_run=True)
        database.is_away = True
        with pytest.raises(DatabaseUnavailableError):
            await core.sweep()

    assert core.tally.sweeps == {"ok": 1, "failed": 1}
    assert core.tally.swept["expired"] == report.expired == 0
    assert "more" not in core.tally.swept
    assert core.tally.has_more_to_sweep is False
    assert core.tally.swept_at is not None


async def test_deliveries_are_counted_by_destination_and_what_became_of_them() -> None:
    class Refusing(MemoryEventPublisher):
        async def publish(self, event: Event) -> None:
            raise ConnectionError

    publishers = {"crm": MemoryEventPublisher(), "sync": Refusing()}
    async with opened(publishers=publishers) as core:
        upload = await core.uploads.initiate(owner="u", filename="a", size=1)
        await core.uploads.abort(upload.id, owner="u")
        await core.relay()

    assert core.tally.deliveries == {
        ("crm", "upload.aborted", "delivered"): 1,
        ("sync", "upload.aborted", "failed"): 1,
    }


async def test_a_dead_letter_is_counted_as_one() -> None:
    class Refusing(MemoryEventPublisher):
        async def publish(self, event: Event) -> None:
            raise UndeliverableError("never")

    async with opened(publishers={"sync": Refusing()}) as core:
        upload = await core.uploads.initiate(owner="u", filename="a", size=1)
        await core.uploads.abort(upload.id, owner="u")
        await core.relay()

    assert core.tally.deliveries == {("sync", "upload.aborted", "dead"): 1}
