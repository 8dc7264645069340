"""Bugs put in on purpose, to see the model find them. Each is a port, or a figure, that lets one promise go."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

from tests.model.faulty_ports import FaultyDatabase, WatchedCache
from tests.model.machine import UploadCoreMachine
from tests.model.world import CONFIG
from uploadcore.config import UploadConfig
from uploadcore.events import Event
from uploadcore.ports import Transaction
from uploadcore.upload import Timer, Transition, Upload

__all__ = ["EventWrittenAfterwards", "FenceDropped", "LateFillAccepted", "NoRecheck", "OrphansOfAnyAge"]


class _Bent:
    """Everything as in `inner`, but for the attributes given."""

    def __init__(self, inner: object, **bent: object) -> None:
        self._inner = inner
        self.__dict__.update(bent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _NoFence(FaultyDatabase):
    """Saves a fence whatever version stands, and whoever holds the lease."""

    def transaction_of(self, tx: Transaction) -> Transaction:
        async def save(transition: Transition) -> Upload:
            if transition.timers.get(Timer.FENCED) is not None:
                standing = await tx.uploads.get(transition.upload.id)
                assert standing is not None, "it was read before"
                whatever = replace(transition.upload, version=standing.version, lease_owner=standing.lease_owner)
                transition = replace(transition, upload=whatever)
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


class _NoRecheck(FaultyDatabase):
    """Closes an upload, and forgets that somebody is to look again."""

    def transaction_of(self, tx: Transaction) -> Transaction:
        async def save(transition: Transition) -> Upload:
            timers = dict(transition.timers)
            timers.pop(Timer.RECHECK, None)
            return await tx.uploads.save(replace(transition, timers=timers))

        bent: Transaction = _Bent(tx, uploads=_Bent(tx.uploads, save=save))
        return bent


class _TakesAnything(WatchedCache):
    """Knows no versions: the last one to store something is believed."""

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        self._entries.pop(key, None)
        return await super().set_if_newer(key, value, version, ttl=ttl)


class _AnyAge(UploadConfig):
    """What no row knows is an orphan, however young."""

    @property
    def orphan_age(self) -> timedelta:
        return timedelta(0)


class FenceDropped(UploadCoreMachine):
    """Two may go on to complete, or one may after the upload has ended."""

    database_type = _NoFence


class EventWrittenAfterwards(UploadCoreMachine):
    """A crash in between leaves a change nobody is told of."""

    database_type = _EventsAfterwards


class OrphansOfAnyAge(UploadCoreMachine):
    """What somebody has just begun, and is about to write down, is aborted."""

    config = _AnyAge(**{field.name: getattr(CONFIG, field.name) for field in fields(CONFIG)})


class LateFillAccepted(UploadCoreMachine):
    """What was read before a change is put into the cache after it."""

    cache_type = _TakesAnything


class NoRecheck(UploadCoreMachine):
    """What arrives after an abort, by a URL that was still good, stays for ever."""

    database_type = _NoRecheck
