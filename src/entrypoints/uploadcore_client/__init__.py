"""Python SDK for the uploadcore HTTP service: parallel, resumable uploads and downloads.

    from uploadcore_client import Client

    with Client("http://127.0.0.1:8484") as client:
        file = client.upload("trip.mp4")

Errors are `uploadcore.errors`' own wherever the service names one, and those below where only a client can run into them.
"""

try:
    import awscrt  # noqa: F401
    import platformdirs  # noqa: F401
    import tenacity  # noqa: F401
    import urllib3  # noqa: F401
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        f"uploadcore_client needs {exc.name}: pip install 'uploadcore[client]'", name=exc.name
    ) from exc

from uploadcore_client.aio import AsyncClient
from uploadcore_client.cancellation import Cancellation
from uploadcore_client.client import DEFAULT_URL, Client
from uploadcore_client.connection import Timeouts
from uploadcore_client.errors import (
    FileChangedError,
    FileUnreadableError,
    FileUnwritableError,
    ServerUnreachableError,
    TargetExistsError,
    TransferCancelledError,
    TransferInUseError,
    UnauthenticatedError,
    UnexpectedAnswerError,
)
from uploadcore_client.progress import Progress, ProgressCallback
from uploadcore_client.retry import RetryPolicy
from uploadcore_client.wire import File, Upload

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "Cancellation",
    "Client",
    "File",
    "FileChangedError",
    "FileUnreadableError",
    "FileUnwritableError",
    "Progress",
    "ProgressCallback",
    "RetryPolicy",
    "ServerUnreachableError",
    "TargetExistsError",
    "Timeouts",
    "TransferCancelledError",
    "TransferInUseError",
    "UnauthenticatedError",
    "UnexpectedAnswerError",
    "Upload",
]
