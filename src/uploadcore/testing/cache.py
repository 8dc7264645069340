"""The contract of a `Cache`."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from uploadcore.ports import Cache

__all__ = ["CacheContract"]

HOUR = timedelta(hours=1)


class CacheContract:
    """What every `Cache` does. Subclass it and give one fixture.

    `cache`: an opened, empty `Cache`, closed afterwards.

    Override `advance` where the cache's clock can be told to go on: one test lets nine seconds pass.
    """

    async def advance(self, cache: Cache, seconds: float) -> None:
        """Let that much time pass for the cache."""
        del cache
        await asyncio.sleep(seconds)

    async def until_gone(self, cache: Cache, key: str) -> None:
        """Wait, in short steps, until the key has no value; five seconds at most."""
        for _ in range(100):
            if await cache.get(key) is None:
                return
            await self.advance(cache, 0.05)
        pytest.fail("the value outlived its time to live by far")

    async def test_an_unknown_key_has_no_value(self, cache: Cache) -> None:
        assert await cache.get("a") is None

    @pytest.mark.parametrize(
        "value", [b"", b"\x00", b"\xff\xfe\r\n", b"x" * 100_000], ids=["empty", "0", "binary", "long"]
    )
    async def test_a_value_comes_back_as_it_was(self, cache: Cache, value: bytes) -> None:
        assert await cache.set_if_newer("a", value, 1, ttl=HOUR) is True
        assert await cache.get("a") == value

    async def test_version_0_is_a_version(self, cache: Cache) -> None:
        assert await cache.set_if_newer("a", b"0", 0, ttl=HOUR) is True
        assert await cache.get("a") == b"0"
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        assert await cache.set_if_newer("a", b"0", 0, ttl=HOUR) is False
        assert await cache.delete("b", 0) is True
        assert await cache.set_if_newer("b", b"0", 0, ttl=HOUR) is False
        assert await cache.set_if_newer("b", b"1", 1, ttl=HOUR) is True

    async def test_a_late_tombstone_of_an_older_version_brings_nothing_older_back(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"5", 5, ttl=HOUR)
        assert await cache.delete("a", 3) is True
        assert await cache.get("a") in {None, b"5"}, "the value may go: that costs a read"
        assert await cache.set_if_newer("a", b"4", 4, ttl=HOUR) is False
        assert await cache.set_if_newer("a", b"5", 5, ttl=HOUR) is True

    @pytest.mark.parametrize("key", ["a b", "ключ:🎬", "a\nb", "*", "x" * 500])
    async def test_any_text_is_a_key_of_its_own(self, cache: Cache, key: str) -> None:
        await cache.set_if_newer(key, b"1", 1, ttl=HOUR)
        await cache.set_if_newer(f"{key}.", b"2", 1, ttl=HOUR)
        assert (await cache.get(key), await cache.get(f"{key}.")) == (b"1", b"2")

    async def test_a_newer_version_takes_the_place(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"1", 1, ttl=HOUR)
        assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR) is True
        assert await cache.get("a") == b"2"

    async def test_an_older_version_is_not_stored(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"10", 10, ttl=HOUR)
        assert await cache.set_if_newer("a", b"9", 9, ttl=HOUR) is False
        assert await cache.get("a") == b"10"

    async def test_the_same_version_is_stored_again(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"1", 1, ttl=timedelta(milliseconds=100))
        await self.until_gone(cache, "a")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        assert await cache.get("a") == b"1"

    async def test_large_versions_are_compared_as_numbers(self, cache: Cache) -> None:
        for version in (9, 10, 99, 100, 2**31, 2**53 - 1):
            assert await cache.set_if_newer("a", str(version).encode(), version, ttl=HOUR) is True
        assert await cache.set_if_newer("a", b"older", 2**53 - 2, ttl=HOUR) is False

    async def test_a_value_is_gone_after_its_time_to_live(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"1", 1, ttl=timedelta(milliseconds=100))
        await self.until_gone(cache, "a")

    async def test_an_expired_version_still_refuses_older_ones(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"2", 2, ttl=timedelta(milliseconds=100))
        await self.until_gone(cache, "a")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is False
        assert await cache.get("a") is None

    async def test_a_deleted_value_does_not_come_back(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
        assert await cache.delete("a", 3) is True
        assert await cache.get("a") is None
        for late in (2, 3):
            assert await cache.set_if_newer("a", b"late", late, ttl=HOUR) is False
        assert await cache.get("a") is None
        assert await cache.set_if_newer("a", b"4", 4, ttl=HOUR) is True
        assert await cache.get("a") == b"4"

    async def test_the_deleted_version_itself_does_not_come_back(self, cache: Cache) -> None:
        await cache.set_if_newer("a", b"2", 2, ttl=HOUR)
        await cache.delete("a", 2)
        assert await cache.set_if_newer("a", b"2", 2, ttl=HOUR) is False
        assert await cache.get("a") is None

    async def test_a_tombstone_stands_where_nothing_was(self, cache: Cache) -> None:
        assert await cache.delete("a", 5) is True
        assert await cache.set_if_newer("a", b"5", 5, ttl=HOUR) is False
        assert await cache.delete("a", 5) is True, "idempotent"

    async def test_versions_and_tombstones_are_remembered_for_ten_seconds(self, cache: Cache) -> None:
        await cache.set_if_newer("expired", b"2", 2, ttl=timedelta(milliseconds=100))
        await self.until_gone(cache, "expired")
        await cache.delete("deleted", 2)  # nothing was there whose marker would outlive the tombstone
        await self.advance(cache, 9)
        late = {"expired": 1, "deleted": 2}
        forgotten = [key for key in late if await cache.set_if_newer(key, b"late", late[key], ttl=HOUR) is not False]
        assert forgotten == []

    async def test_of_concurrent_fills_the_newest_stands(self, cache: Cache) -> None:
        versions = list(range(1, 31))
        random.Random(1).shuffle(versions)  # noqa: S311 - an order, not a secret
        await asyncio.gather(*(cache.set_if_newer("a", str(v).encode(), v, ttl=HOUR) for v in versions))
        assert await cache.get("a") == b"30"

    async def test_close_is_idempotent(self, cache: Cache) -> None:
        await cache.close()
        await cache.close()
