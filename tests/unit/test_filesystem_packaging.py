"""What is said when the extra was not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("missing", "imported"), [("awscrt", "uploadcore_filesystem"), ("starlette", "uploadcore_http.data")]
)
def test_a_missing_package_is_told_with_the_extra_to_install(missing: str, imported: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import {imported}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'uploadcore[server]'" in done.stderr.splitlines()[-1]
    assert "The above exception was the direct cause" in done.stderr
