"""Where a request is, whatever it came through, and which ones need nobody to have sent them."""

from __future__ import annotations

from typing import Any

import pytest

from uploadcore_http.edge import Edge, _placed
from uploadcore_http.lifecycle import Lifecycle
from uploadcore_http.metrics import Metrics


def scope(path: str, *, root: str = "", raw: str | None = None) -> dict[str, Any]:
    return {"path": path, "root_path": root, "raw_path": (raw or path).encode()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (scope("/v1/uploads"), ("", "/v1/uploads")),
        (scope("/v1/uploads/"), ("", "/v1/uploads")),
        (scope("/"), ("", "/")),
        # a server behind a proxy that strips, and Starlette or FastAPI: the path is whole
        (scope("/api/v1/uploads", root="/api"), ("/api", "/v1/uploads")),
        (scope("/api", root="/api"), ("/api", "/")),
        (scope("/apiary/v1", root="/api"), ("/api", "/apiary/v1")),
        (scope("/v1/uploads", root="/api/"), ("/api", "/v1/uploads")),
        # Litestar: the path is stripped, and nothing says so but the raw path
        (scope("/v1/uploads/", raw="/api/v1/uploads"), ("/api", "/v1/uploads")),
        (scope("/v1/uploads/x/", raw="/a/b/v1/uploads/x?y"), ("", "/v1/uploads/x")),
        (scope("/v1/uploads/ä/", raw="/api/v1/uploads/%C3%A4"), ("/api", "/v1/uploads/ä")),
        (scope("/v1/uploads/ä", raw="/v1/uploads/%C3%A4"), ("", "/v1/uploads/ä")),
        ({"path": "/v1/uploads"}, ("", "/v1/uploads")),
    ],
)
def test_a_path_is_taken_apart_into_the_mount_and_the_rest(given: dict[str, Any], expected: tuple[str, str]) -> None:
    assert _placed(given) == expected


TOKEN = (b"authorization", b"Bearer x")


@pytest.mark.parametrize(
    ("method", "path", "headers", "passes"),
    [
        ("GET", "/v1/files/x", [], True),
        ("HEAD", "/v1/files/x", [], True),
        ("GET", "/v1/files/x/", [], True),
        ("GET", "/v1/files/x/content", [], True),
        ("HEAD", "/v1/files/x/content", [], True),
        ("GET", "/health/live", [], True),
        ("GET", "/health/live", [TOKEN], True),
        ("GET", "/v1/files/x", [TOKEN], False),
        ("GET", "/v1/files/x", [(b"authorization", b"")], False),
        ("PATCH", "/v1/files/x", [], False),
        ("DELETE", "/v1/files/x", [], False),
        ("POST", "/v1/files/x", [], False),
        ("PUT", "/v1/files/x/content", [], False),
        ("GET", "/v1/files", [], False),
        ("GET", "/v1/files/", [], False),
        ("GET", "/v1/files/x/contents", [], False),
        ("GET", "/v1/files/x/content/y", [], False),
        ("GET", "/v1/files/x/parts", [], False),
        ("GET", "/v1/files/a.b", [], False),
        ("GET", "/v1/files/x\n", [], False),
        ("GET", "/v1/files/" + "x" * 65, [], False),
        ("GET", "/v1/uploads/x", [], False),
        ("GET", "/v1/uploads/v1/files/x", [], False),
    ],
)
async def test_of_what_needs_a_principal_nothing_passes_without_one(
    method: str, path: str, headers: list[tuple[bytes, bytes]], passes: bool
) -> None:
    passed, statuses = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["path"])

    async def nobody(scope: Any) -> None:
        return None

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    edge = Edge(app, authenticate=nobody, lifecycle=Lifecycle(is_started=True), metrics=Metrics())
    await edge({**scope(path), "type": "http", "method": method, "headers": headers, "query_string": b""}, None, send)  # type: ignore[arg-type]

    assert bool(passed) is passes
    assert statuses == ([] if passes else [401])
