"""A core on the memory adapters, whose store and database fail, hang and count as a test tells them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from uploadcore import Admission, Checksum, Completion, SignedPart, StaticPolicy, UploadConfig, UploadCore, UploadView
from uploadcore.address import Address
from uploadcore.file import File
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import (
    Cache,
    EventPublisher,
    ObjectHeaders,
    OpenMultipart,
    SignedRequest,
    StoreCapabilities,
    StoredObject,
    Transaction,
)
from uploadcore.upload import Upload
from uploadcore_memory import (
    MEMORY_CAPABILITIES,
    ManualClock,
    MemoryCache,
    MemoryDatabase,
    MemoryObjectStore,
    SequentialIds,
)

T = TypeVar("T")

OWNER = "u_1"
PART = 10
BODY = b"0123456789abcdefghijABCDE"
"""Three parts of 10, 10 and 5 bytes."""


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until it holds."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


@dataclass
class Fault:
    """What happens to one call: it waits at the gate, fails without effect, or has its effect and loses its answer."""

    before: Exception | None = None
    after: Exception | None = None
    gate: asyncio.Event | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self) -> None:
        """Open the gate."""
        assert self.gate is not None
        self.gate.set()


class Faults:
    """Faults to come, by the name of the call; each is for one call, in order. Counts the calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._coming: dict[str, list[Fault]] = defaultdict(list)

    def fail(self, name: str, error: Exception, *, times: int = 1, after_effect: bool = False) -> None:
        """The next calls raise this: instead of their effect, or after it."""
        for _ in range(times):
            self._coming[name].append(Fault(after=error) if after_effect else Fault(before=error))

    def hold(self, name: str, *, error: Exception | None = None) -> Fault:
        """The next call waits before its effect until it is let go; then it may fail."""
        self._coming[name].append(Fault(gate=asyncio.Event(), before=error))
        return self._coming[name][-1]

    def pass_by(self, name: str, times: int = 1) -> None:
        """The next calls go well; what is told after this is for later ones."""
        self._coming[name].extend(Fault() for _ in range(times))

    def heal(self) -> None:
        """Nothing fails any more."""
        self._coming.clear()

    @asynccontextmanager
    async def around(self, name: str) -> AsyncIterator[None]:
        """One call."""
        self.calls[name] += 1
        coming = self._coming[name]
        fault = coming.pop(0) if coming else Fault()
        fault.reached.set()
        if fault.gate is not None:
            await fault.gate.wait()
        if fault.before is not None:
            raise fault.before
        yield
        if fault.after is not None:
            raise fault.after


class FaultyStore(MemoryObjectStore):
    """The store in memory, with faults."""

    def __init__(self, *, clock: ManualClock, capabilities: StoreCapabilities = MEMORY_CAPABILITIES) -> None:
        super().__init__(clock=clock, capabilities=capabilities)
        self.faults = Faults()

    @property
    def calls(self) -> Counter[str]:
        return self.faults.calls

    async def create_multipart(self, address: Address, headers: ObjectHeaders) -> str:
        async with self.faults.around("create_multipart"):
            return await super().create_multipart(address, headers)

    async def list_parts(self, address: Address) -> list[StoredPart]:
        async with self.faults.around("list_parts"):
            return await super().list_parts(address)

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        async with self.faults.around("complete_multipart"):
            await super().complete_multipart(address, parts, size=size, checksum=checksum)

    async def abort_multipart(self, address: Address) -> None:
        async with self.faults.around("abort_multipart"):
            await super().abort_multipart(address)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        async with self.faults.around("list_multiparts"):
            async for found in super().list_multiparts(prefix):
                yield found

    async def head(self, address: Address) -> StoredObject | None:
        async with self.faults.around("head"):
            return await super().head(address)

    async def delete(self, address: Address) -> None:
        async with self.faults.around("delete"):
            await super().delete(address)

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        async with self.faults.around("presign"):
            return await super().presign_parts(address, parts, checksums=checksums, expires_in=expires_in)


class FaultyDatabase:
    """The database in memory, with faults: `transaction` fails before or after its commit, `reader` on entering, `read` on leaving a
    reader, when what was read is on its way."""

    def __init__(self, *, clock: ManualClock) -> None:
        self.inner = MemoryDatabase(clock=clock, installation_id="here")
        self.faults = Faults()

    @property
    def calls(self) -> Counter[str]:
        return self.faults.calls

    async def open(self) -> None:
        self.calls["open"] += 1

    async def close(self) -> None:
        self.calls["close"] += 1

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        async with self.faults.around("transaction"), self.inner.transaction() as tx:
            yield tx

    @asynccontextmanager
    async def reader(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        async with self.faults.around("reader"), self.inner.reader() as tx:
            yield tx
        async with self.faults.around("read"):
            pass

    async def installation_id(self) -> str:
        return await self.inner.installation_id()

    async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
        await self.inner.events_written(timeout)


class FaultyCache(MemoryCache):
    """The cache in memory, with calls that wait, and that may not be answered: `is_deaf`, nothing is; `loses_answers`, it is done."""

    def __init__(self, *, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.faults = Faults()
        self.is_deaf = False
        self.loses_answers = False
        self.lives: list[timedelta] = []

    @property
    def calls(self) -> Counter[str]:
        return self.faults.calls

    async def get(self, key: str) -> bytes | None:
        async with self.faults.around("get"):
            return None if self.is_deaf else await super().get(key)

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        self.lives.append(ttl)
        async with self.faults.around("set_if_newer"):
            answer = None if self.is_deaf else await super().set_if_newer(key, value, version, ttl=ttl)
            return None if self.loses_answers else answer

    async def delete(self, key: str, version: int) -> bool | None:
        async with self.faults.around("delete"):
            answer = None if self.is_deaf else await super().delete(key, version)
            return None if self.loses_answers else answer


class Rig:
    """A core, and everything around it."""

    def __init__(
        self,
        *,
        capabilities: StoreCapabilities = MEMORY_CAPABILITIES,
        config: UploadConfig | None = None,
        limits: Admission | None = None,
        cache: Cache | None = None,
        publisher: EventPublisher | None = None,
        publishers: Mapping[str, EventPublisher] | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = FaultyStore(clock=self.clock, capabilities=capabilities)
        self.database = FaultyDatabase(clock=self.clock)
        self.ids = SequentialIds()
        self.policy = StaticPolicy(limits or Admission())
        self.config = config or UploadConfig()
        self.cache = cache
        self.publishers = publishers or ({} if publisher is None else {"here": publisher})
        self.core = self.another_core()

    def another_core(self, *, clock: ManualClock | None = None) -> UploadCore:
        """Another instance on the same store and database, with its own clock if need be."""
        return UploadCore(
            store=self.store,
            database=self.database,
            cache=self.cache,
            publishers=self.publishers,
            policy=self.policy,
            config=self.config,
            clock=clock or self.clock,
            ids=self.ids,
        )

    # --- what there is --------------------------------------------------------------------------------------------

    def upload(self, upload_id: str) -> Upload:
        return self.database.inner.uploads[upload_id]

    def file(self, file_id: str) -> File:
        return self.database.inner.files[file_id]

    def only(self) -> Upload:
        """The only upload."""
        (upload,) = self.database.inner.uploads.values()
        return upload

    @property
    def events(self) -> list[str]:
        return [str(event.type) for event in self.database.inner.events]

    @property
    def bodies(self) -> list[bytes]:
        """The bytes of every object but the installation's marker."""
        return [body for key, body in self.store.objects.items() if not key.endswith(".installation")]

    # --- what a client does ---------------------------------------------------------------------------------------

    async def begin(self, size: int | None = len(BODY), part_size: int | None = PART, **asked: Any) -> UploadView:
        return await self.core.uploads.initiate(owner=OWNER, filename="a.txt", size=size, part_size=part_size, **asked)

    async def send(self, upload_id: str, *numbers: int, body: bytes = BODY) -> None:
        """Upload these parts of `body`; all, if none is named."""
        size = self.upload(upload_id).plan.part_size
        numbers = numbers or tuple(range(1, max(1, -(-len(body) // size)) + 1))
        for signed in await self.core.uploads.sign_parts(upload_id, owner=OWNER, part_numbers=numbers):
            await self.redeem(signed, body[signed.offset : signed.offset + size])

    async def redeem(self, signed: SignedPart, body: bytes) -> None:
        response = await self.store.put(signed.request, body)
        assert response.status == 200, response

    async def sent(self, body: bytes = BODY, **asked: Any) -> UploadView:
        """An upload all of whose parts are there."""
        upload = await self.begin(len(body), **asked)
        await self.send(upload.id, body=body)
        return upload

    async def completed(self, body: bytes = BODY, **asked: Any) -> Completion:
        upload = await self.sent(body, **asked)
        return await self.complete(upload.id)

    async def complete(self, upload_id: str, **said: Any) -> Completion:
        return await self.core.uploads.complete(upload_id, owner=OWNER, **said)

    async def abort(self, upload_id: str) -> UploadView:
        return await self.core.uploads.abort(upload_id, owner=OWNER)

    # --- time -----------------------------------------------------------------------------------------------------

    def after(self, **passed: float) -> None:
        self.clock.advance(timedelta(**passed))

    async def within(self, work: Coroutine[Any, Any, T], *, step: float = 1.0) -> T:
        """Run to the end while the clock goes on, one step whenever somebody sleeps."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.sleep(0)
            if self.clock.sleepers and not task.done():
                for _ in range(50):
                    await asyncio.sleep(0)
                if not task.done():
                    self.clock.advance(step)
        return await task


async def gathered(*work: Awaitable[T]) -> list[T | BaseException]:
    """The results, errors included."""
    return await asyncio.gather(*work, return_exceptions=True)
