"""Every port of uploadcore in memory, for tests of applications that embed it, and for trying it out.

They keep the ports' promises in full: transactions roll back, versions and conditions are checked, signed URLs are refused when they
expire or are tampered with. What they hold is gone with the process, and several processes share nothing.

>>> import asyncio
>>> from datetime import timedelta
>>> from uploadcore.plan import Part
>>> from uploadcore.ports import ObjectHeaders
>>> from uploadcore.upload import Address
>>> async def main() -> int:
...     store = MemoryObjectStore()
...     address = Address(store.bucket, "a/key")
...     headers = ObjectHeaders(content_type="text/plain")
...     url = await store.presign_put(address, Part(1, 0, 5), headers, checksum=None, expires_in=timedelta(minutes=1))
...     return (await store.put(url, b"hello")).status
>>> asyncio.run(main())
200
"""

from __future__ import annotations

from urllib.parse import urlsplit

from uploadcore.ports import AdapterContext
from uploadcore_memory.cache import MemoryCache
from uploadcore_memory.checksums import checksum_of
from uploadcore_memory.clock import ManualClock, SequentialIds
from uploadcore_memory.database import MemoryDatabase
from uploadcore_memory.publisher import MemoryEventPublisher
from uploadcore_memory.signing import StoreResponse
from uploadcore_memory.store import MEMORY_CAPABILITIES, MEMORY_LIMITS, MemoryObjectStore, RefusedError

__all__ = [
    "MEMORY_CAPABILITIES",
    "MEMORY_LIMITS",
    "ManualClock",
    "MemoryCache",
    "MemoryDatabase",
    "MemoryEventPublisher",
    "MemoryObjectStore",
    "RefusedError",
    "SequentialIds",
    "StoreResponse",
    "cache_from_url",
    "checksum_of",
    "database_from_url",
    "store_from_url",
]


def store_from_url(url: str, context: AdapterContext) -> MemoryObjectStore:
    """The store for `memory://` or `memory://bucket`. Its signed URLs can be redeemed in this process only."""
    del context
    return MemoryObjectStore(urlsplit(url).hostname or "memory")


def database_from_url(url: str, context: AdapterContext) -> MemoryDatabase:
    """The database for `memory://`. Each call makes an empty one."""
    del url, context
    return MemoryDatabase()


def cache_from_url(url: str, context: AdapterContext) -> MemoryCache:
    """The cache for `memory://`: the embedded default, for one process."""
    del url, context
    return MemoryCache()
