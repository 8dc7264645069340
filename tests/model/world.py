"""The world of the model: two processes over one store and one database, clients, time, and everything that goes wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.model.answers import Answers
from tests.model.faults import (
    STATISTICS,
    Fault,
    FaultyDatabase,
    FaultyPublisher,
    FaultyStore,
    Operation,
    Parked,
    Process,
    SteppedLoop,
    WatchedCache,
    at_once,
    task_factory,
)
from tests.model.reference import INSTALLATION_MARKER, Life, Reference, planned
from uploadcore import UploadCore
from uploadcore.admission import StaticPolicy
from uploadcore.config import UploadConfig
from uploadcore.errors import UploadCoreError
from uploadcore.file import ChecksumAlgorithm, FileStatus
from uploadcore.plan import Part
from uploadcore.ports import Admission, StoreCapabilities
from uploadcore.states import UploadState
from uploadcore.upload import Strategy
from uploadcore.views import SignedPart
from uploadcore_memory import (
    MEMORY_CAPABILITIES,
    ManualClock,
    MemoryDatabase,
    MemoryEventPublisher,
    MemoryObjectStore,
    SequentialIds,
    checksum_of,
)
from uploadcore_memory.signing import Grant

__all__ = ["CAPABILITIES", "OWNERS", "SHAPES", "Injected", "Shape", "World"]


@dataclass(frozen=True)
class Shape:
    """What is initiated: bytes (`None`: not known), bytes per part, and whether the checksum of `steady` bodies is declared."""

    size: int | None
    part_size: int | None = None
    checksum: bool = False


SHAPES = [
    Shape(10, part_size=4),
    Shape(10, part_size=4),
    Shape(10, part_size=4, checksum=True),
    Shape(0),
    Shape(5),
    Shape(5, checksum=True),
    Shape(20),
    Shape(None, part_size=4),
]
"""Three parts; none; a single PUT; one part of a multipart upload, because above `single_put_limit`; size not known."""
CAPABILITIES = [
    MEMORY_CAPABILITIES,
    MEMORY_CAPABILITIES,
    replace(MEMORY_CAPABILITIES, repeatable_complete=False, concurrent_complete=False),
    replace(MEMORY_CAPABILITIES, conditional_put=False, object_checksums=frozenset(), list_by_prefix=False),
]
CONFIG = UploadConfig(single_put_limit=8)
LIMITS = Admission(max_unknown_size=12, max_open_uploads=4, max_bytes_in_flight=60)
OWNERS = ["ann", "bob"]
STRANGER = "mallory"
PUT_LASTS = timedelta(minutes=59)
"""How long after its URL has expired a PUT begun in time may still arrive: nearly as long as the core waits for it, because the URL may
have been signed by a copy that was some seconds old."""
TICK = 5.0
REST = (0, 31, 601, 31, 86_401, 31, 31, 4_560, 87_301, 31, 4_560)
"""Seconds after each of which a sweep finds what is due: leases, the second completion, deadlines, rechecks, orphans."""

Injected = tuple[int, Fault] | None


class World:
    """Everything there is, and one method for everything that can happen. What can't happen now does nothing.

    Attributes:
        reference: Sees everything, and says what was against the rules.
    """

    def __init__(
        self, capabilities: StoreCapabilities, cache: str, *, database_type: type[FaultyDatabase] = FaultyDatabase
    ) -> None:
        self.clock = ManualClock()
        self.loop = SteppedLoop(self.clock)
        self.loop.set_task_factory(task_factory)
        self.reference = Reference(self.clock, CONFIG)
        self.answers = Answers(self.reference, self.clock, CONFIG)
        self.store = MemoryObjectStore(capabilities=capabilities, clock=self.clock)
        self.database = MemoryDatabase(clock=self.clock, installation_id="installation")
        self.publisher = MemoryEventPublisher()
        self.ids = SequentialIds()
        self.parked: list[tuple[Parked, datetime | None]] = []
        self.late: list[Parked] = []
        self.running: list[tuple[Operation, Callable[[Operation], None]]] = []
        self.urls: dict[str, list[SignedPart]] = {}
        self.bodies = 0
        self._last_initiated: tuple[str, Shape, str | None, int | None] | None = None
        self._database_type = database_type
        shared = WatchedCache(self.clock, self.reference, deaf=cache == "deaf")
        each = [WatchedCache(self.clock, self.reference, deaf=False) for _ in range(2)]
        self._caches = each if cache == "one each" else [shared, shared]
        self._is_cached = cache != "none"
        self.processes = [self._process(0), self._process(1)]
        self.cores = [self._core(0), self._core(1)]

    def _process(self, slot: int) -> Process:
        return Process(f"process {slot}", self.loop)

    def _core(self, slot: int) -> UploadCore:
        process = self.processes[slot]
        core = UploadCore(
            store=FaultyStore(self.store, process, self.reference, self.late),
            database=self._database_type(self.database, process, self.reference),
            cache=self._caches[slot] if self._is_cached else None,
            publisher=FaultyPublisher(self.publisher, process, self.late),
            policy=StaticPolicy(LIMITS),
            config=CONFIG,
            clock=self.clock,
            ids=self.ids,
        )
        core._relay._random = random.Random(0)  # the same run, the same jitter
        return at_once(core.__aenter__())

    # --- running --------------------------------------------------------------------------------------------------

    def call(
        self,
        slot: int,
        kind: str,
        work: Callable[[UploadCore], Coroutine[Any, Any, Any]],
        fault: Injected,
        answered: Callable[[Operation], None],
    ) -> Operation:
        """Start one operation and let everybody run until nobody can go on."""
        if not self.processes[slot].is_alive:
            self.processes[slot] = self._process(slot)
            self.cores[slot] = self._core(slot)
        operation = Operation(self.processes[slot], kind, self.reference.position, self.clock.now())
        if fault is not None:
            operation.fault_at, operation.fault = fault
        self.running.append((operation, answered))
        self.processes[slot].start(operation, work(self.cores[slot]))
        self.run()
        return operation

    def run(self) -> None:
        """Let everybody run until nobody can go on, and look at the answers that came."""
        self.loop.run_forever()
        self.parked += [(parked, None) for parked in self.late]
        self.late.clear()
        for operation, answered in [*self.running]:
            if operation.main is None or not operation.main.done():
                continue
            self.running.remove((operation, answered))
            if operation.process.is_alive:
                answered(operation)

    @property
    def held_back(self) -> list[Operation]:
        """Operations with a call that is being held back."""
        alive = [process for process in self.processes if process.is_alive]
        return [operation for process in alive for operation in process.operations if operation.is_paused]

    def life(self, which: int) -> Life:
        """One of the uploads there are, the newest first."""
        lives = [*self.reference.lives.values()]
        return lives[-1 - which % len(lives)]

    # --- what clients do ------------------------------------------------------------------------------------------

    def initiate(
        self,
        slot: int,
        *,
        owner: str,
        shape: Shape,
        key: str | None = None,
        new_version_of: int | None = None,
        sign: int = 0,
        fault: Injected = None,
    ) -> None:
        self._last_initiated = (owner, shape, key, new_version_of)
        files = [*self.reference.files.values()]
        file = None if new_version_of is None or not files else files[-1 - new_version_of % len(files)]
        algorithms = self.store.capabilities.object_checksums
        checksum = None
        if shape.checksum and shape.size is not None and algorithms:
            checksum = checksum_of(b"A" * shape.size, ChecksumAlgorithm.CRC64NVME)
        self.call(
            slot,
            "initiate" if file is None or file.owner == owner else "foreign initiate",
            lambda core: core.uploads.initiate(
                owner=owner,
                filename="name",
                size=shape.size,
                part_size=shape.part_size,
                file_id=None if file is None else file.id,
                checksum=checksum,
                sign=sign,
                idempotency_key=key,
            ),
            fault,
            lambda operation: self._keep(self.answers.initiated(operation, owner, shape.size, key)),
        )

    def initiate_again(self, slot: int, fault: Injected) -> None:
        """The same request once more, as a client does that got no answer."""
        if self._last_initiated is not None:
            owner, shape, key, new_version_of = self._last_initiated
            self.initiate(slot, owner=owner, shape=shape, key=key, new_version_of=new_version_of, fault=fault)

    def _keep(self, signed: tuple[str, tuple[SignedPart, ...]] | None) -> None:
        """A client keeps the URLs it was given."""
        if signed is not None:
            self.urls.setdefault(signed[0], []).extend(signed[1])

    def send_whole(self, slot: int, which: int, steady: bool, count: int) -> None:
        """A client that does what it should. `count` parts of an upload of unknown size."""
        if not self.reference.lives:
            return
        life = self.life(which)
        numbers = range(1, count + 1) if life.first.plan.size is None else [*planned(life.first)]
        before = len(self.urls.get(life.now.id, []))
        self._sign(slot, life, [*numbers], None)
        for part in self.urls.get(life.now.id, [])[before:]:
            self._put(life.now.id, part, steady=steady)

    def put(self, which: int, number: int, steady: bool, late: bool) -> None:
        """A client uses a URL it has, perhaps again, perhaps slowly."""
        if not any(self.urls.values()):
            return
        ids = [upload_id for upload_id, urls in self.urls.items() if urls]
        upload_id = ids[-1 - which % len(ids)]
        urls = self.urls[upload_id]
        self._put(upload_id, urls[-1 - number % len(urls)], steady=steady, late=late)

    def _put(self, upload_id: str, part: SignedPart, *, steady: bool, late: bool = False) -> None:
        body = self._body(4 if part.length is None else part.length, steady=steady)
        query = parse_qs(urlsplit(part.request.url).query)
        granted = self.store._signer.redeem("PUT", part.request.url, part.request.headers, now=self.clock.now())

        def land() -> None:
            if isinstance(granted, Grant) and self.store._accept(granted, body).status == 200:
                self._stored(upload_id, query, body)

        if late:
            self.parked.append((Parked("put", land), part.request.expires_at + PUT_LASTS))
        else:
            land()

    def _stored(self, upload_id: str, query: dict[str, list[str]], body: bytes) -> None:
        if "partNumber" in query:
            self.reference.stored_part(query["uploadId"][0], int(query["partNumber"][0]), body)
        else:
            self.reference.stored_object(self.reference.lives[upload_id].now.address.key, body)

    def _body(self, length: int, *, steady: bool) -> bytes:
        self.bodies += 1
        return b"A" * length if steady else bytes((self.bodies + index) % 251 for index in range(length))

    def send_wrong(self, which: int, number: int, length: int) -> None:
        """A part of a wrong size or beyond the plan, at a store that does not bind the length."""
        if not self.reference.lives:
            return
        life = self.life(which)
        if life.now.strategy is Strategy.MULTIPART and life.now.address.storage_upload_id in self.reference.parts:
            signing = self.store.presign_parts(
                life.now.address, [Part(number, 0, None)], checksums={}, expires_in=timedelta(seconds=1)
            )
            self._put(life.now.id, SignedPart(number, 0, length, at_once(signing)[0]), steady=False)

    def sign(self, slot: int, which: int, numbers: list[int], fault: Injected) -> None:
        if not self.reference.lives:
            return
        self._sign(slot, self.life(which), numbers, fault)

    def _sign(self, slot: int, life: Life, numbers: list[int], fault: Injected) -> None:
        self.call(
            slot,
            "sign",
            lambda core: core.uploads.sign_parts(life.now.id, owner=life.now.owner, part_numbers=numbers),
            fault,
            lambda operation: self._keep(self.answers.signed(operation, life, numbers)),
        )

    def read(self, slot: int, which: int, what: str, fault: Injected) -> None:
        if not self.reference.lives:
            return
        life = self.life(which)
        row = life.now
        work: Callable[[UploadCore], Coroutine[Any, Any, Any]]
        answered: Callable[[Operation], None]
        if what == "get":
            work, answered = lambda core: core.uploads.get(row.id, owner=row.owner), partial(self.answers.got, life)
        elif what == "parts":
            work = lambda core: core.uploads.list_parts(row.id, owner=row.owner)  # noqa: E731
            answered = partial(self.answers.listed, life)
        else:
            work = lambda core: core.files.content(row.file_id, owner=row.owner)  # noqa: E731
            answered = partial(self.answers.downloaded, self.store, life)
        self.call(slot, what, work, fault, answered)

    def pry(self, slot: int, which: int, what: int) -> None:
        """Somebody else's upload does not exist, and asking for it costs no call to the store."""
        if not self.reference.lives:
            return
        row = self.life(which).now
        calls: list[Callable[[UploadCore], Coroutine[Any, Any, Any]]] = [
            lambda core: core.uploads.get(row.id, owner=STRANGER),
            lambda core: core.uploads.list_parts(row.id, owner=STRANGER),
            lambda core: core.uploads.sign_parts(row.id, owner=STRANGER, part_numbers=[1]),
            lambda core: core.uploads.complete(row.id, owner=STRANGER),
            lambda core: core.uploads.abort(row.id, owner=STRANGER),
            lambda core: core.files.delete(row.file_id, owner=STRANGER),
            lambda core: core.files.content(row.file_id, owner=STRANGER),
        ]
        self.call(slot, "foreign call", calls[what], None, self.answers.not_found)

    def complete(self, slot: int, which: int, size: int | None, fault: Injected) -> None:
        """`size` is said of an upload of unknown size."""
        if not self.reference.lives:
            return
        life = self.life(which)
        said = size if life.first.plan.size is None else life.first.plan.size
        self.call(
            slot,
            "complete",
            lambda core: core.uploads.complete(life.now.id, owner=life.now.owner, size=said),
            fault,
            partial(self.answers.completed, life),
        )

    def abort(self, slot: int, which: int, fault: Injected) -> None:
        if not self.reference.lives:
            return
        life = self.life(which)
        self.call(
            slot,
            "abort",
            lambda core: core.uploads.abort(life.now.id, owner=life.now.owner),
            fault,
            partial(self.answers.aborted, life),
        )

    def delete_file(self, slot: int, which: int, fault: Injected) -> None:
        if not self.reference.lives:
            return
        life = self.life(which)
        self.call(
            slot,
            "delete",
            lambda core: core.files.delete(life.now.file_id, owner=life.now.owner),
            fault,
            partial(self.answers.deleted, life),
        )

    # --- the background -------------------------------------------------------------------------------------------

    def sweep(self, slot: int, fault: Injected) -> None:
        self.call(slot, "sweep", lambda core: core.sweep(), fault, self.answers.swept)

    def relay(self, slot: int, fault: Injected) -> None:
        self._relay(slot, fault)

    def _relay(self, slot: int, fault: Injected) -> bool:
        """Whether anything was delivered."""
        before = len(self.publisher.events)
        self.call(slot, "relay", lambda core: core.relay(), fault, self.answers.relayed)
        return len(self.publisher.events) > before

    # --- one thing in the middle of another -----------------------------------------------------------------------

    def race(
        self,
        *,
        shape: Shape | None,
        which: int,
        first: str,
        held_back: Injected,
        seconds: int,
        second: str,
        fault: Injected,
        third: str | None,
        then: Injected,
    ) -> None:
        """One operation up to some call, another to its end, then the first goes on; on a new upload that is whole, if `shape`.

        The third, some time after the second, is in the process of the first.
        """
        if shape is not None:
            self.initiate(1, owner=OWNERS[0], shape=shape)
            self.send_whole(1, 0, True, 2)
        self._run_named(0, first, which, held_back)
        self.advance(seconds)
        self._run_named(1, second, which, fault)
        if third is not None:
            self.advance(2 * TICK)
            self._run_named(0, third, which, None)
        self.go_on(0, then)

    def _run_named(self, slot: int, name: str, which: int, fault: Injected) -> None:
        if name == "complete":
            self.complete(slot, which, None, fault)
        elif name == "abort":
            self.abort(slot, which, fault)
        elif name == "delete_file":
            self.delete_file(slot, which, fault)
        elif name in {"sweep", "relay", "initiate_again"}:
            getattr(self, name)(slot, fault)
        elif name == "lose":
            self.lose(which)
        elif name == "sign":
            self.sign(slot, which, [1], fault)
        else:
            self.put(which, which, steady=False, late=False)

    def go_on(self, which: int, fault: Injected) -> None:
        """Whatever stood still moves again, perhaps to stop at a later call."""
        held_back = self.held_back
        if held_back:
            operation = held_back[which % len(held_back)]
            operation.fault = None if fault is None else fault[1]
            operation.fault_at = len(operation.calls) + (1 if fault is None else fault[0])
            operation.resume()
        for process in self.processes:
            process.thaw()
        self.run()

    # --- time, and what goes wrong --------------------------------------------------------------------------------

    def time_passes(self, seconds: int, jump: bool) -> None:
        self.advance(seconds, jump=jump)

    def advance(self, seconds: float, *, jump: bool = False) -> None:
        """Let time pass: at once, or so that everybody keeps their timers."""
        left = seconds
        while left > 0:
            step = left if jump or left > 20 * TICK else min(left, TICK)
            self.clock.advance(step)
            self.run()
            left -= step

    def land_late(self, which: int) -> None:
        """An effect nobody waits for any more takes place."""
        if not self.parked:
            return
        self._land(which % len(self.parked))

    def _land(self, index: int) -> None:
        parked, until = self.parked.pop(index)
        if until is None or self.clock.now() < until:
            STATISTICS["late effects"] += 1
            with suppress(UploadCoreError):  # nobody hears the store's answer
                parked.land()

    def lose(self, which: int) -> None:
        """The store's own housekeeping drops a multipart upload."""
        if not self.reference.lives:
            return
        life = self.life(which)
        if life.now.address.storage_upload_id in self.reference.parts:
            self.store.lose(life.now.address)
            self.reference.lost(life)

    def stop(self, slot: int, how: str) -> None:
        """A process is killed, or ends in order; or the caches lose everything."""
        process = self.processes[slot]
        if how == "flush":
            for cache in self._caches:
                cache.flush()
            return
        if how == "close" and process.is_alive and not process.is_frozen:
            self.call(slot, "close", lambda core: core.__aexit__(None, None, None), None, self.answers.closed)
        process.die()
        self.run()

    # --- what must be true ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what is against the rules.

        Raises:
            AssertionError: Naming the rules.
        """
        self.reference.check_contents()
        self.reference.check_deliveries(self.publisher.events)
        # The reference's own record of what the store holds must be right, or nothing it says counts.
        objects = {key: body for key, body in self.store.objects.items() if not key.endswith(INSTALLATION_MARKER)}
        assert objects == self.reference.objects
        assert self.store.multiparts.keys() == self.reference.parts.keys()
        self._raise()

    def _raise(self) -> None:
        for error in self.loop.errors:
            raise error
        if self.reference.violations:
            raise AssertionError("; ".join(self.reference.violations))

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes:
            process.die()
        self.loop.run_forever()
        self.loop.close()

    def settle(self) -> None:
        """Let everything come to rest; then nothing may be left over."""
        for process in self.processes:
            for operation in process.operations:
                operation.fault = None
            process.thaw()
        self.run()
        while self.parked or self.held_back:
            while self.parked:
                self._land(0)
            for operation in self.held_back:
                operation.resume()
            self.run()
        self.advance(60)
        if self.running:
            self.reference.broken(7, f"never answered: {[operation.kind for operation, _ in self.running]}")
        for pause in REST:
            self.advance(pause, jump=True)
            self.call(0, "sweep", lambda core: core.sweep(), None, self.answers.swept)
            while self._relay(1, None):
                pass

    def check_rest(self) -> None:
        """Conservation (rule 9), no unknown upload (2), everything announced (8), nothing left to do."""
        reference = self.reference
        self.check()
        states = Counter(life.now.state for life in reference.lives.values() if not life.now.is_terminal)
        if states:
            reference.broken(6, f"not closed at rest: {states}")
        live = {
            reference.lives[file.upload_id].now.address.key
            for file in reference.files.values()
            if file.status is FileStatus.AVAILABLE
        }
        if reference.objects.keys() != live:
            lost, left = live - reference.objects.keys(), reference.objects.keys() - live
            reference.broken(9, f"at rest {len(lost)} files have no object, and {len(left)} objects no file")
        if reference.parts:
            reference.broken(2, f"at rest the store holds {len(reference.parts)} multipart uploads")
        statuses = {file.status for file in reference.files.values()}
        if statuses - {FileStatus.AVAILABLE, FileStatus.FAILED, FileStatus.DELETED}:
            reference.broken(9, f"at rest files are {statuses}")
        delivered = {event.id for event in self.publisher.events}
        undelivered = [event.id for event in reference.events if event.id not in delivered]
        if undelivered:
            reference.broken(8, f"never delivered: {undelivered}")
        completed = [life for life in reference.lives.values() if life.now.state is UploadState.COMPLETED]
        announced = Counter(event.upload_id for event in reference.events if event.type == "upload.completed")
        if announced != Counter(life.now.id for life in completed):
            reference.broken(9, "not one completed event per completed upload")
        removed = Counter(event.file_id for event in reference.events if event.type == "file.deleted")
        if removed != Counter(file.id for file in reference.files.values() if file.status is FileStatus.DELETED):
            reference.broken(9, "not one deleted event per deleted file")

        async def due() -> int:
            async with self.database.reader() as tx:
                return len(await tx.uploads.due(10)) + len(await tx.files.due(10))

        if at_once(due()):
            reference.broken(9, "at rest something is still due")
        self._raise()
