"""The world of the model: two processes over one store and one database, clients, time, and everything that goes wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tests.model.answers import Answers
from tests.model.faulty_ports import FaultyDatabase, FaultyPublisher, FaultyStore, WatchedCache
from tests.model.history import Life
from tests.model.processes import STATISTICS, Fault, Operation, Parked, Process, SteppedLoop, at_once, task_factory
from tests.model.reference import INSTALLATION_MARKER, Reference
from uploadcore import UploadCore
from uploadcore.admission import StaticPolicy
from uploadcore.config import UploadConfig
from uploadcore.errors import UploadCoreError
from uploadcore.file import FileStatus
from uploadcore.ports import Admission, StoreCapabilities
from uploadcore.states import UploadState
from uploadcore.views import SignedPart
from uploadcore_memory import (
    MEMORY_CAPABILITIES,
    ManualClock,
    MemoryDatabase,
    MemoryEventPublisher,
    MemoryObjectStore,
    SequentialIds,
)

__all__ = ["CAPABILITIES", "CONFIG", "OWNERS", "PUT_LASTS", "SHAPES", "STRANGER", "TICK", "Injected", "Shape", "World"]


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
    replace(MEMORY_CAPABILITIES, late_parts_refused=False, forgets_completed=False, object_checksums=frozenset()),
    replace(MEMORY_CAPABILITIES, late_parts_refused=False),
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
    """Everything there is: how it runs, how it goes wrong, how it comes to rest.

    Attributes:
        reference: Sees everything, and says what was against the rules.
    """

    def __init__(
        self,
        capabilities: StoreCapabilities,
        cache: str,
        *,
        database_type: type[FaultyDatabase] = FaultyDatabase,
        cache_type: type[WatchedCache] = WatchedCache,
        config: UploadConfig = CONFIG,
    ) -> None:
        self.clock = ManualClock()
        self.loop = SteppedLoop(self.clock)
        self.loop.set_task_factory(task_factory)
        self.reference = Reference(self.clock, lists_completed=not capabilities.forgets_completed)
        self.answers = Answers(self.reference, self.clock, config)
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
        self._config = config
        shared = cache_type(self.clock, self.reference, deaf=cache == "deaf")
        each = [cache_type(self.clock, self.reference, deaf=False) for _ in range(2)]
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
            publishers={"receiver": FaultyPublisher(self.publisher, process, self.late)},
            policy=StaticPolicy(LIMITS),
            config=self._config,
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

    def replay(self, slot: int, fault: Injected) -> None:
        """An operator has mended the receiver."""
        self.call(slot, "replay", lambda core: core.events.replay(destination="receiver"), fault, self.answers.relayed)

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
            self.answers.flushed()
            return
        if how == "close" and process.is_alive and not process.is_frozen:
            self.call(slot, "close", lambda core: core.__aexit__(None, None, None), None, self.answers.closed)
        process.die()
        self.run()

    def _check_objects(self) -> None:
        """Each file has its object, as it was completed, and each object its file."""
        reference = self.reference
        live = {
            reference.lives[file.upload_id].now.address.key
            for file in reference.files.values()
            if file.status is FileStatus.AVAILABLE
        }
        # What was damaged stays for its owner to delete.
        damaged = {
            life.now.address.key
            for file in reference.files.values()
            if file.status is FileStatus.FAILED and (life := reference.lives[file.upload_id]).is_altered
            if life.now.state is UploadState.COMPLETED
        }
        live |= damaged & reference.objects.keys()
        for file in reference.files.values():
            life = reference.lives[file.upload_id]
            is_changed = reference.objects.get(life.now.address.key) != life.content
            if file.status is FileStatus.AVAILABLE and is_changed and self._is_told(life):
                reference.broken(10, f"at rest file {file.id} is not what was completed, and nobody has seen it")
        if reference.objects.keys() != live:
            lost, left = live - reference.objects.keys(), reference.objects.keys() - live
            reference.broken(9, f"at rest {len(lost)} files have no object, and {len(left)} objects no file")

    def _is_told(self, life: Life) -> bool:
        """Whether the store tells that a part was sent late: by a checksum, or by listing other parts than the fence saw."""
        expected = life.now.expected
        return bool(self.store.capabilities.object_checksums) or bool(expected and expected.parts_digest)

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
        self.replay(0, None)
        while self._relay(1, None):
            pass

    def check_rest(self) -> None:
        """Conservation (rule 9), no unknown upload (2), everything announced (8), nothing left to do."""
        reference = self.reference
        self.check()
        states = Counter(life.now.state for life in reference.lives.values() if not life.now.is_terminal)
        if states:
            reference.broken(6, f"not closed at rest: {states}")
        self._check_objects()
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
