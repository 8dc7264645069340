"""The contract of an `ObjectStore`'s multipart uploads."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from uploadcore.errors import ChecksumMismatchError, NoSuchMultipartError, PartsRejectedError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectStore
from uploadcore.testing.store_steps import CHECKSUMS, CLOCK_ERROR, NINE, SignedHttp, StoreSteps, zeros
from uploadcore.upload import Address

__all__ = ["MultipartContract"]


class MultipartContract(StoreSteps):
    """What every store does with multipart uploads. Part of `ObjectStoreContract`."""

    # --- multipart: the whole way ---------------------------------------------------------------------------------

    async def test_parts_sent_in_any_order_make_the_object(self, store: ObjectStore, http: SignedHttp) -> None:
        first, second, third = self.bodies(store)
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {3: third, 1: first, 2: second})
        assert [(part.part_number, part.size) for part in listed] == [
            (1, len(first)),
            (2, len(second)),
            (3, len(third)),
        ]
        assert all(part.etag for part in listed)
        assert await store.head(address) is None, "nothing stands before it is completed"

        whole = first + second + third
        await store.complete_multipart(address, listed, size=len(whole), checksum=None)

        head = await store.head(address)
        assert head is not None
        assert (head.size, head.content_type, head.metadata[MARKER]) == (len(whole), "video/mp4", "upload-1")
        assert head.etag
        assert await self.content(store, http) == whole

    async def test_one_empty_part_makes_an_empty_object(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: b""})
        assert [(part.part_number, part.size) for part in listed] == [(1, 0)]
        await store.complete_multipart(address, listed, size=0, checksum=None)
        head = await store.head(address)
        assert head is not None
        assert head.size == 0
        assert await self.content(store, http) == b""

    async def test_each_creation_makes_another_multipart_upload(self, store: ObjectStore, http: SignedHttp) -> None:
        one, other = await self.begin(store), await self.begin(store)
        assert one.storage_upload_id != other.storage_upload_id
        await self.put_parts(store, http, one, {1: b"1"})
        await self.put_parts(store, http, other, {1: b"other", 2: b"2"})
        assert [part.size for part in await store.list_parts(one)] == [1]
        assert [part.size for part in await store.list_parts(other)] == [5, 1]

    async def test_a_part_sent_again_takes_the_place(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        [before] = await self.put_parts(store, http, address, {1: b"before, and longer"})
        [after] = await self.put_parts(store, http, address, {1: b"after"})
        assert after.size == 5
        assert after.etag != before.etag
        await store.complete_multipart(address, [after], size=5, checksum=None)
        assert await self.content(store, http) == b"after"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per count, each with a time limit of its own."""
        if "part_count" in metafunc.fixturenames:
            metafunc.parametrize("part_count", self.part_counts)

    async def test_many_parts_are_listed_in_order_and_completed(
        self, store: ObjectStore, http: SignedHttp, part_count: int
    ) -> None:
        if part_count > store.limits.max_parts:
            return
        address = await self.begin(store)
        bodies = {number: bytes([number % 251]) for number in range(1, part_count + 1)}
        plan = [Part(number, number - 1, 1) for number in bodies]
        signed = await store.presign_parts(address, plan, checksums={}, expires_in=timedelta(minutes=15))
        sent = list(zip(signed, bodies.values(), strict=True))
        for first in range(0, part_count, 50):
            batch = sent[first : first + 50]
            answers = await asyncio.gather(*(self.send(http, request, body) for request, body in batch))
            assert {answer.status for answer in answers} == {200}
        listed = await store.list_parts(address)
        assert [part.part_number for part in listed] == list(bodies)
        assert {part.size for part in listed} == {1}
        if store.limits.min_part_size == 1:
            await store.complete_multipart(address, listed, size=part_count, checksum=None)
            assert await self.content(store, http) == b"".join(bodies.values())

    @pytest.mark.parametrize(
        "key", ["a", "a/b/c/d", "with space/plus+and=equals", "per%20cent&question?", "up/a/", "dot.."]
    )
    async def test_a_key_is_only_a_name(self, store: ObjectStore, http: SignedHttp, key: str) -> None:
        await self.put_object(store, http, key, b"bytes")
        assert await self.content(store, http, key) == b"bytes"
        for other in (f"{key}x", key[:-1] or "b"):
            assert await store.head(Address(store.bucket, other)) is None

    # --- completion -----------------------------------------------------------------------------------------------

    async def test_only_the_parts_named_are_assembled(self, store: ObjectStore, http: SignedHttp) -> None:
        first, second, stray = self.bodies(store)
        address = await self.begin(store)
        named = await self.put_parts(store, http, address, {1: first, 2: second})
        await self.put_parts(store, http, address, {3: stray})
        await store.complete_multipart(address, named, size=len(first + second), checksum=None)
        assert await self.content(store, http) == first + second

    async def test_parts_that_are_not_as_named_are_rejected_and_nothing_is_assembled(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        first, second, third = self.bodies(store)
        address = await self.begin(store)
        stale = await self.put_parts(store, http, address, {1: first, 2: second, 3: b"overwritten"})
        listed = await self.put_parts(store, http, address, {3: third})
        size = len(first + second + third)
        never_sent = StoredPart(4, 1, stale[2].etag)
        for wrong in (stale, [*listed, never_sent]):
            with pytest.raises(PartsRejectedError):
                await store.complete_multipart(address, wrong, size=size, checksum=None)
            assert await store.head(address) is None
        assert await store.list_parts(address) == listed
        await store.complete_multipart(address, listed, size=size, checksum=None)
        assert await self.content(store, http) == first + second + third

    async def test_a_short_part_before_another_is_rejected(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        short = b"x" * (store.limits.min_part_size - 1)
        listed = await self.put_parts(store, http, address, {1: short, 2: b"y"})
        with pytest.raises(PartsRejectedError):
            await store.complete_multipart(address, listed, size=len(short) + 1, checksum=None)
        assert await store.head(address) is None

    async def test_a_completed_multipart_upload_is_known_no_more(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        if store.capabilities.forgets_completed:
            with pytest.raises(NoSuchMultipartError):
                await store.list_parts(address)
        assert [found async for found in store.list_multiparts(address.key)] == []

    async def test_completing_again_answers_as_declared(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        if store.capabilities.repeatable_complete:
            await store.complete_multipart(address, listed, size=9, checksum=None)
        else:
            with pytest.raises(NoSuchMultipartError):
                await store.complete_multipart(address, listed, size=9, checksum=None)
        assert await self.content(store, http) == NINE

    async def test_concurrent_completions_do_no_harm_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        callers = 5 if store.capabilities.concurrent_complete else 1
        attempts = (store.complete_multipart(address, listed, size=9, checksum=None) for _ in range(callers))
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert None in outcomes
        assert all(outcome is None or isinstance(outcome, NoSuchMultipartError) for outcome in outcomes)
        assert await self.content(store, http) == NINE

    async def test_a_late_part_changes_no_byte_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store)
        late = await self.sign(store, address, 1, 9)
        listed = await self.put_parts(store, http, address, {1: NINE})
        await store.complete_multipart(address, listed, size=9, checksum=None)
        await self.send(http, late, b"987654321")
        if store.capabilities.late_parts_refused:
            assert await self.content(store, http) == NINE

    @pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
    async def test_a_declared_object_checksum_is_verified_and_told(
        self, store: ObjectStore, http: SignedHttp, algorithm: ChecksumAlgorithm
    ) -> None:
        checksum, other = CHECKSUMS[algorithm], Checksum(algorithm, zeros(algorithm))
        verified = algorithm in store.capabilities.object_checksums
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, {1: NINE})
        if verified:
            with pytest.raises(ChecksumMismatchError):
                await store.complete_multipart(address, listed, size=9, checksum=other)
            assert await store.head(address) is None
            assert await store.list_parts(address) == listed, "the upload goes on"
        await store.complete_multipart(address, listed, size=9, checksum=checksum if verified else None)
        head = await store.head(address)
        assert head is not None
        if store.capabilities.object_checksums:
            assert head.checksum is not None
            assert head.checksum == CHECKSUMS[head.checksum.algorithm]
            assert head.checksum.algorithm in store.capabilities.object_checksums

    async def test_the_checksum_of_several_parts_is_that_of_the_whole(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        bodies = (b"1234", b"56789") if store.limits.min_part_size <= 4 else (NINE,)
        address = await self.begin(store)
        listed = await self.put_parts(store, http, address, dict(enumerate(bodies, 1)))
        await store.complete_multipart(address, listed, size=9, checksum=None)
        head = await store.head(address)
        assert head is not None
        if store.capabilities.object_checksums:
            assert head.checksum is not None
            assert head.checksum == CHECKSUMS[head.checksum.algorithm]

    # --- abort, list ----------------------------------------------------------------------------------------------

    async def test_an_aborted_multipart_upload_is_gone_with_its_urls(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address, other = await self.begin(store), await self.begin(store)
        signed = await self.sign(store, address, 2, 1)
        await self.put_parts(store, http, address, {1: b"1"})
        await store.abort_multipart(address)
        with pytest.raises(NoSuchMultipartError):
            await store.list_parts(address)
        with pytest.raises(NoSuchMultipartError):
            await store.complete_multipart(address, [StoredPart(1, 1, '"x"')], size=1, checksum=None)
        assert (await self.send(http, signed, b"2")).status >= 400
        found = [upload.storage_upload_id async for upload in store.list_multiparts(address.key)]
        assert found == [other.storage_upload_id]

    async def test_abort_is_idempotent_and_spares_the_object(self, store: ObjectStore, http: SignedHttp) -> None:
        await store.abort_multipart(Address(store.bucket, "up/never", "never-made"))
        address = await self.begin(store)
        await store.abort_multipart(address)
        await store.abort_multipart(address)
        await self.put_object(store, http, "up/a", NINE)
        await store.abort_multipart(address)
        assert await self.content(store, http) == NINE

    async def test_a_multipart_upload_is_known_under_its_own_key_only(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        address = await self.begin(store, "up/a")
        elsewhere = Address(store.bucket, "up/b", address.storage_upload_id)
        unknown = Address(store.bucket, "up/a", f"{address.storage_upload_id}0")
        for wrong in (elsewhere, unknown):
            with pytest.raises(NoSuchMultipartError):
                await store.list_parts(wrong)
            await store.abort_multipart(wrong)
            assert (await self.send(http, await self.sign(store, wrong, 1, 1), b"1")).status >= 400
        assert await store.list_parts(address) == []

    async def test_multipart_uploads_are_listed_by_prefix_or_by_key_as_declared(self, store: ObjectStore) -> None:
        a, b, c = (
            await self.begin(store, "up/a/1"),
            await self.begin(store, "up/a/2"),
            await self.begin(store, "up/b/1"),
        )

        async def listed(prefix: str) -> set[tuple[str, str]]:
            return {(found.key, found.storage_upload_id) async for found in store.list_multiparts(prefix)}

        def named(*addresses: Address) -> set[tuple[str, str]]:
            return {(address.key, address.storage_upload_id or "") for address in addresses}

        assert await listed("up/a/1") == named(a)
        assert await listed("up/nothing") == set()
        if store.capabilities.list_by_prefix:
            assert await listed("up/") == named(a, b, c)
            assert await listed("up/a") == named(a, b)
        assert await listed("") == named(a, b, c)
        async for found in store.list_multiparts("up/a/1"):
            assert found.initiated.utcoffset() is not None, "times know their zone"

    async def test_a_multipart_upload_is_listed_with_the_time_it_was_initiated(self, store: ObjectStore) -> None:
        before = await self.now(store)
        address = await self.begin(store)
        after = await self.now(store)
        [first] = [found async for found in store.list_multiparts(address.key)]
        await self.advance(store, 1)
        [second] = [found async for found in store.list_multiparts(address.key)]
        assert before - CLOCK_ERROR <= first.initiated <= after + CLOCK_ERROR, "by its age an orphan is told"
        assert second.initiated == first.initiated

    async def test_many_multipart_uploads_are_listed(self, store: ObjectStore) -> None:
        made = {(await self.begin(store, "up/many")).storage_upload_id for _ in range(self.open_multiparts)}
        assert {found.storage_upload_id async for found in store.list_multiparts("up/many")} == made
