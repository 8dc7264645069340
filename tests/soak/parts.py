"""As many parts as S3 allows: signed, sent, listed page by page, completed, read back."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.soak.kills import downloaded
from tests.soak.service import Service, running
from tests.soak.worlds import EMBEDDED, World

BATCH = 1_000
"""Parts signed per call, and listed per page."""


def send(parts: list[dict[str, Any]], content: bytes) -> None:
    """PUT these parts, over one connection."""
    connection = http.client.HTTPConnection(urlsplit(parts[0]["url"]).netloc, timeout=60)
    for part in parts:
        body = content[part["offset"] : part["offset"] + part["length"]]
        connection.request("PUT", urlunsplit(("", "", *urlsplit(part["url"])[2:])), body, part["headers"])
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    connection.close()


def listed(service: Service, upload_id: str) -> int:
    """How many parts all pages show."""
    count = 0
    after: int | None = 0
    while after is not None:
        page = service.call("GET", f"/v1/uploads/{upload_id}/parts?after={after}&limit={BATCH}")
        count += len(page["parts"])
        after = page["next"]
    return count


def run(*, count: int = 10_000, part_size: int = 1_024, world: World = EMBEDDED) -> list[str]:
    """All of it, against one service."""
    content = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(count * part_size // 32))
    with tempfile.TemporaryDirectory() as folder, running(world.service(Path(folder))) as service:
        begun = time.monotonic()
        asked = {"filename": "many", "size": len(content), "part_size": part_size, "content_type": "video/mp4"}
        upload = service.call("POST", "/v1/uploads", asked)
        path = f"/v1/uploads/{upload['id']}"
        with ThreadPoolExecutor(4) as pool:
            batches = []
            for first in range(1, count + 1, BATCH):
                numbers = list(range(first, min(first + BATCH, count + 1)))
                batches.append(service.call("POST", f"{path}/part-urls", {"part_numbers": numbers})["parts"])
            list(pool.map(lambda parts: send(parts, content), batches))
        assert listed(service, upload["id"]) == count
        completing = time.monotonic()
        file = None
        while file is None:  # 202 while the store assembles: each call waits for up to 20 s
            file = service.call("POST", f"{path}/complete", {})["file"]
        took = time.monotonic() - completing
        assert downloaded(service, file["id"]) == hashlib.sha256(content).hexdigest(), "bytes differ"
        line = (
            f"{world.name}parts: {count} parts signed, sent, listed and completed in {time.monotonic() - begun:.0f} s "
            f"(completion alone {took:.2f} s), SHA-256 equal"
        )
        return [line]
