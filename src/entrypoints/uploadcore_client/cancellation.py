"""How a transfer is cut from another thread, promptly: also one that waits for a socket or for its next try."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from uploadcore_client.errors import TransferCancelledError

__all__ = ["Cancellation"]


class Cancellation:
    """Cuts what it was given to. May be handed to one call at a time; once cut, stays cut.

    Example:
        >>> cancellation = Cancellation()
        >>> cancellation.cancel()
        >>> cancellation.is_cancelled
        True
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.event.is_set()

    def cancel(self) -> None:
        """Cut everything. Safe from any thread, and more than once."""
        self.event.set()
        with self._lock:
            for each in self._sockets:
                self._shut(each)

    def check(self) -> None:
        """Go on only if it was not cut.

        Raises:
            TransferCancelledError: If it was.
        """
        if self.event.is_set():
            raise TransferCancelledError("the transfer was cut; what has arrived at the store stays there")

    def watch(self, sock: socket.socket) -> None:
        """Shut this socket when cut; at once if that has happened."""
        with self._lock:
            self._sockets.add(sock)
            if self.event.is_set():
                self._shut(sock)

    def forget(self, sock: socket.socket) -> None:
        """No longer shut this socket. Idempotent."""
        with self._lock:
            self._sockets.discard(sock)

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        # Not `sock.shutdown`: an SSLSocket's takes its encryption off first, and a thread that is just sending would go on in the clear.
        with suppress(OSError):  # closed already: nothing waits for it
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
