"""Object store on S3 and whatever speaks its protocol: one store, over boto3 or minio-py.

`S3ObjectStore` needs the extra `s3`, `MinioObjectStore` the extra `minio`; each is imported when it is asked for, so that either does without
the other. What they promise, and what each store is told, is in `docs/s3.md`.

>>> from uploadcore_s3 import PRESETS
>>> PRESETS["swift"].late_parts_refused
False
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from uploadcore_s3.configuration import PRESETS, S3Configuration, StoreOptions, Timeouts
from uploadcore_s3.signing import Credentials, QuerySigner

if TYPE_CHECKING:
    from uploadcore_s3.boto import S3ObjectStore, s3_from_url
    from uploadcore_s3.minio import MinioObjectStore, minio_from_url

__all__ = [
    "PRESETS",
    "Credentials",
    "MinioObjectStore",
    "QuerySigner",
    "S3Configuration",
    "S3ObjectStore",
    "StoreOptions",
    "Timeouts",
    "minio_from_url",
    "s3_from_url",
]

_EXTRAS = {
    "S3ObjectStore": ("uploadcore_s3.boto", "s3"),
    "s3_from_url": ("uploadcore_s3.boto", "s3"),
    "MinioObjectStore": ("uploadcore_s3.minio", "minio"),
    "minio_from_url": ("uploadcore_s3.minio", "minio"),
}


def __getattr__(name: str) -> Any:
    """What needs an SDK.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _EXTRAS[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        needs = f"uploadcore_s3.{name} needs packages that are not installed"
        raise ImportError(f"{needs}: pip install 'uploadcore[{extra}]'") from exc
