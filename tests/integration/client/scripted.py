"""A far end whose every answer a test can script: the service's `/v1` and a store in one, in memory, over real HTTP.

For what a healthy service does not do when told: refuse, stall, cut, forget. Everything else is tested against the service itself.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from awscrt import checksums

Fault = Callable[["Handler", int], bool]
"""Gets the request of a part before its body is read, and the number of its try, from 1. `True`: it has answered."""


@dataclass
class Upload:
    """One upload, and what has arrived of it."""

    id: str
    body: dict[str, Any]
    key: str
    part_size: int
    generation: int = 1
    state: str = "uploading"
    parts: dict[int, bytes] = field(default_factory=dict)

    @property
    def count(self) -> int:
        size: int = self.body["size"]
        return max(1, -(-size // self.part_size))


class FarEnd:
    """The state behind the handler, and the scripts."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.uploads: dict[str, Upload] = {}
        self.files: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.names_checksum = True
        self.part_size = 1024 * 1024
        self.url_lifetime = 900.0
        self.clock_offset = 0.0
        self.shows_checksums = True
        self.before_part: Fault = lambda handler, number: False
        self.before_call: Callable[[Handler, str], bool] = lambda handler, route: False
        self.before_content: Callable[[Handler], bool] = lambda handler: False
        self.assembly_polls = 0
        self.etag = '"one"'
        self.signed: list[list[int]] = []
        self.puts: list[int] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.in_flight_at_complete: list[int] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.tries: dict[int, int] = defaultdict(int)
        self.tokens: list[str | None] = []
        self.ranges: list[str | None] = []
        self.url = ""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.clock_offset)

    def sign(self, upload: Upload, numbers: list[int]) -> list[dict[str, Any]]:
        self.signed.append(numbers)
        expires_at = self.now() + timedelta(seconds=self.url_lifetime)
        return [
            {
                "part_number": number,
                "offset": (number - 1) * upload.part_size,
                "length": min(upload.part_size, upload.body["size"] - (number - 1) * upload.part_size),
                "method": "PUT",
                "url": f"{self.url}/store/{upload.id}?partNumber={number}&generation={upload.generation}&signature=SECRET",
                "headers": {},
                "expires_at": expires_at.isoformat(),
            }
            for number in numbers
        ]

    def document(self, upload: Upload) -> dict[str, Any]:
        return {
            "id": upload.id,
            "file_id": f"file-{upload.id}",
            "state": upload.state,
            "strategy": upload.body.get("strategy", "multipart"),
            "filename": upload.body["filename"],
            "size": upload.body["size"],
            "content_type": upload.body["content_type"],
            "part_size": upload.part_size,
            "part_count": upload.count,
            "fingerprint": upload.body.get("fingerprint"),
            "created_at": self.now().isoformat(),
            "expires_at": (self.now() + timedelta(days=1)).isoformat(),
            "parts": [],
        }

    def file_document(self, file_id: str, name: str = "blob.bin") -> dict[str, Any]:
        content = self.files[file_id]
        return {
            "id": file_id,
            "name": name,
            "status": "deleted" if file_id in self.deleted else "available",
            "size": len(content),
            "checksum": {"algorithm": "crc64nvme", "value": crc(content), "verified_by": "store"}
            if self.names_checksum
            else None,
            "version": 1,
        }


def crc(content: bytes) -> str:
    return base64.b64encode(checksums.crc64nvme(content).to_bytes(8, "big")).decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    far: FarEnd
    is_in_flight = False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.land()
        self.send_response_only(status)
        self.send_header("Date", format_datetime(self.far.now(), usegmt=True))
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def say(self, document: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(document).encode(), Content_Type="application/json", **headers)

    def problem(self, status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> None:
        self.say({"code": code, "title": code, "status": status, "detail": code, **members}, status, **(headers or {}))

    def refuse(self, status: int, code: str, **headers: str) -> None:
        """Answer as a store does, without reading the body."""
        self.close_connection = True
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode(), Connection="close", **headers)

    def lose_answer(self) -> None:
        """Take the body, and say nothing."""
        self.body()
        self.cut()

    def cut(self) -> None:
        """No answer at all."""
        self.land()
        self.close_connection = True
        self.connection.shutdown(2)

    def body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionAbortedError("the client has gone, and a store keeps no part of a part")
        return content

    def land(self) -> None:
        """A part is in flight no more: before whoever sent it knows, and goes on."""
        with self.far.lock:
            self.far.in_flight -= self.is_in_flight
            self.is_in_flight = False

    # --- store ------------------------------------------------------------------------------------------------------

    def do_PUT(self) -> None:
        far = self.far
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        upload, number = far.uploads[path.split("/")[2]], int(query["partNumber"][0])
        assert "Transfer-Encoding" not in self.headers
        with far.lock:
            far.tries[number] += 1
            tries = far.tries[number]
            far.puts.append(number)
            far.in_flight += 1
            self.is_in_flight = True
            far.most_in_flight = max(far.most_in_flight, far.in_flight)
            far.tokens.append(self.headers.get("Authorization"))
        try:
            if far.before_part(self, tries):
                return
            if int(query["generation"][0]) != upload.generation or upload.state != "uploading":
                self.refuse(404, "NoSuchUpload")
                return
            content = self.body()
            with far.lock:
                upload.parts[number] = content
        finally:
            self.land()
        self.answer(200, ETag='"e"', x_amz_checksum_crc64nvme=crc(content))

    # --- service ----------------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        content = json.loads(self.body() or b"{}")
        match urlsplit(self.path).path.split("/")[2:]:
            case ["uploads"]:
                self.called("initiate", lambda: self.initiate(content))
            case ["uploads", name, "part-urls"]:
                self.called(
                    "sign", lambda: self.say({"parts": self.far.sign(self.far.uploads[name], content["part_numbers"])})
                )
            case ["uploads", name, "complete"]:
                self.called("complete", lambda: self.complete(self.far.uploads[name], content))

    def do_GET(self) -> None:
        far, parts = self.far, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match parts.path.split("/")[1:]:
            case ["v1", "uploads"]:
                self.called("find", lambda: self.find(query))
            case ["v1", "uploads", name] if name in far.uploads:
                self.called("upload", lambda: self.say(far.document(far.uploads[name])))
            case ["v1", "uploads", name, "parts"]:
                self.called("parts", lambda: self.parts(far.uploads[name], int(query["after"])))
            case ["v1", "files", name] if name in far.files:
                self.called("file", lambda: self.say(far.file_document(name)))
            case ["v1", "files", name, "content"]:
                self.called("content", lambda: self.answer(307, Location=f"/store/{name}?signature=SECRET"))
            case ["store", name]:
                self.content(far.files[name])
            case _:
                self.problem(404, "upload_not_found", upload_id="?")

    def do_DELETE(self) -> None:
        def abort() -> None:
            self.far.uploads[urlsplit(self.path).path.split("/")[3]].state = "aborted"
            self.answer(204)

        self.called("abort", abort)

    def called(self, route: str, answer: Callable[[], None]) -> None:
        with self.far.lock:
            self.far.calls[route] += 1
            if not self.far.before_call(self, route):
                answer()

    def initiate(self, content: dict[str, Any]) -> None:
        far, key = self.far, self.headers["Idempotency-Key"]
        upload = next((each for each in far.uploads.values() if each.key == key), None)
        if upload is not None and upload.body != content:
            self.problem(422, "idempotency_mismatch")
            return
        if upload is None:
            upload = Upload(f"u{len(far.uploads) + 1}", content, key, content.get("part_size") or far.part_size)
            far.uploads[upload.id] = upload
        numbers = range(1, min(content["sign"], upload.count) + 1)
        self.say({**far.document(upload), "parts": far.sign(upload, list(numbers))}, 201)

    def find(self, query: dict[str, str]) -> None:
        found = [
            self.far.document(each)
            for each in self.far.uploads.values()
            if query.get("state") in {None, each.state}
            and query.get("fingerprint") in {None, each.body.get("fingerprint")}
        ]
        self.say({"uploads": found, "next": None})

    def parts(self, upload: Upload, after: int) -> None:
        page = [number for number in sorted(upload.parts) if number > after][:1000]
        listed = [
            {
                "part_number": number,
                "size": len(upload.parts[number]),
                "etag": "e",
                "checksum": crc(upload.parts[number]) if self.far.shows_checksums else None,
            }
            for number in page
        ]
        more = [number for number in upload.parts if page and number > page[-1]]
        self.say(
            {"parts": listed, "next": page[-1] if more else None, "missing": [], "mismatched": [], "uploaded_bytes": 0}
        )

    def complete(self, upload: Upload, content: dict[str, Any]) -> None:
        far = self.far
        far.in_flight_at_complete.append(far.in_flight)
        missing = [number for number in range(1, upload.count + 1) if number not in upload.parts]
        if missing and upload.state == "uploading":
            self.problem(
                409, "parts_missing", upload_id=upload.id, missing=[[each, each] for each in missing], mismatched=[]
            )
            return
        whole = b"".join(upload.parts[number] for number in sorted(upload.parts))
        declared = content.get("checksum")
        if declared is not None and declared["algorithm"] == "crc64nvme" and declared["value"] != crc(whole):
            self.problem(422, "checksum_mismatch", upload_id=upload.id)
            return
        if far.assembly_polls > 0:
            far.assembly_polls -= 1
            self.say({"upload": far.document(upload), "file": None}, 202, Retry_After="0")
            return
        if upload.state != "completed":  # else the file may have been replaced since
            upload.state = "completed"
            far.files[f"file-{upload.id}"] = whole
        self.say({"upload": far.document(upload), "file": far.file_document(f"file-{upload.id}")})

    def content(self, whole: bytes) -> None:
        far = self.far
        far.tokens.append(self.headers.get("Authorization"))
        wanted = self.headers.get("Range")
        far.ranges.append(wanted)
        if far.before_content(self):
            return
        if wanted is not None and self.headers.get("If-Range") == far.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.answer(206, whole[start:], ETag=far.etag, Content_Range=f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        else:
            self.answer(200, whole, ETag=far.etag)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tls: ssl.SSLContext | None = None
    far: FarEnd

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.far.connections += 1
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is what many tests are about."""


@contextmanager
def far_end(tls: ssl.SSLContext | None = None) -> Iterator[FarEnd]:
    """One, while the block runs."""
    far = FarEnd()
    server = _Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"far": far}))
    server.tls, server.far = tls, far
    far.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield far
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.005)
