"""An S3 server over real HTTP whose every answer a test can script: what no store at hand does when told.

It speaks path style, keeps just enough state to be right by default, and verifies no signature: real stores do that.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """One request, as it came."""

    operation: str
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    handler: Handler

    @property
    def access_key(self) -> str:
        """Who signed it."""
        signed = f"Credential={self.query.get('X-Amz-Credential', '')} {self.headers.get('authorization', '')}"
        found = re.search(r"Credential=([^/\s]+)/", signed)
        return found.group(1) if found else ""

    def effect(self) -> Answer:
        """Do what it asks for."""
        with self.handler.far.lock:
            return self.handler.far.effects[self.operation](self)


Script = Callable[[Call], Answer | None]
"""Answers one request; `None`: it has said all there was to say itself."""


@dataclass
class Multipart:
    key: str
    headers: dict[str, str]
    initiated: datetime
    parts: dict[int, bytes] = field(default_factory=dict)
    completed: bool = False


@dataclass
class Stored:
    body: bytes
    etag: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Issued:
    """Credentials made for the asking."""

    access_key: str
    lives: timedelta

    @property
    def secret_key(self) -> str:
        return f"issued-secret-of-{self.access_key}"

    @property
    def token(self) -> str:
        return f"issued-token-of-{self.access_key}"


def document(root: str, *elements: str) -> bytes:
    return DECLARATION + f'<{root} xmlns="{NAMESPACE}">{"".join(elements)}</{root}>'.encode()


def element(name: str, content: object) -> str:
    return f"<{name}>{escape(str(content))}</{name}>"


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


class ScriptedS3:
    """The state behind the handler, and the scripts.

    Attributes:
        calls: Every request, in order.
        page_size: Entries of a listing's page, whatever was asked for.
        order: In which order the parts of a listing come.
        repeated_completion: What a second completion answers: `success`, or an error's code.
        after_completion: What ListParts answers then: `parts`, or an error's code.
        late_parts_land: A part sent after completion changes the object, as at Swift.
        found_by_prefix: A listing by prefix finds uploads; otherwise by their whole key only, as at MinIO.
        clock_offset: Of the `Date` header.
        secrets: Signatures seen; none of them may show up anywhere.
        written: Bytes of the last body that was sent on and on.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, Stored] = {}
        self.multiparts: dict[str, Multipart] = {}
        self.calls: list[Call] = []
        self.page_size = 1_000
        self.order: Callable[[list[int]], list[int]] = sorted
        self.repeated_completion = "success"
        self.after_completion = "NoSuchUpload"
        self.late_parts_land = False
        self.found_by_prefix = True
        self.clock_offset = timedelta(0)
        self.secrets: set[str] = set()
        self.connections = 0
        self.open_connections = 0
        self.in_flight: dict[str, int] = defaultdict(int)
        self.written = 0
        self.let_go = threading.Event()
        self.url = ""
        self.credentials: Callable[[int], Issued] = lambda number: Issued(f"AKID{number}", timedelta(hours=1))
        self._issued = 0
        self._coming: dict[str, deque[Script]] = defaultdict(deque)
        self._always: dict[str, Script] = {}
        self._made = 0
        self.effects: dict[str, Callable[[Call], Answer]] = {
            "create": self._create,
            "part": self._part,
            "put": self._put,
            "list_parts": self._list_parts,
            "complete": self._complete,
            "abort": self._abort,
            "list_multiparts": self._list_multiparts,
            "head": self._head,
            "get": self._get,
            "delete": self._delete,
            "credentials": self._container_credentials,
            "assume_role": self._assume_role,
            "other": lambda call: error(501, "NotImplemented"),
            "time": lambda call: error(403, "AccessDenied"),
        }

    # --- what a test does -------------------------------------------------------------------------------------------

    def script(self, operation: str, *scripts: Script) -> None:
        """Answer the next calls so, one each."""
        self._coming[operation].extend(scripts)

    def always(self, operation: str, script: Script) -> None:
        """Answer all calls so that no `script` is for."""
        self._always[operation] = script

    def heal(self) -> None:
        """Do what is asked from now on; what hangs goes on."""
        self._coming.clear()
        self._always.clear()
        self.let_go.set()

    def count(self, operation: str) -> int:
        """How often it was called."""
        return sum(call.operation == operation for call in self.calls)

    def keys_of(self, operation: str) -> set[str]:
        """The access keys that signed those calls."""
        return {call.access_key for call in self.calls if call.operation == operation}

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_offset

    def reap(self) -> None:
        """Forget what is in progress, as a lifecycle rule does."""
        self.multiparts.clear()

    # --- what it does by default ------------------------------------------------------------------------------------

    def next_script(self, operation: str) -> Script:
        with self.lock:
            coming = self._coming[operation]
            return coming.popleft() if coming else self._always.get(operation, Call.effect)

    def _create(self, call: Call) -> Answer:
        self._made += 1
        name = f"storage-{self._made}"
        kept = {
            header: value
            for header, value in call.headers.items()
            if header == "content-type" or header.startswith("x-amz-meta-")
        }
        self.multiparts[name] = Multipart(call.key, kept, self.now())
        return Answer(
            200,
            document(
                "InitiateMultipartUploadResult",
                element("Bucket", call.bucket),
                element("Key", call.key),
                element("UploadId", name),
            ),
        )

    def _part(self, call: Call) -> Answer:
        found = self._multipart(call)
        if isinstance(found, Answer) and not self.late_parts_land:
            return found
        multipart = self.multiparts[call.query["uploadId"]]
        multipart.parts[int(call.query["partNumber"])] = call.body
        if multipart.completed:
            self._assemble(multipart, sorted(multipart.parts))
        return Answer(200, headers={"ETag": etag_of(call.body)})

    def _put(self, call: Call) -> Answer:
        if call.headers.get("if-none-match") == "*" and call.key in self.objects:
            return error(412, "PreconditionFailed")
        kept = {
            header: value
            for header, value in call.headers.items()
            if header == "content-type" or header.startswith("x-amz-meta-")
        }
        self.objects[call.key] = Stored(call.body, etag_of(call.body), kept)
        return Answer(200, headers={"ETag": etag_of(call.body)})

    def _multipart(self, call: Call) -> Multipart | Answer:
        found = self.multiparts.get(call.query["uploadId"])
        if found is None or found.key != call.key or found.completed:
            return error(404, "NoSuchUpload")
        return found

    def _list_parts(self, call: Call) -> Answer:
        multipart = self.multiparts.get(call.query["uploadId"])
        if multipart is None or (multipart.completed and self.after_completion != "parts"):
            return error(404, "NoSuchUpload" if multipart is None else self.after_completion)
        marker = int(call.query.get("part-number-marker") or 0)
        size = min(self.page_size, int(call.query.get("max-parts") or 1_000))
        left = sorted(number for number in multipart.parts if number > marker)
        page = left[:size]
        shown = [
            "<Part>"
            + element("PartNumber", number)
            + element("LastModified", "2026-01-01T00:00:00.000Z")
            + element("ETag", etag_of(multipart.parts[number]))
            + element("Size", len(multipart.parts[number]))
            + "</Part>"
            for number in self.order(page)
        ]
        return Answer(
            200,
            document(
                "ListPartsResult",
                element("Bucket", call.bucket),
                element("Key", call.key),
                element("UploadId", call.query["uploadId"]),
                element("PartNumberMarker", marker),
                element("NextPartNumberMarker", page[-1] if page else 0),
                element("MaxParts", size),
                element("IsTruncated", "true" if len(left) > size else "false"),
                *shown,
            ),
        )

    def _complete(self, call: Call) -> Answer:
        found = self._multipart(call)
        if isinstance(found, Answer):
            known = self.multiparts.get(call.query["uploadId"])
            if known is None or not known.completed or self.repeated_completion != "success":
                return found
            return self._completed(call)
        named = [
            (int(part.findtext("{*}PartNumber") or 0), (part.findtext("{*}ETag") or "").strip('"'))
            for part in ET.fromstring(call.body).findall("{*}Part")
        ]
        for number, etag in named:
            if number not in found.parts or etag_of(found.parts[number]).strip('"') != etag:
                return error(400, "InvalidPart")
        if [number for number, _ in named] != sorted({number for number, _ in named}):
            return error(400, "InvalidPartOrder")
        self._assemble(found, [number for number, _ in named])
        return self._completed(call)

    def _assemble(self, multipart: Multipart, numbers: list[int]) -> None:
        body = b"".join(multipart.parts[number] for number in numbers)
        etag = f'"{etag_of(body)[1:-1]}-{len(numbers)}"'
        self.objects[multipart.key] = Stored(body, etag, multipart.headers)
        multipart.completed = True

    def _completed(self, call: Call) -> Answer:
        stored = self.objects.get(call.key)
        return Answer(
            200,
            document(
                "CompleteMultipartUploadResult",
                element("Location", f"{self.url}/{call.bucket}/{quote(call.key)}"),
                element("Bucket", call.bucket),
                element("Key", call.key),
                element("ETag", "" if stored is None else stored.etag),
            ),
        )

    def _abort(self, call: Call) -> Answer:
        found = self._multipart(call)
        if isinstance(found, Answer):
            return found
        del self.multiparts[call.query["uploadId"]]
        return Answer(204)

    def _list_multiparts(self, call: Call) -> Answer:
        prefix = call.query.get("prefix", "")
        after = (call.query.get("key-marker", ""), call.query.get("upload-id-marker", ""))
        encoded = call.query.get("encoding-type") == "url"

        def shown(key: str) -> str:
            return quote(key, safe="/") if encoded else key

        def is_found(multipart: Multipart) -> bool:
            if multipart.completed:
                return False
            return multipart.key.startswith(prefix) if self.found_by_prefix else multipart.key == prefix

        left = sorted(
            (multipart.key, name)
            for name, multipart in self.multiparts.items()
            if is_found(multipart) and (multipart.key, name) > after
        )
        size = min(self.page_size, int(call.query.get("max-uploads") or 1_000))
        page = left[:size]
        last = page[-1] if page else ("", "")
        uploads = [
            "<Upload>"
            + element("Key", shown(key))
            + element("UploadId", name)
            + element("StorageClass", "STANDARD")
            + element("Initiated", self.multiparts[name].initiated.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
            + "</Upload>"
            for key, name in page
        ]
        return Answer(
            200,
            document(
                "ListMultipartUploadsResult",
                element("Bucket", call.bucket),
                element("KeyMarker", shown(after[0])),
                element("UploadIdMarker", after[1]),
                element("NextKeyMarker", shown(last[0])),
                element("NextUploadIdMarker", last[1]),
                element("Prefix", shown(prefix)),
                *([element("EncodingType", "url")] if encoded else []),
                element("MaxUploads", size),
                element("IsTruncated", "true" if len(left) > size else "false"),
                *uploads,
            ),
        )

    def _head(self, call: Call) -> Answer:
        answer = self._get(call)
        return replace(answer, headers={**answer.headers, "Content-Length": str(len(answer.body))}, body=b"")

    def _get(self, call: Call) -> Answer:
        stored = self.objects.get(call.key)
        if stored is None:
            return error(404, "NoSuchKey")
        return Answer(200, stored.body, {**stored.headers, "ETag": stored.etag, "Last-Modified": _date(self.now())})

    def _delete(self, call: Call) -> Answer:
        self.objects.pop(call.key, None)
        return Answer(204)

    # --- credentials: of a container, and of a role -----------------------------------------------------------------

    def _issue(self) -> tuple[Issued, dict[str, str]]:
        self._issued += 1
        issued = self.credentials(self._issued)
        self.secrets.update({issued.secret_key, issued.token})
        return issued, {
            "AccessKeyId": issued.access_key,
            "SecretAccessKey": issued.secret_key,
            "Expiration": (self.now() + issued.lives).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _container_credentials(self, call: Call) -> Answer:
        issued, told = self._issue()
        return Answer(
            200,
            json.dumps({**told, "Token": issued.token}).encode(),
            {"Content-Type": "application/json", "Connection": "close"},
        )

    def _assume_role(self, call: Call) -> Answer:
        issued, told = self._issue()
        elements = "".join(element(name, value) for name, value in {**told, "SessionToken": issued.token}.items())
        namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
        return Answer(
            200,
            f'<AssumeRoleResponse xmlns="{namespace}"><AssumeRoleResult><Credentials>{elements}</Credentials>'
            "<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>R:s</AssumedRoleId></AssumedRoleUser>"
            "</AssumeRoleResult><ResponseMetadata><RequestId>R1</RequestId></ResponseMetadata></AssumeRoleResponse>".encode(),
            {"Content-Type": "text/xml", "Connection": "close"},
        )


def _date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def operation_of(method: str, path: str, key: str, query: Mapping[str, str]) -> str:
    """What is asked for. Names are the server's own."""
    if path in {"/", "/credentials"}:
        return "assume_role" if method == "POST" else "credentials"
    of = "upload" if "uploadId" in query else "uploads" if "uploads" in query else "object" if key else ""
    return {
        ("GET", "upload"): "list_parts",
        ("POST", "upload"): "complete",
        ("PUT", "upload"): "part",
        ("DELETE", "upload"): "abort",
        ("GET", "uploads"): "list_multiparts",
        ("POST", "uploads"): "create",
        ("GET", "object"): "get",
        ("HEAD", "object"): "head",
        ("PUT", "object"): "put",
        ("DELETE", "object"): "delete",
        ("HEAD", ""): "time",
    }.get((method, of), "other")


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # head and body are written one after the other
    protocol_version = "HTTP/1.1"
    far: ScriptedS3

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def serve(self) -> None:
        far, split = self.far, urlsplit(self.path)
        _, bucket, key = unquote(split.path).split("/", 2) if split.path.count("/") > 1 else ("", split.path[1:], "")
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        operation = operation_of(self.command, split.path, key, query)
        call = Call(operation, self.command, bucket, key, query, headers, body, self)
        with far.lock:
            if operation != "time":  # nobody is meant by it, and nothing but the `Date` of whatever answer
                far.calls.append(call)
            far.in_flight[operation] += 1
            far.secrets.update(re.findall(r"Signature=([0-9a-f]{64})", f"{headers.get('authorization')} {split.query}"))
        try:
            answer = far.next_script(operation)(call)
            if answer is not None:
                self.send(answer)
        except OSError:
            self.close_connection = True  # the other end is gone: many tests are about that
        finally:
            with far.lock:
                far.in_flight[operation] -= 1

    def do_GET(self) -> None:
        self.serve()

    def do_HEAD(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    def do_OPTIONS(self) -> None:
        self.serve()

    def send(self, answer: Answer) -> None:
        self.send_head(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_head(self, answer: Answer) -> None:
        """Status and headers only."""
        given = {name.lower() for name in answer.headers}
        self.send_response_only(answer.status)
        if "date" not in given:
            self.send_header("Date", _date(self.far.now()))
        if not given & {"content-length", "transfer-encoding"} and answer.status not in {204, 304}:
            self.send_header("Content-Length", str(len(answer.body)))
        if answer.body and "content-type" not in given:
            self.send_header("Content-Type", "application/xml")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def cut(self, *, reset: bool = False) -> None:
        """End the connection here."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def is_deserted(self) -> bool:
        """Whether the other end has closed."""
        with suppress(BlockingIOError):
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    far: ScriptedS3

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self.far.lock:
            self.far.connections += 1
            self.far.open_connections += 1
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.far.lock:
                self.far.open_connections -= 1

    def shutdown_request(self, request: Any) -> None:
        """As it was told: a connection to be reset is not closed in order first."""
        lingering = struct.unpack("ii", request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
        if lingering:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that is gone is what many tests are about."""


@contextmanager
def scripted_s3() -> Iterator[ScriptedS3]:
    """One, while the block runs."""
    far = ScriptedS3()
    server = _Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"far": far}))
    server.far = far
    far.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield far
    finally:
        far.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


# --- scripts ----------------------------------------------------------------------------------------------------------


def error(status: int, code: str, message: str = "as scripted", *elements: str, **headers: str) -> Answer:
    """S3's error document, as an answer."""
    body = (
        DECLARATION
        + (
            f"<Error>{element('Code', code)}{element('Message', message)}{''.join(elements)}"
            "<RequestId>R1</RequestId><HostId>H1</HostId></Error>"
        ).encode()
    )
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def says(answer: Answer) -> Script:
    """Answer that, and do nothing."""
    return lambda call: answer


def refuses(status: int, code: str, message: str = "as scripted", *elements: str, **headers: str) -> Script:
    """Answer that error, and do nothing."""
    return says(error(status, code, message, *elements, **headers))


def then(script: Script) -> Script:
    """Do what is asked; then answer as scripted."""

    def run(call: Call) -> Answer | None:
        call.effect()
        return script(call)

    return run


def edits(edit: Callable[[Answer], Answer]) -> Script:
    """Do what is asked, and change the answer."""
    return lambda call: edit(call.effect())


def edits_body(pattern: str, text: str) -> Script:
    """Do what is asked, and change the body."""

    def edit(answer: Answer) -> Answer:
        body, changed = re.subn(pattern.encode(), text.encode(), answer.body)
        assert changed, f"{pattern!r} is not in {answer.body!r}"
        return replace(answer, body=body)

    return edits(edit)


def ignores_markers(call: Call) -> Answer:
    """List the first page, whatever comes before it."""
    query = {name: value for name, value in call.query.items() if not name.endswith("marker")}
    return replace(call, query=query).effect()


def says_nothing(call: Call) -> None:
    """Close the connection instead of answering."""
    call.handler.cut()


def resets(call: Call) -> None:
    """Reset the connection instead of answering."""
    call.handler.cut(reset=True)


def cuts_body(call: Call) -> None:
    """Do what is asked; close the connection in the middle of the answer."""
    answer = call.effect()
    call.handler.send_head(answer)
    call.handler.wfile.write(answer.body[: len(answer.body) // 2])
    call.handler.cut()


def hangs(call: Call) -> None:
    """Say nothing until the caller has gone, or the server is told to let go."""
    while not call.handler.far.let_go.wait(0.01) and not call.handler.is_deserted():
        pass
    call.handler.cut()


def hangs_in_body(call: Call) -> None:
    """Send the head of an answer, and no more."""
    answer = call.effect()
    call.handler.send_head(answer)
    hangs(call)


def drips_head(call: Call) -> None:
    """Begin the head of an answer, and send a byte of it every now and then, for ever."""
    call.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not call.handler.far.let_go.wait(0.05) and not call.handler.is_deserted():
        call.handler.wfile.write(b"a")
    call.handler.cut()


def waits(gate: threading.Event) -> Script:
    """Answer once the gate is open."""

    def run(call: Call) -> Answer:
        while not gate.wait(0.01) and not call.handler.far.let_go.is_set():
            pass
        return call.effect()

    return run


def drips(
    count: int | None, *, gap: float, declared_first: bool = True, ends_with: Callable[[Call], Answer] = Call.effect
) -> Script:
    """Answer 200 at once, send whitespace every `gap` seconds (`None`: for ever), and then the document.

    Source: S3 API, CompleteMultipartUpload: "Amazon S3 periodically sends white space characters to keep the connection from timing out".
    """

    def run(call: Call) -> None:
        handler, far = call.handler, call.handler.far
        handler.send_head(Answer(200, headers={"Transfer-Encoding": "chunked", "Content-Type": "application/xml"}))
        answer = ends_with(call)
        head, rest = (DECLARATION, answer.body.removeprefix(DECLARATION)) if declared_first else (b"\n", answer.body)
        handler.chunk(head)
        sent = 0
        while count is None or sent < count:
            if far.let_go.wait(gap) or handler.is_deserted():
                handler.cut()
                return
            handler.chunk(b" ")
            sent += 1
        handler.chunk(rest)
        handler.chunk(b"")

    return run


def floods(size: int, status: int = 200, content_type: str = "application/xml") -> Script:
    """Answer a body that large, as fast as it is taken."""

    def run(call: Call) -> None:
        handler, far = call.handler, call.handler.far
        handler.send_head(Answer(status, headers={"Content-Length": str(size), "Content-Type": content_type}))
        block = b"<!-- more of the same, and then some more of it -->" * 1_024
        far.written = 0
        while far.written < size:
            handler.wfile.write(block[: size - far.written])
            far.written += min(len(block), size - far.written)

    return run
