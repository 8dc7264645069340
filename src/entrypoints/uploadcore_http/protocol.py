"""uvicorn's HTTP protocol, with bounds on what it leaves unbounded: the size of a head, and the time for a request to arrive and an answer to be taken.

Without them anybody, unauthenticated, could fill the memory with headers, or hold connections and places in flight with requests that never
end and answers that are never read. A request that arrives whole, as nearly all do, costs a few attribute accesses.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["ANSWER_TIMEOUT", "MAX_HEAD", "MAX_PIPELINED", "REQUEST_TIMEOUT", "BoundedHttpProtocol"]

MAX_HEAD = 64 * 1024
"""Bytes of request line and headers: as much as AWS's ALB lets through. As many may follow a body."""
REQUEST_TIMEOUT = 60.0
"""Seconds for a head, and with it the body of an API call (2 MiB at most). Bodies at `/data` have a rule of their own there."""
ANSWER_TIMEOUT = 60.0
"""Seconds in which a client takes nothing of an answer: then it is cut off, as nginx does (`send_timeout`)."""
MAX_PIPELINED = 16
"""Requests that may wait on one connection for those before them. They are kept whole, and no client in use sends any (RFC 9112, section 9.3.2)."""
_DATA = b"/data/"


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuses heads that are too large, closes connections whose request does not arrive in time, and cuts those whose answers are not taken."""

    _is_in_head = True
    _is_awaited = True
    _is_whole = False
    _has_body_come = False
    _head_size = 0
    _timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    _is_next_held = False
    _has_paused_reading = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._is_awaited = self._is_next_held = False
        self._disarm()
        self._await_reader_no_more()
        super().connection_lost(exc)

    # --- what arrives ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse, then see whether something is still to come."""
        self._has_body_come = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_whole:
            if self.cycle.response_complete and self.timeout_keep_alive_task is None:
                # Not a request, such as the blank lines that may stand before one (RFC 9112, section 2.2); uvicorn waits no more, so we do.
                self._await_request()
            return
        # In a head all counts; in a body what is none of it: chunks' framing, and the fields that may follow the last.
        self._head_size = 0 if self._has_body_come else self._head_size + len(data)
        if self._head_size > MAX_HEAD:
            self._is_awaited = False
            self.send_400_response("The head of the request is too large.")
        elif self._is_awaited:
            self._await_request()

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests were sent at once")  # the parser's caller answers 400, and closes
        super().on_message_begin()
        self._disarm()
        self._is_in_head = self._is_awaited = True
        self._is_whole = False
        self._head_size = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; or one that follows the body, which nobody asked for.

        uvicorn would add those to the head's: what a proxy in front has checked or set there would not be all that is there (RFC 9110,
        section 6.5.1).
        """
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is there."""
        super().on_headers_complete()
        self._is_in_head = False
        self._head_size = 0
        self._is_awaited = not self.url.startswith(_DATA)
        if not self._is_awaited:
            self._disarm()

    def on_body(self, body: bytes) -> None:
        """Some of its body is there."""
        self._has_body_come = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._is_awaited = False
        self._is_whole = True
        self._disarm()

    def _await_request(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self._close()

    # --- what is answered -----------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client is slow to take what it is sent: nothing more is read of it."""
        super().pause_writing()
        self._has_paused_reading = not self.flow.read_paused
        self.flow.pause_reading()
        self._await_reader()

    def resume_writing(self) -> None:
        """It has taken most of it: on with what it asked next."""
        super().resume_writing()
        if self._has_paused_reading:  # uvicorn has reasons of its own: a body that nobody takes, requests that wait
            self._has_paused_reading = False
            self.flow.resume_reading()
        self._await_reader_no_more()
        if self.transport.is_closing():
            self._await_reader()
        if self._is_next_held:
            self._is_next_held = False
            self.on_response_complete()

    def on_response_complete(self) -> None:
        """An answer is written; the next request is not begun before it is taken, for it would hold a place in flight meanwhile.

        If that was before all of the request was there, the rest has no more time than an API call.
        """
        self._await_reader()
        if self.flow.write_paused and not self.transport.is_closing():
            self._is_next_held = True
            return
        is_of_last = not self.pipeline
        super().on_response_complete()
        if is_of_last and not self._is_whole and not self.transport.is_closing():
            self._is_awaited = True
            self._await_request()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close."""
        super().send_400_response(msg)
        self._await_reader()

    def timeout_keep_alive_handler(self) -> None:
        """There was no further request."""
        self._close()

    def _close(self) -> None:
        """Close; what is not taken by then has no more time than any answer."""
        self.transport.close()
        self._await_reader()

    def _await_reader(self) -> None:
        """See that what is written is taken: look in a while, where something of it is left."""
        self._await_reader_no_more()
        left = self.transport.get_write_buffer_size()
        if left:
            self._answer_timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self._look_at_reader, left)

    def _await_reader_no_more(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _look_at_reader(self, before: int) -> None:
        self._answer_timer = None
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._await_reader()
