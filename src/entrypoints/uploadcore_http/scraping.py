"""`/metrics` of a process that serves nothing else: the worker."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from uploadcore.errors import ForbiddenError
from uploadcore_app import App, ConfigurationError
from uploadcore_http.asgi import AsgiApp, Receive, Scope, Send
from uploadcore_http.metrics import Metrics
from uploadcore_http.operations import MetricsAccess
from uploadcore_http.protocol import BoundedHttpProtocol
from uploadcore_http.responses import BytesResponse

__all__ = ["metrics_app", "metrics_served"]

PATH = "/metrics"
MAX_CONNECTIONS = 64
"""Open at a time, idle ones included, beyond which a request is answered with 503. A scraper needs one."""

log = logging.getLogger("uploadcore.http")


def metrics_app(metrics: Metrics, access: MetricsAccess) -> AsgiApp:
    """An ASGI application that tells these metrics to whoever may scrape, and has nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = BytesResponse(b"only GET /metrics is here\n", 404, "text/plain")
        if scope["path"] == PATH and scope["method"] in {"GET", "HEAD"}:
            try:
                access.check(scope)
            except ForbiddenError as exc:
                answer = BytesResponse(f"{exc.message}\n".encode(), 403, "text/plain")
            else:
                accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
                answer = BytesResponse(*await _scraped(metrics, accept))
        await answer(scope, receive, send)

    return app


async def _scraped(metrics: Metrics, accept: bytes) -> tuple[bytes, int, str]:
    body, media_type = await metrics.scraped(accept.decode("latin-1"))
    return body, 200, media_type


@asynccontextmanager
async def metrics_served(app: App) -> AsyncIterator[None]:
    """Answer on `UPLOADCORE_METRICS_PORT` of `UPLOADCORE_HOST` while the block runs; without a port, nothing.

    Raises:
        ConfigurationError: The port is taken.
    """
    port, token = app.settings.metrics_port, app.settings.metrics_token
    if port is None:
        yield
        return
    import uvicorn  # noqa: PLC0415 - only where it is asked for

    class Server(uvicorn.Server):
        """One that leaves signals to the process it is in."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    access = MetricsAccess(None if token is None else token.get_secret_value())
    application: Any = metrics_app(Metrics(app.core, app.measurements), access)
    config = uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        limit_concurrency=MAX_CONNECTIONS,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever reads `client` here must see the peer
        timeout_graceful_shutdown=1,
    )
    try:
        listener = await asyncio.get_running_loop().run_in_executor(None, _listen, app.settings.host, port)
    except OSError as exc:
        raise ConfigurationError(
            f"can't listen on {app.settings.host}:{port} (UPLOADCORE_METRICS_PORT): {exc.strerror}"
        ) from exc
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log.info("metrics are at http://%s:%s%s", app.settings.host, port, PATH)
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
