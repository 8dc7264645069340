"""uvicorn's HTTP protocol, with bounds on what it leaves unbounded: how large a request's head may be, and how long one may take to arrive.

Without them anybody, unauthenticated, could fill the memory with headers, or hold connections and places in flight with requests that never
end. A request that arrives whole, as nearly all do, costs a few attribute accesses.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["MAX_HEAD", "MAX_PIPELINED", "REQUEST_TIMEOUT", "BoundedHttpProtocol"]

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers: as much as AWS's ALB lets through."""
REQUEST_TIMEOUT = 60.0
"""Seconds for a head, and with it the body of an API call (2 MiB at most). Bodies at `/data` have a rule of their own there."""
MAX_PIPELINED = 16
"""Requests that may wait on one connection for those before them. They are kept whole, and no client in use sends any (RFC 9112, section 9.3.2)."""
_DATA = b"/data/"


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses heads that are too large, and closes connections whose request does not arrive in time."""

    _is_in_head = True
    _is_awaited = True
    _is_whole = False
    _head_size = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._is_awaited = False
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then see whether something is still to come."""
        super().data_received(data)
        if not self._is_awaited:
            return
        if self._is_in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._is_awaited = False
                self.send_400_response("The head of the request is too large.")
                return
        self._await_request()

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests were sent at once")  # the parser's caller answers 400, and closes
        super().on_message_begin()
        self._is_in_head = self._is_awaited = True
        self._is_whole = False
        self._head_size = 0

    def on_headers_complete(self) -> None:
        """Its head is there."""
        super().on_headers_complete()
        self._is_in_head = False
        self._is_awaited = not self.url.startswith(_DATA)
        if not self._is_awaited:
            self._disarm()

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._is_awaited = False
        self._is_whole = True
        self._disarm()

    def on_response_complete(self) -> None:
        """An answer is sent. If that was before all of the request was there, the rest has no more time than an API call."""
        is_of_last = not self.pipeline
        super().on_response_complete()
        if is_of_last and not self._is_whole and not self.transport.is_closing():
            self._is_awaited = True
            self._await_request()

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.close()
