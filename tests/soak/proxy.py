"""A TCP proxy that counts what passes: how much a client really sent, whatever was killed meanwhile."""

from __future__ import annotations

import socket
import threading

BUFFER = 256 * 1024


class CountingProxy:
    """Listens on loopback, forwards to `port`, and counts the bytes that clients send."""

    def __init__(self) -> None:
        self.port = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def take(self) -> int:
        """Bytes sent by clients since the last call."""
        with self._lock:
            sent, self._sent = self._sent, 0
            return sent

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _pass(self, count: int, is_upstream: bool) -> None:
        """So many bytes are about to be forwarded."""
        if is_upstream:
            with self._lock:
                self._sent += count

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                client.close()  # the service is away: so it looks to a client
                continue
            threading.Thread(target=self._converse, args=(client, server), daemon=True).start()

    def _converse(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            answers = threading.Thread(target=self._forward, args=(server, client, False), daemon=True)
            answers.start()
            self._forward(client, server, True)
            answers.join()

    def _forward(self, source: socket.socket, target: socket.socket, is_upstream: bool) -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            while received := source.recv_into(buffer):
                self._pass(received, is_upstream)
                target.sendall(buffer[:received])
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
