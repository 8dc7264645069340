"""Bugs put in on purpose, to see the model find them. Each is a database that lets one promise of its port go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.model.faulty_ports import FaultyDatabase
from tests.model.machine import UploadCoreMachine
from uploadcore.events import Event
from uploadcore.ports import Transaction
from uploadcore.upload import Timer, Transition, Upload

__all__ = ["EventWrittenAfterwards", "FenceDropped"]


class _Bent:
    """Everything as in `inner`, but for the attributes given."""

    def __init__(self, inner: object, **bent: object) -> None:
        self._inner = inner
        self.__dict__.update(bent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _NoFence(FaultyDatabase):
    """Saves a fence whatever version stands."""

    def transaction_of(self, tx: Transaction) -> Transaction:
        async def save(transition: Transition) -> Upload:
            if transition.timers.get(Timer.FENCED) is not None:
                standing = await tx.uploads.get(transition.upload.id)
                assert standing is not None, "it was read before"
                transition = replace(transition, upload=replace(transition.upload, version=standing.version))
            return await tx.uploads.save(transition)

        bent: Transaction = _Bent(tx, uploads=_Bent(tx.uploads, save=save))
        return bent


class _EventsAfterwards(FaultyDatabase):
    """Writes the events of a change in a transaction of their own, once the change is committed."""

    def transaction_of(self, tx: Transaction) -> Transaction:
        held_back: list[Event] = []

        async def save(transition: Transition) -> Upload:
            held_back.extend(transition.events)
            return await tx.uploads.save(replace(transition, events=()))

        bent: Transaction = _Bent(tx, uploads=_Bent(tx.uploads, save=save), held_back=held_back)
        return bent

    async def after_commit(self, tx: Transaction) -> None:
        if isinstance(tx, _Bent) and tx.held_back:
            events = [*tx.held_back]
            tx.held_back.clear()
            async with self.transaction() as afterwards:
                for event in events:
                    await afterwards.outbox.add(event)


class FenceDropped(UploadCoreMachine):
    """Two may go on to complete, or one may after the upload has ended."""

    database_type = _NoFence


class EventWrittenAfterwards(UploadCoreMachine):
    """A crash in between leaves a change nobody is told of."""

    database_type = _EventsAfterwards
