"""HTTP service of uploadcore: `create_app` for a service of its own, `create_asgi` for a mount in FastAPI, Starlette or Litestar.

Authentication is a callable from ASGI scope to `Principal`; `JwtAuthenticator` is the one that is there.
"""

from __future__ import annotations

try:
    from uploadcore_http.application import create_app, create_asgi
    from uploadcore_http.auth import Authenticator, LoopbackDeveloper, Principal
    from uploadcore_http.data import data_app
    from uploadcore_http.tokens import JwksKeys, JwtAuthenticator, SharedKey
except ModuleNotFoundError as exc:
    if (exc.name or "").startswith("uploadcore"):
        raise
    raise ImportError(f"uploadcore_http needs {exc.name}: pip install 'uploadcore[server]'", name=exc.name) from exc

__all__ = [
    "Authenticator",
    "JwksKeys",
    "JwtAuthenticator",
    "LoopbackDeveloper",
    "Principal",
    "SharedKey",
    "create_app",
    "create_asgi",
    "data_app",
]
