"""Importing the package without what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["redis", "cachetools"])
def test_without_its_packages_the_import_names_the_extra_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import uploadcore_redis"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: uploadcore_redis needs packages that are not installed: pip install 'uploadcore[redis]'"
    )
