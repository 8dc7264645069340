"""Where a request is, whatever it came through."""

from __future__ import annotations

from typing import Any

import pytest

from uploadcore_http.edge import _placed


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
