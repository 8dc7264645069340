"""Without the extra, importing the service says which one to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Hidden())
import {package}
"""


@pytest.mark.parametrize(
    ("package", "missing"),
    [
        ("uploadcore_app", "pydantic_settings"),
        ("uploadcore_app", "dependency_injector"),
        ("uploadcore_http", "litestar"),
        ("uploadcore_http", "msgspec"),
        ("uploadcore_http", "jwt"),
        ("uploadcore_http", "cachetools"),
        ("uploadcore_http", "starlette"),
        ("uploadcore_http", "prometheus_client"),
        ("uploadcore_http.server", "uvicorn"),
        ("uploadcore_http.server", "uvloop"),
    ],
)
def test_a_missing_package_names_the_extra_that_brings_it(package: str, missing: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HIDE.format(package=package, missing=missing)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install 'uploadcore[server]'" in last
