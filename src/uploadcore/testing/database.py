"""The contract of a `Database`: what its transactions promise, and the contracts of the records in them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from uploadcore.errors import QuotaExceededError
from uploadcore.events import EventType
from uploadcore.ports import Database, IdempotencyRecord
from uploadcore.testing.builders import make_event, make_file, make_upload
from uploadcore.testing.files import FileRecordsContract
from uploadcore.testing.idempotency import IdempotencyContract
from uploadcore.testing.outbox import OutboxContract
from uploadcore.testing.quotas import QuotaContract
from uploadcore.testing.uploads import UploadRecordsContract
from uploadcore.upload import Transition

__all__ = ["DatabaseContract"]

HOUR = timedelta(hours=1)


class DatabaseContract(UploadRecordsContract, FileRecordsContract, OutboxContract, IdempotencyContract, QuotaContract):
    """What every `Database` does. Subclass it and give one fixture.

    `database`: an opened, empty `Database`, closed afterwards.
    """

    async def test_what_a_transaction_wrote_is_seen_after_it(self, database: Database) -> None:
        async with database.transaction() as tx:
            added = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            assert await tx.uploads.get("a") == added, "and inside it at once"
        async with database.reader() as tx:
            assert await tx.uploads.get("a") == added

    @pytest.mark.parametrize("failure", [RuntimeError("boom"), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
    async def test_any_exception_rolls_all_of_it_back(self, database: Database, failure: BaseException) -> None:
        async with database.transaction() as tx:
            kept = await tx.uploads.add(make_upload("kept"), lifetime=HOUR, lease=None)
            await tx.quotas.reserve("u_1", size=10, max_uploads=None, max_bytes=None)
        with pytest.raises(type(failure)):
            async with database.transaction() as tx:
                await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
                await tx.uploads.save(Transition(kept).announcing(EventType.UPLOAD_ABORTED))
                await tx.files.add(make_file("f"))
                await tx.outbox.add(make_event("e"))
                await tx.idempotency.claim(IdempotencyRecord("u_1", "key", "print", "a"), kept=HOUR)
                await tx.quotas.reserve("u_1", size=90, max_uploads=None, max_bytes=None)
                raise failure
        async with database.transaction() as tx:
            assert await tx.uploads.get("a") is None
            assert await tx.uploads.get("kept") == kept
            assert await tx.files.get("f") is None
            assert await tx.outbox.number(["anywhere"], 10) == 0
            other = IdempotencyRecord("u_1", "key", "print", "b")
            assert await tx.idempotency.claim(other, kept=HOUR) == other
            await tx.quotas.reserve("u_1", size=90, max_uploads=2, max_bytes=100)
            with pytest.raises(QuotaExceededError):
                await tx.quotas.reserve("u_1", size=1, max_uploads=None, max_bytes=100)

    async def test_a_task_cancelled_inside_a_transaction_leaves_nothing_and_blocks_nobody(
        self, database: Database
    ) -> None:
        inside = asyncio.Event()

        async def write_and_wait() -> None:
            async with database.transaction() as tx:
                await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write_and_wait())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.transaction() as tx:
            assert await tx.uploads.get("a") is None

    async def test_a_task_cancelled_while_it_waits_for_its_turn_blocks_nobody(self, database: Database) -> None:
        entered = asyncio.Event()

        async def wait_for_a_turn() -> None:
            entered.set()
            async with database.transaction() as tx:
                await tx.uploads.add(make_upload("late"), lifetime=HOUR, lease=None)
                raise RuntimeError("rolled back, should it get its turn")

        async with database.transaction() as tx:
            waiting = asyncio.create_task(wait_for_a_turn())
            await entered.wait()
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with database.transaction() as tx:
            assert await tx.uploads.get("a") is not None
            assert await tx.uploads.get("late") is None

    async def test_a_reader_does_not_see_what_is_not_committed(self, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
            async with database.reader() as other:
                assert await other.uploads.get("a") is None

    async def test_a_reader_keeps_its_view_while_others_commit(self, database: Database) -> None:
        async with database.transaction() as tx:
            before = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
        async with database.reader() as view:
            assert await view.uploads.get("a") == before
            async with database.transaction() as tx:
                await tx.uploads.save(Transition(before))
                await tx.files.add(make_file("f"))
            assert await view.uploads.get("a") == before
            assert await view.files.get("f") is None

    async def test_an_exception_in_a_reader_passes_through(self, database: Database) -> None:
        with pytest.raises(RuntimeError, match="boom"):
            async with database.reader():
                raise RuntimeError("boom")
        async with database.reader() as tx:
            assert await tx.uploads.get("a") is None

    async def test_concurrent_transactions_of_different_records_all_commit(self, database: Database) -> None:
        async def write(number: int) -> None:
            async with database.transaction() as tx:
                await tx.uploads.add(make_upload(f"u{number}"), lifetime=HOUR, lease=None)
                await asyncio.sleep(0)  # the others get their chance to come in between
                await tx.files.add(make_file(f"f{number}"))

        await asyncio.gather(*(write(number) for number in range(20)))
        async with database.reader() as tx:
            found = await tx.uploads.find(owner="u_1", state=None, fingerprint=None, before=None, limit=100)
            assert {upload.id for upload in found} == {f"u{number}" for number in range(20)}

    async def test_the_installation_id_stays(self, database: Database) -> None:
        first = await database.installation_id()
        assert first
        assert await database.installation_id() == first

    async def test_close_is_idempotent(self, database: Database) -> None:
        await database.close()
        await database.close()
