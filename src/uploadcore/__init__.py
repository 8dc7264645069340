"""Control plane for large, resumable uploads that go straight from the client to the object store."""

from uploadcore.admission import StaticPolicy
from uploadcore.blocking import BlockingUploadCore
from uploadcore.config import UploadConfig
from uploadcore.core import UploadCore
from uploadcore.errors import UploadCoreError
from uploadcore.events import Event, EventType
from uploadcore.file import Checksum, ChecksumAlgorithm, FileStatus, FileView, VerifiedBy, Visibility
from uploadcore.plan import PartLedger, PartPlan, StoredPart, StoreLimits
from uploadcore.ports import AdapterContext, Admission, Backlog, DeadLetter, SignedRequest, UploadRequest
from uploadcore.relay import DeliveryReport, RelayReport
from uploadcore.states import PartState, UploadState
from uploadcore.upload import Strategy
from uploadcore.views import Completion, FilePage, SignedPart, SweepReport, UploadPage, UploadParts, UploadView

__all__ = [
    "AdapterContext",
    "Admission",
    "Backlog",
    "BlockingUploadCore",
    "Checksum",
    "ChecksumAlgorithm",
    "Completion",
    "DeadLetter",
    "DeliveryReport",
    "Event",
    "EventType",
    "FilePage",
    "FileStatus",
    "FileView",
    "PartLedger",
    "PartPlan",
    "PartState",
    "RelayReport",
    "SignedPart",
    "SignedRequest",
    "StaticPolicy",
    "StoreLimits",
    "StoredPart",
    "Strategy",
    "SweepReport",
    "UploadConfig",
    "UploadCore",
    "UploadCoreError",
    "UploadPage",
    "UploadParts",
    "UploadRequest",
    "UploadState",
    "UploadView",
    "VerifiedBy",
    "Visibility",
]
