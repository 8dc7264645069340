"""A server that throws bodies away, as fast as Python can: the far end of the client's benchmarks.

It speaks just enough of two protocols for an upload to run against it: of S3 (CreateMultipartUpload, UploadPart, PutObject,
CompleteMultipartUpload, as boto3's `upload_file` calls them) and of our own `/v1`. Run it as a process of its own:

    python -m tests.bench.sink PORT [CERT KEY]

It prints `ready PORT` once it listens.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
from datetime import UTC, datetime, timedelta

BUFFER = 1024 * 1024
MSG_TRUNC = getattr(socket, "MSG_TRUNC", 0)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)


class Sink:
    """One listening socket, one thread per connection, one table of uploads."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.uploads: dict[str, dict[str, object]] = {}

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, plain: socket.socket) -> None:
        """Requests of one connection until it is closed."""
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(BUFFER))
        flags = MSG_TRUNC if self.context is None else 0
        try:
            connection = self.context.wrap_socket(plain, server_side=True) if self.context else plain
            rest = b""
            while True:
                while b"\r\n\r\n" not in rest:
                    received = connection.recv(65536)
                    if not received:
                        return
                    rest += received
                head, _, rest = rest.partition(b"\r\n\r\n")
                head = head + b"\r\n"
                found = _LENGTH.search(head)
                left = int(found[1]) if found else 0
                if _EXPECT.search(head) and not rest:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                line = head.split(b"\r\n", 1)[0].decode()
                if _CHUNKED.search(head):  # boto3's way to put a checksum behind the body, over TLS
                    rest = _discard_chunks(connection, rest, buffer)
                    body = b""
                elif line.startswith("PUT"):
                    _discard(connection, left - len(rest), buffer, flags)
                    body = rest = b""
                else:
                    while len(rest) < left:
                        rest += connection.recv(65536)
                    body, rest = rest[:left], rest[left:]
                connection.sendall(self.answer(line, body))
        except OSError:
            return
        finally:
            plain.close()

    def answer(self, line: str, body: bytes) -> bytes:
        method, target, _ = line.split(" ", 2)
        path, _, query = target.partition("?")
        if method == "PUT":
            return _response(200, b"", 'ETag: "0"\r\n')
        if path.startswith("/v1/"):
            return self.answer_v1(method, path, json.loads(body or b"{}"))
        if "uploadId" in query:
            return _response(200, b"<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")
        upload = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        return _response(200, upload)

    def answer_v1(self, method: str, path: str, asked: dict[str, object]) -> bytes:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
        if path == "/v1/uploads" and method == "GET":
            return _json(200, {"uploads": [], "next": None})
        if path == "/v1/uploads":
            size = int(str(asked["size"]))
            part_size = int(str(asked.get("part_size") or 8 * 1024 * 1024))
            number = str(len(self.uploads) + 1)
            upload = {
                "id": number,
                "file_id": number,
                "state": "uploading",
                "strategy": "multipart",
                "filename": asked["filename"],
                "size": size,
                "content_type": "application/octet-stream",
                "metadata": {},
                "part_size": part_size,
                "part_count": max(1, -(-size // part_size)),
                "created_at": soon,
                "expires_at": soon,
            }
            self.uploads[number] = upload
            wanted = range(1, min(int(str(asked.get("sign") or 0)), max(1, -(-size // part_size))) + 1)
            return _json(201, {**upload, "parts": [self.signed(upload, n, soon) for n in wanted]})
        upload = self.uploads[path.split("/")[3]]
        if path.endswith("/part-urls"):
            numbers = asked["part_numbers"]
            assert isinstance(numbers, list)
            return _json(200, {"parts": [self.signed(upload, n, soon) for n in numbers]})
        if path.endswith("/parts"):
            answer = {
                "parts": [],
                "next": None,
                "missing": [[1, upload["part_count"]]],
                "mismatched": [],
                "uploaded_bytes": 0,
            }
            return _json(200, answer)
        if path.endswith("/complete"):
            file = {
                "id": upload["file_id"],
                "name": upload["filename"],
                "status": "available",
                "size": upload["size"],
                "content_type": upload["content_type"],
                "checksum": None,
                "version": 1,
                "title": "",
                "description": "",
                "labels": [],
                "metadata": {},
                "created_at": soon,
                "updated_at": soon,
            }
            return _json(200, {"upload": {**upload, "state": "completed"}, "file": file})
        return _json(200, upload)

    def signed(self, upload: dict[str, object], number: int, soon: str) -> dict[str, object]:
        size, part_size = int(str(upload["size"])), int(str(upload["part_size"]))
        offset = (number - 1) * part_size
        return {
            "part_number": number,
            "offset": offset,
            "length": min(part_size, size - offset),
            "method": "PUT",
            "url": f"{self.url}/bucket/key?partNumber={number}",
            "headers": {},
            "expires_at": soon,
        }


def _discard(connection: socket.socket, left: int, buffer: memoryview, flags: int) -> None:
    """Read that many bytes."""
    while left > 0:
        received = connection.recv_into(buffer, min(left, BUFFER), flags)
        if not received:
            raise ConnectionError("cut")
        left -= received


def _discard_chunks(connection: socket.socket, rest: bytes, buffer: memoryview) -> bytes:
    """Read a chunked body to its end; return what came after it."""
    while True:
        while b"\r\n" not in rest:
            rest += connection.recv(65536)
        size, _, rest = rest.partition(b"\r\n")
        left = int(size.partition(b";")[0], 16) + 2 - len(rest)
        rest = rest[len(rest) + left :] if left <= 0 else b""
        _discard(connection, left, buffer, 0)
        if int(size.partition(b";")[0], 16) == 0:
            return rest


def _json(status: int, value: object) -> bytes:
    return _response(status, json.dumps(value).encode(), "Content-Type: application/json\r\n")


def _response(status: int, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
    sink = Sink(int(sys.argv[1]), context)
    print(f"ready {sink.port}", flush=True)
    sink.serve()


if __name__ == "__main__":
    main()
