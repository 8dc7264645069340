"""Adapters by URL: `s3://…` is whatever is registered as `s3` in the entry-point group."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from uploadcore.errors import UploadCoreError
from uploadcore.ports import AdapterContext
from uploadcore_app.errors import ConfigurationError

__all__ = ["CACHES", "DATABASES", "PUBLISHERS", "STORES", "load_adapter"]

STORES = "uploadcore.stores"
DATABASES = "uploadcore.databases"
CACHES = "uploadcore.caches"
PUBLISHERS = "uploadcore.publishers"


def load_adapter(group: str, url: str, context: AdapterContext, setting: str) -> Any:
    """Make the adapter a URL asks for. Opens nothing.

    Args:
        group: One of the entry-point groups above.
        url: Its scheme chooses the adapter, which understands the rest.
        context: What else the adapter may need.
        setting: Name of the variable the URL came from, for messages.

    Raises:
        ConfigurationError: No such scheme, an extra is missing, or the adapter can't use the URL. Shows no part of the URL
            but its scheme: it may hold a password.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        # The cause would show the URL.
        raise ConfigurationError(f"{setting}: the host can't be read") from None
    found = {plugin.name: plugin for plugin in entry_points(group=group)}
    if scheme not in found:
        installed = ", ".join(f"{name}://" for name in sorted(found)) or "none"
        asked = f"{scheme}://" if scheme else "a value without a scheme"
        raise ConfigurationError(
            f"{setting}: nothing installed understands {asked} (installed: {installed}); "
            "an adapter comes with an extra, as in pip install 'uploadcore[all]'"
        )
    try:
        make = found[scheme].load()
    except ImportError as exc:
        raise ConfigurationError(f"{setting}: {exc}") from exc
    try:
        return make(url, context)
    except (ValueError, ImportError, UploadCoreError) as exc:
        message = " ".join(str(exc).replace(url, f"{scheme}://…").split())
        raise ConfigurationError(f"{setting}: {message}") from exc
