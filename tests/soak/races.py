"""Many callers at once: 50 completions of one upload, and 200 races of complete against abort."""

from __future__ import annotations

import json
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.soak.service import Service, running

PART = 64 * 1024


def uploaded(service: Service, parts: int = 3) -> dict[str, Any]:
    """An upload whose parts are all there."""
    upload: dict[str, Any] = service.call(
        "POST",
        "/v1/uploads",
        {"filename": "raced.bin", "size": parts * PART, "part_size": PART, "sign": parts, "content_type": "video/mp4"},
    )
    for part in upload["parts"]:
        request = urllib.request.Request(part["url"], data=bytes(part["length"]), headers=part["headers"], method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass
    return upload


def answered(service: Service, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON of a request, refused or not."""
    try:
        answer = service.call(method, path, body)
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read() or b"null")
    return 200, answer


def complete_together(service: Service, callers: int) -> str:
    """Complete one upload by many callers at once."""
    upload = uploaded(service)
    barrier = threading.Barrier(callers)

    def complete(_: int) -> tuple[int, str]:
        barrier.wait()
        status, answer = answered(service, "POST", f"/v1/uploads/{upload['id']}/complete", {})
        return status, json.dumps(answer, sort_keys=True)

    with ThreadPoolExecutor(callers) as pool:
        answers = Counter(pool.map(complete, range(callers)))
    assert len(answers) == 1, f"{len(answers)} different answers"
    (status, _), count = answers.most_common(1)[0]
    assert status == 200
    return f"complete_together: {callers} callers, {count} equal answers of status {status}"


def complete_against_abort(service: Service, races: int) -> str:
    """Race one complete against one abort, again and again."""
    won: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(races):
            upload = uploaded(service, parts=1 + len(won) % 2)
            path = f"/v1/uploads/{upload['id']}"
            barrier = threading.Barrier(2)

            def race(method: str, path: str, barrier: threading.Barrier = barrier) -> int:
                barrier.wait()
                return answered(service, method, path, {} if method == "POST" else None)[0]

            completing = pool.submit(race, "POST", f"{path}/complete")
            aborting = pool.submit(race, "DELETE", path)
            statuses = completing.result(), aborting.result()
            state = service.call("GET", path)["state"]
            assert (statuses, state) in {((200, 409), "completed"), ((409, 200), "aborted")}, (statuses, state)
            won[state] += 1
    return f"complete_against_abort: {races} races, {won['completed']} completed, {won['aborted']} aborted, one winner each"


def run(*, callers: int = 50, races: int = 200) -> list[str]:
    """All of it, against one service."""
    with tempfile.TemporaryDirectory() as folder, running(Service(Path(folder))) as service:
        return [complete_together(service, callers), complete_against_abort(service, races)]
