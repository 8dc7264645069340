"""The service, configured from the environment, for uvicorn to serve in a benchmark."""

from __future__ import annotations

from uploadcore_app import load_settings
from uploadcore_http import create_app

app = create_app(load_settings())
