"""What the core needs from the outside, as Protocols. Adapters implement them; `uploadcore.testing` holds their contract suites.

Rules for all of them: everything is async; every outward call has a timeout of the adapter's own; an adapter maps its SDK's errors
onto `uploadcore.errors` in one place, with `raise … from exc`; `open` and `close` are called once each by `UploadCore`.
"""

from __future__ import annotations

from uploadcore.ports.cache import Cache
from uploadcore.ports.clock import (
    Clock,
    IdFactory,
)
from uploadcore.ports.context import AdapterContext
from uploadcore.ports.database import (
    Database,
    FileRecords,
    IdempotencyRecord,
    IdempotencyRecords,
    QuotaRecords,
    Transaction,
    UploadRecords,
)
from uploadcore.ports.outbox import (
    Backlog,
    DeadLetter,
    Delivery,
    FailedDelivery,
    Outbox,
)
from uploadcore.ports.policy import (
    Admission,
    UploadPolicy,
    UploadRequest,
)
from uploadcore.ports.publisher import EventPublisher
from uploadcore.ports.store import (
    MARKER,
    ObjectHeaders,
    ObjectStore,
    OpenMultipart,
    SignedRequest,
    StoreCapabilities,
    StoredObject,
)

__all__ = [
    "MARKER",
    "AdapterContext",
    "Admission",
    "Backlog",
    "Cache",
    "Clock",
    "Database",
    "DeadLetter",
    "Delivery",
    "EventPublisher",
    "FailedDelivery",
    "FileRecords",
    "IdFactory",
    "IdempotencyRecord",
    "IdempotencyRecords",
    "ObjectHeaders",
    "ObjectStore",
    "OpenMultipart",
    "Outbox",
    "QuotaRecords",
    "SignedRequest",
    "StoreCapabilities",
    "StoredObject",
    "Transaction",
    "UploadPolicy",
    "UploadRecords",
    "UploadRequest",
]
