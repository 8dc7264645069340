"""Names and keys made to break out: of a folder, a header, a page or a reader's eye. Over the API, and on the signed URLs of the filesystem store."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from email.message import Message
from email.utils import collapse_rfc2231_value
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.http.service import BASE, KEY, PEER, bearer
from uploadcore import UploadCore
from uploadcore.upload import Upload
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_http import JwtAuthenticator, SharedKey, create_asgi
from uploadcore_memory import MemoryDatabase

HOSTILE = {
    "up and out": "../../etc/passwd",
    "up and out of Windows": "..\\..\\windows\\win.ini",
    "up, percent-encoded": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "absolute": "/etc/passwd",
    "a drive": "C:\\a.txt",
    "a network share": "\\\\evil.example\\share",
    "here": ".",
    "above": "..",
    "slashes": "///",
    "hidden": ".htaccess",
    "a device": "CON",
    "a stream": "a.txt::$DATA",
    "a quote": 'a"; filename="b.exe',
    "parameters": "a; filename*=UTF-8''b.exe",
    "an encoded word": "=?utf-8?q?a?=",
    "an encoded line end": "a%0d%0aset-cookie: b=c",
    "U+0000, percent-encoded": "a%00.png",
    "turned around": "photo\u202egpj.exe",
    "isolated": "photo\u2066gpj.exe\u2069",
    "a line separator": "a\u2028b",
    "a C1 control": "a\x85b\x9b2J",
    "markup": "<img src=x onerror=alert(1)>.svg",
    "a command": "$(reboot)`reboot`|reboot;&.sh",
    "an option": "-rf",
    "a formula": "=cmd|' /C calc'!A0",
    "another script": "отчёт 报告 🎬.mp4",
    "as long as may be, four bytes each": "🎬" * 255,
    "invisible": "\u200b\ufeff",
}
REFUSED = {
    "none": "",
    "U+0000": "a\x00b",
    "CR LF": "a\r\nset-cookie: b=c",
    "an escape": "a\x1b[2J",
    "DEL": "a\x7f",
    "256 characters": "a" * 256,
    "4 KB": "a" * 4_096,
    "4 KB of folders": "a/" * 2_048,
}


class Filesystem:
    """The service on the filesystem store, and a client of an owner's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = FilesystemObjectStore(root / "store", public_url=BASE)
        self.database = MemoryDatabase()
        self.core = UploadCore(store=self.store, database=self.database)
        authenticate = JwtAuthenticator(SharedKey(KEY), audience="uploadcore", issuer="uploadcore")
        self.app: Any = create_asgi(self.core, authenticate=authenticate)
        transport = httpx.ASGITransport(self.app, client=PEER)
        self.api = httpx.AsyncClient(transport=transport, base_url=BASE, headers=bearer())
        self.stranger = httpx.AsyncClient(transport=transport, base_url=BASE)

    async def uploaded(self, body: bytes = b"abc", **asked: Any) -> str:
        """The id of a new file."""
        whole = {"size": len(body), "sign": 1, "filename": "a", **asked}
        answer = await self.api.post("/v1/uploads", json=whole)
        assert answer.status_code == 201, answer.text
        upload = answer.json()
        [part] = upload["parts"]
        sent = await self.stranger.request(part["method"], part["url"], headers=part["headers"], content=body)
        assert sent.status_code == 200, sent.text
        completed = await self.api.post(f"/v1/uploads/{upload['id']}/complete")
        assert completed.status_code == 200, completed.text
        file_id: str = completed.json()["file"]["id"]
        return file_id

    async def location(self, file_id: str) -> str:
        """The signed URL of its content."""
        answer = await self.api.get(f"/v1/files/{file_id}/content")
        assert answer.status_code == 307
        return answer.headers["location"]

    def files_outside(self) -> set[Path]:
        """What lies anywhere but in the store's folder."""
        return {path for path in self.root.rglob("*") if path.is_file() and self.root / "store" not in path.parents}


@pytest.fixture
async def filesystem(tmp_path: Path) -> AsyncIterator[Filesystem]:
    made = Filesystem(tmp_path)
    async with made.core, made.api, made.stranger:
        yield made


def offered_name(headers: Mapping[str, str]) -> str:
    """What a browser would call the download, which must be one."""
    disposition = Message()
    disposition["content-disposition"] = headers["content-disposition"]
    assert disposition.get_content_disposition() == "attachment"
    assert [name for name, _ in disposition.get_params(header="content-disposition") or []][1:] == ["filename"]
    return collapse_rfc2231_value(disposition.get_param("filename", header="content-disposition") or "")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_name_is_kept_as_text_and_comes_back_as_a_harmless_attachment(
    filesystem: Filesystem, name: str
) -> None:
    file_id = await filesystem.uploaded(filename=name, title=name, metadata={"k": name[:200]}, fingerprint=name[:50])

    shown = (await filesystem.api.get(f"/v1/files/{file_id}")).json()
    answer = await filesystem.stranger.get(await filesystem.location(file_id))

    assert (shown["name"], shown["title"]) == (name, name)
    [upload] = filesystem.database.uploads.values()
    assert isinstance(upload, Upload)
    assert re.fullmatch(r"uploads/[0-9a-f-]+/[0-9a-f]{16}/[0-9a-f-]+", upload.address.key)
    assert filesystem.files_outside() == set()
    assert (answer.status_code, answer.content) == (200, b"abc")
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", offered_name(answer.headers))
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED.keys())
async def test_a_name_that_can_not_be_one_is_refused_everywhere(filesystem: Filesystem, name: str) -> None:
    file_id = await filesystem.uploaded()

    initiated = await filesystem.api.post("/v1/uploads", json={"filename": name, "size": 1})
    renamed = await filesystem.api.patch(f"/v1/files/{file_id}", json={"name": name})

    for answer in (initiated, renamed):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_every_store_is_given_a_name_that_reads_as_what_it_is(filesystem: Filesystem) -> None:
    # S3 answers with the name it was given; so what misleads must be gone before a URL is signed.
    file_id = await filesystem.uploaded(filename="photo\u202egpj.exe")
    given: list[str] = []
    presign_get = filesystem.store.presign_get

    async def recording(address: Any, *, filename: str, **more: Any) -> Any:
        given.append(filename)
        return await presign_get(address, filename=filename, **more)

    filesystem.store.presign_get = recording  # type: ignore[method-assign]
    await filesystem.location(file_id)

    assert given == ["photo_gpj.exe"]


PAGES = [
    "text/html",
    "TEXT/HTML",
    "text/html; charset=utf-7",
    "image/svg+xml",
    "application/xhtml+xml",
    "application/xml",
    "text/xml",
    "application/pdf",
    "text/javascript",
    "multipart/x-mixed-replace; boundary=x",
    "message/rfc822",
]


@pytest.mark.parametrize("content_type", PAGES)
@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"sec-fetch-dest": "iframe"}])
async def test_what_a_browser_would_run_is_never_shown_inline(
    filesystem: Filesystem, content_type: str, headers: dict[str, str]
) -> None:
    body = b"<script>alert(1)</script>"
    file_id = await filesystem.uploaded(body, filename="page.html", content_type=content_type)
    url = await filesystem.location(file_id)

    for method in ("GET", "HEAD"):
        answer = await filesystem.stranger.request(method, url, headers=headers)

        assert answer.status_code in {200, 206}
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


def encoded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


KEYS = {
    "the key in the clear": "{key}",
    "up and out": "../../../../etc/passwd",
    "up and out, percent-encoded": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "up and out, encoded twice": "%252e%252e%252fetc%252fpasswd",
    "up and out, base64url": encoded("../../../../etc/passwd"),
    "the signing key": encoded("../signing.key"),
    "U+0000": "{encoded}%00",
    "U+202E": "%E2%80%AE{encoded}",
    "padded": "{encoded}==",
    "a dot": "./{encoded}",
    "two slashes": "/{encoded}",
    "parameters": "{encoded};a=b",
    "a bit that does not count": "{flipped}",
    "another alphabet": "{encoded}+/",
    "4 KB": "a" * 4_096,
    "a key of 4 KB": encoded("a" * 4_096),
    "nothing": "",
    "another bucket": "../other/{encoded}",
    "half a character": "%ed%a0%80",
}


async def test_a_signed_url_opens_nothing_under_any_other_spelling_of_its_key(filesystem: Filesystem) -> None:
    url = urlsplit(await filesystem.location(await filesystem.uploaded()))
    own = url.path.rpartition("/")[2]
    clear = base64.urlsafe_b64decode(own + "=" * (-len(own) % 4)).decode()
    names = {"key": clear, "encoded": own, "flipped": own[:-1] + ("B" if own[-1] == "A" else "A")}
    opened: list[str] = []
    find = filesystem.store.find

    async def recording(key: str) -> Any:
        opened.append(key)
        return await find(key)

    filesystem.store.find = recording  # type: ignore[method-assign]
    for kind, key in KEYS.items():
        for method in ("GET", "HEAD", "PUT"):
            status = await raw(filesystem.app, method, f"/data/files/{key.format(**names)}", url.query)

            assert (status in {403, 404}, opened) == (True, []), (kind, method, status)
    assert await raw(filesystem.app, "GET", url.path, url.query) == 200
    assert opened == [clear]


async def raw(app: Any, method: str, target: str, query: str) -> int:
    """The status of a request with exactly this path, decoded as a server does, which httpx would tidy up."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": method,
        "path": httpx.URL(f"http://x{target}").path if target.isascii() and "%" in target else target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1:8484"), (b"content-length", b"0")],
        "client": PEER,
        "server": ("127.0.0.1", 8484),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    await app(scope, receive, send)
    return statuses[0]


async def test_without_a_signature_there_is_nothing_at_the_data_endpoint(filesystem: Filesystem) -> None:
    url = urlsplit(await filesystem.location(await filesystem.uploaded()))

    for query in ("", "signature=", "&signature=" + "0" * 64, "a=b" + "&a=b" * 9_000, "%00", "=&=&="):
        for method in ("GET", "HEAD", "PUT"):
            assert await raw(filesystem.app, method, url.path, query) == 403
        for method in ("POST", "DELETE", "PATCH", "TRACE", "PROPFIND"):
            assert await raw(filesystem.app, method, url.path, query) == 405
