"""Settings and composition root of the uploadcore application.

`load_settings` reads `UPLOADCORE_…` variables; `open_app` makes the chosen store, database and cache into an open `UploadCore`.
"""

from __future__ import annotations

try:
    from uploadcore_app.composition import App, Container, open_app
    from uploadcore_app.doctor import examine
    from uploadcore_app.errors import ConfigurationError
    from uploadcore_app.measured import BUCKETS, Durations, Measurements
    from uploadcore_app.plugins import load_adapter
    from uploadcore_app.settings import Settings, checked_origins, is_loopback, load_settings, misspelled
    from uploadcore_app.tracing import Tracing, current_trace_id
except ModuleNotFoundError as exc:
    if (exc.name or "").startswith("uploadcore"):
        raise
    raise ImportError(f"uploadcore_app needs {exc.name}: pip install 'uploadcore[server]'", name=exc.name) from exc

__all__ = [
    "BUCKETS",
    "App",
    "ConfigurationError",
    "Container",
    "Durations",
    "Measurements",
    "Settings",
    "Tracing",
    "checked_origins",
    "current_trace_id",
    "examine",
    "is_loopback",
    "load_adapter",
    "load_settings",
    "misspelled",
    "open_app",
]
