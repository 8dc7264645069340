"""What can happen: every call a client or an operator can make, and one thing in the middle of another."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.model.history import Life, planned
from tests.model.processes import Fault, Operation, Parked, at_once
from tests.model.world import OWNERS, PUT_LASTS, STRANGER, TICK, Injected, Shape, World
from uploadcore import UploadCore
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import Part
from uploadcore.upload import Strategy
from uploadcore.views import SignedPart
from uploadcore_memory import checksum_of
from uploadcore_memory.signing import Grant

__all__ = ["Happenings"]


class Happenings(World):
    """A world, and one method for everything that can happen in it. What can't happen now does nothing."""

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
        elif what == "file":
            work = lambda core: core.files.get(row.file_id, owner=row.owner)  # noqa: E731
            answered = partial(self.answers.looked_at, life)
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
            lambda core: core.files.get(row.file_id, owner=None),
            lambda core: core.files.update(row.file_id, owner=STRANGER, title="mine"),
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
            partial(self.answers.completed, life, said),
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

    def edit(self, slot: int, which: int, title: str, fault: Injected) -> None:
        """Something else is said about a file."""
        if not self.reference.lives:
            return
        life = self.life(which)
        self.call(
            slot,
            "edit",
            lambda core: core.files.update(life.now.file_id, owner=life.now.owner, title=title),
            fault,
            partial(self.answers.edited, life, title),
        )

    def edit_and_look(self, slot: int, which: int, seconds: int, fault: Injected) -> None:
        """A file is changed in one process while another has a copy, which that looks at some time later."""
        self.read(1 - slot, which, "file", None)
        self.edit(slot, which, f"at {self.clock.now():%H:%M:%S}", fault)
        self.advance(seconds, jump=True)
        self.read(1 - slot, which, "file", None)
        self.read(1 - slot, which, "content", None)

    def fill_late(self, slot: int, which: int, seconds: int, fault: Injected) -> None:
        """What one process has read before another's change gets to the cache after it, which both look into later."""
        self.stop(slot, "flush")
        self.read(slot, which, "file", (1, Fault.PAUSE_AFTER))
        self.edit(1 - slot, which, f"at {self.clock.now():%H:%M:%S}", fault)
        self.advance(seconds, jump=True)
        self.go_on(0, None)
        self.read(1 - slot, which, "file", None)
        self.read(slot, which, "file", None)

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
        elif name == "edit":
            self.edit(slot, which, "raced", fault)
        elif name in {"sweep", "relay", "initiate_again"}:
            getattr(self, name)(slot, fault)
        elif name == "lose":
            self.lose(which)
        elif name == "sign":
            self.sign(slot, which, [1], fault)
        elif name == "look":
            self.read(slot, which, "file", fault)
        else:
            self.put(which, which, steady=False, late=False)
