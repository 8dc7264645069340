"""Either SDK does without the other; what is missing is told by the extra to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = """
import sys
from importlib.abc import MetaPathFinder
class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r} and not name.startswith("uploadcore"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
{code}
"""


def run(names: set[str], code: str) -> subprocess.CompletedProcess[str]:
    script = HIDE.format(names=names, code=code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("hidden", "name", "other", "extra"),
    [
        ({"boto3", "botocore"}, "s3_from_url", "minio_from_url", "uploadcore[s3]"),
        ({"minio"}, "minio_from_url", "s3_from_url", "uploadcore[minio]"),
    ],
)
def test_each_sdk_does_without_the_other(hidden: set[str], name: str, other: str, extra: str) -> None:
    assert run(hidden, f"from uploadcore_s3 import {other}").returncode == 0

    refused = run(hidden, f"from uploadcore_s3 import {name}")

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("ImportError: ")
    assert extra in refused.stderr


def test_without_any_package_the_extra_is_named() -> None:
    nothing = {"boto3", "botocore", "minio", "certifi", "stamina", "tenacity", "urllib3"}
    for name, extra in (("S3ObjectStore", "uploadcore[s3]"), ("MinioObjectStore", "uploadcore[minio]")):
        refused = run(nothing, f"from uploadcore_s3 import {name}")
        assert "ImportError: " in refused.stderr
        assert extra in refused.stderr
    assert run(nothing, "import uploadcore_s3").returncode == 0


def test_importing_the_package_imports_no_sdk() -> None:
    code = "import uploadcore_s3, sys; print(sorted({'boto3', 'minio', 'stamina', 'urllib3'} & set(sys.modules)))"

    assert run(set(), code).stdout.strip() == "[]"
