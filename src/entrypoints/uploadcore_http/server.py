"""`serve`: the service in this process, from its settings to its exit status.

uvicorn serves; the signals are ours, because uvicorn alone refuses new connections the moment SIGTERM arrives, while load balancers go
on sending for as long as they have not noticed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TextIO

try:
    import uvicorn
    import uvloop
except ModuleNotFoundError as exc:
    raise ImportError(f"uploadcore_http.server needs {exc.name}: pip install 'uploadcore[server]'") from exc
from litestar import Litestar

from uploadcore_app import ConfigurationError, Settings, is_loopback, load_settings, misspelled
from uploadcore_http.application import Running, create_app
from uploadcore_http.lifecycle import say
from uploadcore_http.logs import configure_logging
from uploadcore_http.protocol import BoundedHttpProtocol

__all__ = ["main", "serve"]

KEEP_ALIVE = 75
"""Seconds. Longer than a load balancer's (AWS ALB: 60), or it would send a request into a connection that we just closed."""
IN_FLIGHT = 25
"""Seconds that requests in flight have after serving has ended: with `drain_delay` less than the 30 to 60 orchestrators wait."""
BACKLOG = 2_048
PATIENCE = 2.0
"""Seconds that starting may take before connections are taken all the same, to say that it is alive and not ready."""
LAST_WORD = 5.0
"""Seconds after a second signal, at the end of which the process ends whatever hangs."""

log = logging.getLogger("uploadcore.http")


def serve(settings: Settings, *, announce: TextIO | None = None) -> int:
    """Serve until a signal says otherwise.

    Where the database is away, it serves and is not ready, and becomes ready once the database is there.

    SIGTERM: `/health/ready` fails, serving goes on for `drain_delay` with `Connection: close`, then what is in flight ends, and leases
    are given up. SIGINT: the same without the delay. A second signal stops at once.

    Args:
        settings: The configuration. Port 0 takes a free one.
        announce: Where the line is written that says the service is ready; by default standard output.

    Returns:
        The exit status: 0, or 128 and the signal's number when a second signal cut the drain short.

    Raises:
        ConfigurationError: It can't start as configured; one line says why.
    """
    configure_logging(settings.log_format, settings.log_level)
    settings.check_exposure()
    for line in misspelled(os.environ):
        log.warning(line)
    listener = _listen(settings)
    with listener:
        bound = settings.model_copy(update={"port": listener.getsockname()[1]})
        application = create_app(bound)
        return uvloop.run(_Service(application, bound, listener, announce).run())


def main() -> int:
    """Serve as the environment says; for `python -m uploadcore_http`. What can't start is one line on stderr, and status 2."""
    try:
        return serve(load_settings())
    except ConfigurationError as exc:
        sys.stderr.write(f"uploadcore: {exc}\n")
        return exc.exit_status


def _listen(settings: Settings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise ConfigurationError(
            f"UPLOADCORE_HOST={settings.host} is no address of this machine: {exc.strerror}"
        ) from exc
    family, _, _, _, address = found[0]
    if not settings.has_authentication and not is_loopback(str(address[0])):
        raise ConfigurationError(f"UPLOADCORE_HOST={settings.host} leads to {address[0]}, which is not loopback")
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as exc:
        raise ConfigurationError(
            f"can't listen on {settings.host}:{settings.port}: {os.strerror(exc.errno or 0)}; "
            "UPLOADCORE_PORT chooses another port"
        ) from exc


class _Server(uvicorn.Server):
    """uvicorn without its own handling of signals, and with a word when it serves."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets)
        self._when_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `_Service`."""
        yield


class _Service:
    """One run of the service: open, serve, drain, close."""

    def __init__(
        self, application: Litestar, settings: Settings, listener: socket.socket, announce: TextIO | None
    ) -> None:
        self._running = Running.of(application)
        self._settings = settings
        self._listener = listener
        self._announce = announce
        self._received: list[signal.Signals] = []
        self._told = asyncio.Event()
        self._has_said_so = False
        self._server = _Server(
            uvicorn.Config(
                application,
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",  # `run` has opened everything before the first connection is taken
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever reads `client` here must see the peer
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=IN_FLIGHT,
            ),
            self._say_so,
        )

    async def run(self) -> int:
        """Serve, and say how it ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        draining = asyncio.create_task(self._drain())
        try:
            async with AsyncExitStack() as stack:
                await self._serve(asyncio.create_task(stack.enter_async_context(self._running.opened())))
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        return 128 + self._received[1] if len(self._received) > 1 else 0

    async def _serve(self, opening: asyncio.Task[None]) -> None:
        """Serve from when everything is open, or `PATIENCE` is over, until we are told to stop."""
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait({opening, told}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                await opening
            if not self._received:
                opening.add_done_callback(self._on_open)
                await self._server.serve(sockets=[self._listener])
            if opening.done():
                await opening  # what went wrong, if anything did
        finally:
            told.cancel()
            opening.cancel()
            await asyncio.gather(told, opening, return_exceptions=True)

    def _on_open(self, opening: asyncio.Task[None]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._server.should_exit = True
        else:
            self._say_so()

    def _say_so(self) -> None:
        """Once connections are taken, and everything is open.

        What was made until then stays until the end, and is most of what there is: left to the collector, its every full pass would go through
        all of it, and nothing else is served meanwhile (seen here: up to 0.3 s). Source: Python's documentation of `gc.freeze`.
        """
        if self._has_said_so or not (self._server.started and self._running.lifecycle.is_started):
            return
        self._has_said_so = True
        gc.freeze()
        say(f"uploadcore is serving on {self._address}", self._announce)

    @property
    def _address(self) -> str:
        return self._settings.model_copy(update={"public_url": None}).base_url

    def _on_signal(self, number: signal.Signals) -> None:
        self._received.append(number)
        self._told.set()
        if len(self._received) > 1:
            self._server.force_exit = True
            self._server.should_exit = True
            asyncio.get_running_loop().call_later(LAST_WORD, os._exit, 128 + number)

    async def _drain(self) -> None:
        await self._told.wait()
        number = self._received[0]
        is_balanced = number == signal.SIGTERM and self._running.lifecycle.is_started
        delay = 0.0 if not is_balanced else self._settings.drain_delay.total_seconds()
        log.info("draining after %s: serving for %s s more", number.name, delay, extra={"signal": number.name})
        self._running.lifecycle.is_draining = True
        await asyncio.sleep(delay)
        self._server.should_exit = True
